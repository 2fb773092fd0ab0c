"""CUB-200-2011 with the captions of Reed et al., in its own layout or in AttnGAN's."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from examples.sdgan.data.dataset import CaptionedImages, DataError
from examples.sdgan.data.files import Box, ImageFiles
from examples.sdgan.data.pickles import read_plain_pickle
from examples.sdgan.data.reading import duplicate, inside, is_file, read_lines
from examples.sdgan.vocabulary import clean, tokenize

_IMAGE_FOLDERS = ("images", "CUB_200_2011/images")
_TEXT_FOLDERS = ("text", "text_c10")
_SUFFIXES = (".jpg", ".jpeg", ".png")
LETTERS = 1 << 27
"""Of all captions of a pickle; CUB's have a tenth."""


def cub(root: Path, split: str, size: int, progress=lambda done: None) -> CaptionedImages:
    """The birds of a split.

    Looks for ``images/CLASS/NAME.jpg`` (or ``CUB_200_2011/images/...``), for captions in
    ``text/CLASS/NAME.txt`` (or ``text_c10/...``), one a line, or else in AttnGAN's ``captions.pickle``, for the split
    in ``SPLIT/filenames.txt`` or ``SPLIT/filenames.pickle``, and for ``bounding_boxes.txt``. Without split files
    every image is a training image.

    Raises:
        DataError: something is missing or unreadable; the message names it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --root must be the CUB-200-2011 folder")
    images = _first(root, _IMAGE_FOLDERS, "the folder of images")
    names = _names(root, images, split)
    if not names:
        return CaptionedImages(f"CUB ({split})", ImageFiles([], size), [])
    paths = [_image(images, name, root / split) for name in names]
    captions = _captions(root, split, names)
    boxes = _boxes(images.parent if is_file(images.parent / "bounding_boxes.txt") else root, names)
    folders = [os.path.normpath(name).split(os.sep)[0] for name in names]
    numbers = {folder: i for i, folder in enumerate(sorted(set(folders)))}
    classes = torch.tensor([numbers[folder] for folder in folders])
    return CaptionedImages(f"CUB ({split})", ImageFiles(paths, size, boxes, progress), captions, classes)


def _first(root: Path, folders: tuple[str, ...], what: str) -> Path:
    for folder in folders:
        if (root / folder).is_dir():
            return root / folder
    raise DataError(f"{root}: {what} is missing; looked for {', '.join(folders)}")


def _names(root: Path, images: Path, split: str) -> list[str]:
    """CLASS/NAME of every image of the split."""
    text, pickled = root / split / "filenames.txt", root / split / "filenames.pickle"
    if is_file(text):
        names, source = read_lines(text), text
    elif is_file(pickled):
        names, source = read_plain_pickle(pickled), pickled
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{pickled}: must hold a list of image names")
    elif split == "train":
        names, source = _every_image(root, images), images
    else:
        return []
    if not names:
        raise DataError(f"{source}: names no image")
    twice = duplicate(names)
    if twice is not None:
        # Two of one image would be taken for a pair of different ones.
        raise DataError(f"{source}: names {twice!r} twice; each image may be in a split once")
    return names


def _every_image(root: Path, images: Path) -> list[str]:
    """Without split files: all there are, each with captions and the other way round."""
    folder = _text_folder(root)
    if folder is None:
        raise DataError(
            f"{root / 'train'}: filenames.txt or .pickle is missing; captions.pickle goes by its order"
        )
    files = [path for path in images.glob("*/*") if path.suffix.lower() in _SUFFIXES]
    names = sorted(str(path.relative_to(images).with_suffix("")) for path in files)
    for path in sorted(folder.glob("*/*.txt")):
        if str(path.relative_to(folder).with_suffix("")) not in set(names):
            raise DataError(f"{path}: captions without an image in {images}")
    return names


def _image(images: Path, name: str, where: Path) -> Path:
    path = inside(images, name + ".jpg", where)
    if is_file(path):
        return path
    for other in path.parent.glob("*") if path.parent.is_dir() else ():
        if other.stem == path.stem and other.suffix.lower() in _SUFFIXES and is_file(other):
            return other
    raise DataError(f"{path}: captions without an image ({where} names it)")


def _text_folder(root: Path) -> Path | None:
    return next((root / f for f in _TEXT_FOLDERS if (root / f).is_dir()), None)


def _captions(root: Path, split: str, names: list[str]) -> list[list[str]]:
    folder = _text_folder(root)
    if folder is None:
        return _pickled_captions(root, split, len(names))
    captions = []
    for name in names:
        path = inside(folder, name + ".txt", root / split)
        if not is_file(path):
            raise DataError(f"{path}: an image without captions ({name} is in the {split} split)")
        lines = [clean(line) for line in read_lines(path) if tokenize(line)]
        if not lines:
            raise DataError(f"{path}: holds no caption")
        captions.append(lines)
    return captions


def _pickled_captions(root: Path, split: str, images: int) -> list[list[str]]:
    """AttnGAN's captions: [train, test, index to word, word to index], the same number for each image, in order."""
    path = root / "captions.pickle"
    if not is_file(path):
        raise DataError(f"{root}: captions are missing; looked for {', '.join(_TEXT_FOLDERS)} and captions.pickle")
    content = read_plain_pickle(path)
    kinds = (list, list, dict)
    if not isinstance(content, list) or [type(part) for part in content[:3]] != list(kinds):
        raise DataError(f"{path}: must hold [train captions, test captions, index to word, word to index]")
    indexed, words = content[0 if split == "train" else 1], content[2]
    each, rest = divmod(len(indexed), max(images, 1))
    if rest or not each:
        raise DataError(f"{path}: {len(indexed)} {split} captions do not divide evenly between {images} images")
    texts = _spelled_out(path, split, indexed, words)
    return [texts[i : i + each] for i in range(0, len(texts), each)]


def _spelled_out(path: Path, split: str, indexed: list[Any], words: dict[Any, Any]) -> list[str]:
    for i, word in words.items():
        if not isinstance(i, int) or not isinstance(word, str):
            raise DataError(f"{path}: its vocabulary must hold a word for each index, got {type(word).__name__}")
    letters, texts = 0, []
    for number, caption in enumerate(indexed):
        if not isinstance(caption, list):
            raise DataError(f"{path}: {split} caption {number} is a {type(caption).__name__}, not a list of words")
        chosen = []
        for i in caption:
            if not isinstance(i, int) or i not in words:
                what = i if isinstance(i, int | str) else f"a {type(i).__name__}"
                raise DataError(f"{path}: a {split} caption holds {what}, which is no word of its vocabulary")
            chosen.append(words[i])
            letters += len(words[i]) + 1
            # A pickle's lists may be one list many times over.
            if letters > LETTERS:
                raise DataError(f"{path}: its {split} captions have more than {LETTERS:,} letters")
        text = clean(" ".join(chosen))
        if not tokenize(text):
            raise DataError(f"{path}: {split} caption {number} is empty")
        texts.append(text)
    return texts


def _boxes(root: Path, names: list[str]) -> list[Box] | None:
    """Bounding boxes by image name, or ``None`` where there is no such file."""
    path, index = root / "bounding_boxes.txt", root / "images.txt"
    if not is_file(path):
        return None
    images, lines = read_lines(index), read_lines(path)
    try:
        number = {line.split()[1].rsplit(".", 1)[0]: line.split()[0] for line in images}
    except IndexError as error:
        raise DataError(f"{index}: expected lines of 'number CLASS/NAME.jpg'") from error
    try:
        rows = {line.split()[0]: line.split()[1:5] for line in lines}
        boxes = [rows[number[name]] for name in names]
        return [_box(*row) for row in boxes]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: expected lines of 'number x y width height' ({error})") from error
    except KeyError as error:
        raise DataError(f"{path}: no bounding box for {error}; {index} must list every image") from error


def _box(x: str, y: str, width: str, height: str) -> Box:
    box = float(x), float(y), float(width), float(height)
    if not all(math.isfinite(value) for value in box) or box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"no box: {x} {y} {width} {height}")
    return box
