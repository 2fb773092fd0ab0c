"""CUB-200-2011 with the captions of Reed et al., in its own layout or in AttnGAN's."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.sdgan.data.dataset import CaptionedImages, DataError
from examples.sdgan.data.files import Box, ImageFiles, inside, read_lines
from examples.sdgan.data.pickles import read_plain_pickle
from examples.sdgan.vocabulary import tokenize

_IMAGE_FOLDERS = ("images", "CUB_200_2011/images")
_TEXT_FOLDERS = ("text", "text_c10")
_SUFFIXES = (".jpg", ".jpeg", ".png")


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
    boxes = _boxes(images.parent if (images.parent / "bounding_boxes.txt").is_file() else root, names)
    folders = sorted({name.split("/")[0] for name in names})
    classes = torch.tensor([folders.index(name.split("/")[0]) for name in names])
    return CaptionedImages(f"CUB ({split})", ImageFiles(paths, size, boxes, progress), captions, classes)


def _first(root: Path, folders: tuple[str, ...], what: str) -> Path:
    for folder in folders:
        if (root / folder).is_dir():
            return root / folder
    raise DataError(f"{root}: {what} is missing; looked for {', '.join(folders)}")


def _names(root: Path, images: Path, split: str) -> list[str]:
    """CLASS/NAME of every image of the split."""
    text, pickled = root / split / "filenames.txt", root / split / "filenames.pickle"
    if text.is_file():
        names, source = read_lines(text), text
    elif pickled.is_file():
        names, source = read_plain_pickle(pickled), pickled
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{pickled}: must hold a list of image names")
    elif split == "train":
        names, source = _every_image(root, images), images
    else:
        return []
    if not names:
        raise DataError(f"{source}: names no image")
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
    if path.is_file():
        return path
    for other in path.parent.glob("*") if path.parent.is_dir() else ():
        if other.stem == path.stem and other.suffix.lower() in _SUFFIXES:
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
        if not path.is_file():
            raise DataError(f"{path}: an image without captions ({name} is in the {split} split)")
        lines = [line for line in read_lines(path) if tokenize(line)]
        if not lines:
            raise DataError(f"{path}: holds no caption")
        captions.append(lines)
    return captions


def _pickled_captions(root: Path, split: str, images: int) -> list[list[str]]:
    """AttnGAN's captions: [train, test, index to word, word to index], the same number for each image, in order."""
    path = root / "captions.pickle"
    if not path.is_file():
        raise DataError(f"{root}: captions are missing; looked for {', '.join(_TEXT_FOLDERS)} and captions.pickle")
    content = read_plain_pickle(path)
    kinds = (list, list, dict)
    if not isinstance(content, list) or [type(part) for part in content[:3]] != list(kinds):
        raise DataError(f"{path}: must hold [train captions, test captions, index to word, word to index]")
    indexed, words = content[0 if split == "train" else 1], content[2]
    each, rest = divmod(len(indexed), max(images, 1))
    if rest or not each:
        raise DataError(f"{path}: {len(indexed)} {split} captions do not divide evenly between {images} images")
    try:
        texts = [" ".join(words[i] for i in caption) for caption in indexed]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a {split} caption holds {error}, which is no word of its vocabulary") from error
    for i, text in enumerate(texts):
        if not tokenize(text):
            raise DataError(f"{path}: {split} caption {i} is empty")
    return [texts[i : i + each] for i in range(0, len(texts), each)]


def _boxes(root: Path, names: list[str]) -> list[Box] | None:
    """Bounding boxes by image name, or ``None`` where there is no such file."""
    path, index = root / "bounding_boxes.txt", root / "images.txt"
    if not path.is_file():
        return None
    try:
        number = {line.split()[1].rsplit(".", 1)[0]: line.split()[0] for line in read_lines(index)}
        rows = {line.split()[0]: line.split()[1:5] for line in read_lines(path)}
        boxes = [rows[number[name]] for name in names]
        return [(float(x), float(y), float(w), float(h)) for x, y, w, h in boxes]
    except (IndexError, ValueError) as error:
        raise DataError(f"{path}: expected lines of 'number x y width height' ({error})") from error
    except KeyError as error:
        raise DataError(f"{path}: no bounding box for {error}; {index} must list every image") from error
