"""Anybody's images with captions: a table beside them (``imagefolder``), or a text file for each."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from torch import Tensor

from examples.sdgan.data import metadata
from examples.sdgan.data.classes import LEAST, apart, classes_of
from examples.sdgan.data.dataset import CaptionedImages, DataError
from examples.sdgan.data.files import ImageFiles
from examples.sdgan.data.lookup import IMAGE_ENDINGS, Folder
from examples.sdgan.data.notes import about_captions, refuse_one_file
from examples.sdgan.data.reading import read_lines
from examples.sdgan.data.vocabulary import clean, tokenize

Classes = Literal["none", "label", "folders"]
_SPLITS = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "eval": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
}  # fmt: skip
_HELD_OUT = 0.1
_LAYOUTS = (
    "a table of the images (metadata.csv, .jsonl or .parquet with file_name and text), or NAME.txt with a caption a line "
    "beside each NAME.jpg"
)


@dataclass
class _Image:
    """What is known of an image: from how many rows or lines it comes does not matter."""

    path: Path
    name: str
    captions: list[str] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)


def folder(
    root: Path, split: str, size: int, progress=lambda done: None, classes: Classes = "none"
) -> CaptionedImages:
    """The images of a split.

    Captions are in ``metadata.csv``, ``.jsonl`` or ``.parquet`` of ``root`` or of its folders ``train``, ``test`` and
    ``val`` (``file_name`` relative to the table; ``text``, ``caption`` or ``captions``; a row an image or a row a
    caption), else in ``NAME.txt`` beside each image. The split is the table's column ``split``, or the folder; where
    there is neither, a tenth of the images is held out, chosen by a hash of the name.

    Args:
        root: of the data set.
        split: ``"train"`` or ``"test"``.
        size: pixels that will be asked for.
        progress: called with the number of images checked so far.
        classes: of the column ``label``, of the folders, or none: DAMSM then leaves out nothing but captions of the same image.

    Raises:
        DataError: something is missing or unreadable; the message names it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --root must hold {_LAYOUTS}")
    found, notes = _found(root)
    every = sorted(found.values(), key=lambda image: image.name)
    refuse_one_file(root, [image.name for image in every], [image.path for image in every])
    chosen, told = _split(root, every, split)
    if split == "train":
        notes += told
    if not chosen:
        return CaptionedImages(f"{root.name} ({split})", ImageFiles([], size), [])
    captions = [image.captions for image in chosen]
    notes += about_captions(f"{root.name} ({split})", captions)
    numbers, why = _classes(chosen, classes)
    notes += [f"{root.name} ({split}): {why}"] if why else []
    images = ImageFiles([image.path for image in chosen], size, None, progress)
    return CaptionedImages(f"{root.name} ({split})", images, captions, numbers, notes=tuple(notes))


def _found(root: Path) -> tuple[dict[Path, _Image], list[str]]:
    """Every image that has a caption, by its file, and what was left out."""
    tables = [path for place in (root, *_split_folders(root)) if (path := metadata.table_of(place)) is not None]
    files = Folder(root, IMAGE_ENDINGS).files()
    if not files:
        raise DataError(f"{root}: holds no image ({', '.join(IMAGE_ENDINGS)}); expected {_LAYOUTS}")
    found = _of_tables(root, tables) if tables else _beside(root, files)
    silent = [path for path in files if path not in found]
    if not found:
        raise DataError(f"{root}: {len(files):,} images, and no caption for any; expected {_LAYOUTS}")
    notes = []
    if silent:
        where = ", ".join(str(path.relative_to(root)) for path in tables) if tables else "a text file beside them"
        notes.append(
            f"{root.name}: left out {len(silent):,} of {len(files):,} images without a caption in {where}, such as "
            f"{silent[0].relative_to(root)}"
        )
    return found, notes


def _split_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name.lower() in _SPLITS)


def _of_tables(root: Path, tables: Sequence[Path]) -> dict[Path, _Image]:
    found: dict[Path, _Image] = {}
    for table in tables:
        images = Folder(table.parent, IMAGE_ENDINGS)
        for row in metadata.rows(table):
            path = images.find(row.file, table)
            if path is None:
                named = table.parent / row.file
                why = (
                    f"not of a kind that is read ({', '.join(IMAGE_ENDINGS)})" if named.is_file() else "not there"
                )
                raise DataError(f"{row.where}: {named} is {why}; {metadata.FILE} is relative to the table")
            image = found.setdefault(path, _Image(path, path.relative_to(root).as_posix()))
            _refuse_another(row, path)
            image.captions += [clean(text) for text in row.captions if tokenize(text)]
            if row.label is not None:
                image.labels.add(row.label)
            if row.split is not None:
                if row.split.lower() not in _SPLITS:
                    raise DataError(
                        f"{row.where}: split must be one of {', '.join(sorted(_SPLITS))}, got {row.split!r}"
                    )
                image.splits.add(_SPLITS[row.split.lower()])
            if len(image.splits) > 1:
                raise DataError(
                    f"{row.where}: {row.file} is in several splits, {' and '.join(sorted(image.splits))}"
                )
    return {path: image for path, image in found.items() if image.captions}


def _refuse_another(row: metadata.Row, path: Path) -> None:
    """A table names files as they are: another ending is another picture."""
    wanted = PurePosixPath(row.file.replace("\\", "/")).suffix.lower()
    if wanted in IMAGE_ENDINGS and wanted != path.suffix.lower():
        raise DataError(f"{row.where}: {row.file} is not there; there is {path.name}")


def _beside(root: Path, files: Sequence[Path]) -> dict[Path, _Image]:
    found: dict[Path, _Image] = {}
    texts: dict[Path, Path] = {}
    beside = Folder(root, (".txt",))
    for path in files:
        text = beside.find(str(path.relative_to(root).with_suffix("")), root)
        if text is None:
            continue
        if text in texts:
            raise DataError(f"{text}: is beside {texts[text].name} and {path.name}; whose captions are these?")
        texts[text] = path
        lines = [clean(line) for line in read_lines(text) if tokenize(line)]
        if lines:
            found[path] = _Image(path, path.relative_to(root).as_posix(), lines)
    return found


def _split(root: Path, images: list[_Image], split: str) -> tuple[list[_Image], list[str]]:
    """The images of a split, and how it came about."""
    for image in images:
        first = PurePosixPath(image.name).parts[0].lower()
        if not image.splits and "/" in image.name and first in _SPLITS:
            image.splits.add(_SPLITS[first])
    without = [image for image in images if not image.splits]
    if without and len(without) < len(images):
        raise DataError(
            f"{root}: {len(without):,} of {len(images):,} images are in no split, such as {without[0].name}; give each one, or none"
        )
    if without:
        held_out = _by_hash(images)
        if len(images) - len(held_out) < 2:
            raise DataError(
                f"{root}: {len(images):,} images with captions, of which {len(held_out):,} would be held out; training needs 2 at "
                "least beside these: add images"
            )
        chosen = [image for image in images if (image.name in held_out) == (split == "test")]
        return chosen, [
            f"{root.name}: no split is given, so {len(held_out):,} of {len(images):,} images are held out, by a hash of their names"
        ]
    present = {name for image in images for name in image.splits}
    # With both, "test" is what is looked at; "val" was chosen by somebody for choosing.
    held = "test" if "test" in present else "val"
    wanted = "train" if split == "train" else held
    unused = sum(image.splits == {"val"} for image in images) if held == "test" else 0
    notes = [f"{root.name}: {unused:,} images of the validation split are not used"] if unused else []
    return [image for image in images if image.splits == {wanted}], notes


def _by_hash(images: list[_Image]) -> set[str]:
    """Names of about a tenth, one at least: an image stays where it is when others come."""
    shares = {
        i.name: int.from_bytes(hashlib.blake2b(os.fsencode(i.name), digest_size=4).digest(), "big") / 2**32
        for i in images
    }
    chosen = {name for name, share in shares.items() if share < _HELD_OUT}
    return chosen or {min(shares, key=lambda name: shares[name])}


def _classes(images: list[_Image], wanted: Classes) -> tuple[Tensor | None, str]:
    if wanted == "none":
        return None, ""
    if wanted == "folders":
        numbers, why = classes_of([image.name for image in images])
        return numbers, why or f"{int(numbers.max()) + 1:,} classes, which are the folders of the images"  # pyright: ignore[reportOptionalMemberAccess]
    labels: list[str] = []
    for image in images:
        if len(image.labels) != 1:
            what = "several labels" if image.labels else "no label"
            raise DataError(
                f"{image.path}: has {what}; --classes label needs one for each image, in the column 'label'"
            )
        labels += image.labels
    counts = Counter(labels)
    if apart(counts) < LEAST:
        most, count = counts.most_common(1)[0]
        return (
            None,
            f"no classes: {count:,} of {len(labels):,} images have the label {most!r}; trained without them",
        )
    known = {label: i for i, label in enumerate(sorted(counts))}
    return torch.tensor([known[label] for label in labels]), f"{len(known):,} classes, of the column label"
