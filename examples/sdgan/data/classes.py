"""Classes from folders, where folders are classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import torch
from torch import Tensor

LEAST = 0.1
"""Share of the pairs of images that must be of two classes: DAMSM leaves out the others, and needs negatives."""
_SPLITS = (("train",), ("val",), ("test",))


def apart(counts: Counter[str]) -> float:
    """The share of the pairs of images that are of two classes, of how many images each has."""
    return 1 - sum((count / counts.total()) ** 2 for count in counts.values())


def classes_of(names: Sequence[str]) -> tuple[Tensor | None, str]:
    """A class for each image, by the folder it lies in; or ``None`` and why not, where folders are no classes.

    DAMSM takes captions of an image's class for right and learns from the others: of one class it learns nothing. A
    class of one image each would be learnt by the image encoder, which means by heart.

    Args:
        names: below the folder of images, with ``/`` between folders.
    """
    parts = [PurePosixPath(name).parts[:-1] for name in names]
    common = 0
    while all(part[common : common + 1] == parts[0][common : common + 1] != () for part in parts):
        common += 1
    if parts[0] and all(part == parts[0] for part in parts):
        return None, f"no classes: all {len(names):,} images are in one folder ({'/'.join(parts[0])})"
    # Folders that all are in, such as birds/CLASS/NAME, tell nothing; a split's tells no class, which has both.
    inner = [part[common + (part[common : common + 1] in _SPLITS) :] for part in parts]
    folders = ["/".join(part) for part in inner if part]
    if len(folders) < len(names):
        return (
            None,
            f"no classes: {len(names) - len(folders):,} of {len(names):,} images lie in no folder of a class",
        )
    counts = Counter(folders)
    if len(counts) == len(names):
        return None, f"no classes: each of the {len(names):,} images has a folder of its own"
    if apart(counts) < LEAST:
        most, count = counts.most_common(1)[0]
        return None, f"no classes: {count:,} of {len(names):,} images are in one folder ({most})"
    numbers = {folder: i for i, folder in enumerate(sorted(counts))}
    return torch.tensor([numbers[folder] for folder in folders]), ""
