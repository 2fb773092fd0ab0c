"""What every data set offers, whatever its files look like."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from examples.sdgan.data.drawn import Drawn

_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class DataError(ValueError):
    """The data is not as it must be; the message names the file and the reason."""

    def __init__(self, message: str) -> None:
        # A terminal obeys control characters, and file names may hold them.
        super().__init__(_UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], message))


class ImageSource(Protocol):
    """Images by index."""

    def __len__(self) -> int: ...

    def load(self, indices: list[int], size: int, rng: torch.Generator | None) -> Tensor:
        """uint8 (N, 3, size, size); with ``rng`` randomly cropped and flipped."""
        ...


@dataclass(frozen=True)
class CaptionedImages:
    """Images and their captions.

    Args:
        name: for messages.
        images: where the pictures come from.
        captions: of each image, at least one.
        classes: (N,) int64, or ``None``.
        labels: (N, A) int64, attribute labels where they are known exactly, or ``None``.
        named: of each caption, the attributes that it names, where labels are known.
        drawn: how they were drawn, or ``None``: photographs.
        notes: what a person should know of how the files were read, a line each.
    """

    name: str
    images: ImageSource
    captions: list[list[str]]
    classes: Tensor | None = None
    labels: Tensor | None = None
    named: list[list[list[str]]] | None = None
    drawn: Drawn | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)

    def fingerprint(self) -> dict[str, Any]:
        """What the images and captions are, in their order, wherever they lie: equal for equal data."""
        classes = None if self.classes is None else self.classes.tolist()
        # Drawn images follow from the options; to the last bit, they are those of one kind of machine.
        content = getattr(self.images, "content", {})
        return {"images": len(self), "captions": digest(self.captions), "classes": digest(classes), **content}

    def paired(self) -> int:
        """How many images have two different captions, of which a Siamese pair of one image is made."""
        return sum(len(set(captions)) > 1 for captions in self.captions)

    def load_all(self, size: int) -> Tensor:
        """Every image, uint8 (N, 3, size, size)."""
        loaded = torch.empty(len(self), 3, size, size, dtype=torch.uint8)
        for part in torch.arange(len(self)).split(100):
            loaded[part] = self.images.load(part.tolist(), size, None)
        return loaded

    def spread(self, count: int, paraphrased: bool = False) -> list[int]:
        """Up to ``count`` images, evenly apart: data sets are sorted by class, and the first would be of a few.

        With ``paraphrased`` only of the images that have two different captions.
        """
        found = [i for i in range(len(self)) if not paraphrased or len(set(self.captions[i])) > 1]
        count = min(count, len(found))
        return [found[k * len(found) // count] for k in range(count)]


def digest(value: Any) -> str:
    """A short text for a value of lists, numbers and text: another one for another value."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def to_float(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]; what is no uint8 stays as it is."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] to the nearest uint8; what is uint8 stays as it is."""
    return images if images.dtype == torch.uint8 else ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
