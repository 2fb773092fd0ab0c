"""CUB-200-2011 with the captions of Reed et al., in its own layout or in AttnGAN's; AttnGAN's is COCO's too."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from examples.sdgan.data.boxes import read_boxes
from examples.sdgan.data.classes import classes_of
from examples.sdgan.data.dataset import CaptionedImages, DataError
from examples.sdgan.data.files import ImageFiles
from examples.sdgan.data.lookup import IMAGE_ENDINGS, Folder, without_ending
from examples.sdgan.data.notes import about_captions, refuse_one_file
from examples.sdgan.data.pickles import read_plain_pickle
from examples.sdgan.data.reading import decode, duplicate, form, hidden, is_file, read_lines
from examples.sdgan.data.vocabulary import clean, tokenize

_IMAGE_FOLDERS = {
    "cub": ("images", "CUB_200_2011/images"),
    "coco": (
        "images",
        *(
            f"{above}{kind}{year}"
            for year in (2014, 2017)
            for above in ("images/", "")
            for kind in ("train", "val")
        ),
    ),
}
_TEXT_FOLDERS = ("text", "text_c10")
CAPTIONS = {"cub": 10, "coco": 5}
"""Of each image in AttnGAN's captions.pickle."""
LETTERS = 1 << 27
"""Of all captions of a pickle; CUB's have a tenth."""
# Of boxes of images half as large, none reaches beyond the middle; of CUB's, many touch the border.
_MANY, _REACH = 20, 0.7
# <pad>, [PAD], #START#: words of captions, as they were split for the pickle, have no such marks.
_SPECIAL = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]+\]|#[^#\s]+#")
_LAYOUT = "images/CLASS/NAME.jpg with text/CLASS/NAME.txt"


class Found(NamedTuple):
    """Images of a split: files, names as the list has them, names as they are compared, and places in the list."""

    paths: list[Path]
    names: list[str]
    keys: list[str]
    places: list[int]
    total: int
    notes: list[str]
    images: list[Folder]


def cub(
    root: Path, split: str, size: int, progress=lambda done: None, captions_per_image: int = 0
) -> CaptionedImages:
    """The birds of a split.

    Looks for ``images/CLASS/NAME.jpg`` (or ``CUB_200_2011/images/...``), for captions in
    ``text/CLASS/NAME.txt`` (or ``text_c10/...``), one a line, or else in AttnGAN's ``captions.pickle``, for the split
    in ``SPLIT/filenames.txt`` or ``SPLIT/filenames.pickle``, and for ``bounding_boxes.txt``. Without split files
    every image is a training image.

    Args:
        root: of the data set.
        split: ``"train"`` or ``"test"``.
        size: pixels that will be asked for.
        progress: called with the number of images checked so far.
        captions_per_image: of ``captions.pickle``, which does not say it; 0 for AttnGAN's ten.

    Raises:
        DataError: something is missing or unreadable; the message names it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --root must be the CUB-200-2011 folder")
    lists = any(is_file(root / "train" / f"filenames.{ending}") for ending in ("txt", "pickle"))
    if not lists and any((root / "annotations").glob("captions_*.json")):
        raise DataError(f"{root}: its annotations/ holds MS-COCO's captions, so train with --data coco")
    return listed(root, split, size, progress, captions_per_image, "cub")


def listed(
    root: Path, split: str, size: int, progress: Any, captions_per_image: int, data: Literal["cub", "coco"]
) -> CaptionedImages:
    """A data set in AttnGAN's layout, or CUB in its own: lists of names, and captions by name or by their order."""
    told = "CUB" if data == "cub" else "COCO"
    folders = [root / folder for folder in _IMAGE_FOLDERS[data] if (root / folder).is_dir()]
    if not folders:
        raise DataError(f"{root}: the folder of images is missing; looked for {', '.join(_IMAGE_FOLDERS[data])}")
    found = _found(root, folders if data == "coco" else folders[:1], split)
    if found is None:
        return CaptionedImages(f"{told} ({split})", ImageFiles([], size), [])
    _check_kind(root, data, found)
    captions, notes = _captions(root, split, found, captions_per_image or CAPTIONS[data])
    notes += about_captions(f"{told} ({split})", captions)
    if data == "coco":
        images = ImageFiles(found.paths, size, None, progress)
        return CaptionedImages(f"{told} ({split})", images, captions, notes=(*found.notes, *notes))
    beside = folders[0].parent
    boxes = read_boxes(beside if is_file(beside / "bounding_boxes.txt") else root, found.keys)
    classes, why = classes_of(found.keys)
    if why:
        notes.append(f"{told} ({split}): {why}; trained without them (layout of classes: {_LAYOUT})")
    elif classes is not None:
        notes.append(f"{told} ({split}): {int(classes.max()) + 1:,} classes, which are the folders of the images")
    images = ImageFiles(found.paths, size, boxes, progress)
    if boxes and len(boxes) >= _MANY and images.reach < _REACH:
        notes.append(
            f"{told} ({split}): no bounding box of {len(boxes):,} reaches beyond {images.reach:.0%} of its image; if the "
            "images were made larger than those that the boxes are of, scale the boxes too"
        )
    return CaptionedImages(f"{told} ({split})", images, captions, classes, notes=(*found.notes, *notes))


def _check_kind(root: Path, data: str, found: Found) -> None:
    """Each data set has its own preset; one taken for the other would train, and not as meant."""
    if data == "cub" and all(Path(key).name.startswith("COCO_") for key in found.keys):
        raise DataError(f"{root}: its images are MS-COCO's ({found.names[0]}, ...), so train with --data coco")
    if data == "coco" and all("/" in key and not key.startswith(("train", "val")) for key in found.keys):
        raise DataError(
            f"{root}: its images are in folders of classes, as CUB's ({found.names[0]}, ...), so train with "
            "--data cub; "
            "COCO in AttnGAN's layout has images/NAME.jpg"
        )


def _found(root: Path, folders: Sequence[Path], split: str) -> Found | None:
    """The images of the split, which lists name; ``None`` where the split has none."""
    text, pickled = root / split / "filenames.txt", root / split / "filenames.pickle"
    if is_file(text):
        names, source = read_lines(text), text
    elif is_file(pickled):
        names, source = _pickled_names(pickled), pickled
    elif split == "train":
        return _every_image(root, folders)
    else:
        return None
    places = [place for place, name in enumerate(names) if not hidden(name)]
    left = [names[place] for place in places]
    notes = [f"{source}: left out {len(names) - len(left)} hidden files"] if len(left) < len(names) else []
    if not left:
        raise DataError(f"{source}: names no image; expected a line for each, such as CLASS/NAME")
    _refuse_twice(source, left)
    images = [Folder(folder, IMAGE_ENDINGS) for folder in folders]
    found = Found([], left, [], places, len(names), notes, images)
    for name in left:
        path, key = _image(images, name, root / split)
        found.paths.append(path)
        found.keys.append(key)
    _refuse_twice(source, found.keys)
    refuse_one_file(source, left, found.paths)
    return found


def _pickled_names(path: Path) -> list[str]:
    names = read_plain_pickle(path)
    names = [decode(n) if isinstance(n, bytes) else n for n in names] if isinstance(names, list) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: must hold a list of image names")
    return names


def _refuse_twice(source: Path, names: Sequence[str]) -> None:
    twice = duplicate(names)
    if twice is not None:
        # Two of one image would be taken for a pair of different ones.
        raise DataError(f"{source}: names {twice!r} twice; each image may be in a split once")


def _every_image(root: Path, folders: Sequence[Path]) -> Found:
    """Without split files: all there are, each with captions and the other way round."""
    folder = _text_folder(root)
    if folder is None:
        raise DataError(
            f"{root / 'train'}: filenames.txt or .pickle is missing; captions.pickle goes by its order"
        )
    images = Folder(folders[0], IMAGE_ENDINGS)
    paths = images.files()
    if not paths:
        raise DataError(f"{images.path}: names no image; expected {_LAYOUT}, or images/NAME.jpg without classes")
    for path in paths:
        if not is_file(path):
            raise DataError(f"{path}: captions without an image; it links to nothing")
    keys = [images.key(path) for path in paths]
    _refuse_twice(images.path, keys)
    refuse_one_file(images.path, keys, paths)
    names, known = [str(path.relative_to(images.path).with_suffix("")) for path in paths], set(keys)
    texts = Folder(folder, (".txt",))
    for path in texts.files():
        if texts.key(path) not in known:
            name = str(path.relative_to(folder).with_suffix(""))
            raise DataError(f"{path}: captions without an image in {images.path}{_beside([images], name)}")
    notes = []
    for path in {root / "train_test_split.txt", images.path.parent / "train_test_split.txt"}:
        if is_file(path):
            notes.append(
                f"{path}: not read, every image is a training image; to hold some out, list names (CLASS/NAME) in "
                "train/filenames.txt and test/filenames.txt"
            )
    return Found(paths, names, keys, list(range(len(names))), len(names), notes, [images])


def _find(images: Sequence[Folder], name: str, where: Path) -> tuple[Path, str] | None:
    for folder in images:
        path = folder.find(name, where)
        if path is not None:
            return path, folder.key(path)
    return None


def _image(images: Sequence[Folder], name: str, where: Path) -> tuple[Path, str]:
    found = _find(images, name, where)
    if found is not None:
        return found
    path = images[0].path / (without_ending(name) + IMAGE_ENDINGS[0])
    raise DataError(f"{path}: captions without an image ({where} names it){_beside(images, without_ending(name))}")


def _beside(images: Sequence[Folder], name: str) -> str:
    """What a missing image might be, for its error."""
    others = [other for folder in images for other in folder.others(name)]
    there = f"there is {', '.join(others)}, but " if others else ""
    return f"; {there}an image is called NAME{', NAME'.join(IMAGE_ENDINGS)}"


def _text_folder(root: Path) -> Path | None:
    return next((root / f for f in _TEXT_FOLDERS if (root / f).is_dir()), None)


def _captions(root: Path, split: str, found: Found, each: int) -> tuple[list[list[str]], list[str]]:
    folder = _text_folder(root)
    if folder is None:
        places, total, told = _order(root / split, found)
        captions = _pickled_captions(root, split, total, each)
        note = f"{root / 'captions.pickle'}: {each} captions for each of {len(captions):,} {split} images{told}"
        return [captions[place] for place in places], [note]
    texts, captions = Folder(folder, (".txt",)), []
    for name, key in zip(found.names, found.keys, strict=True):
        path = texts.find(name, root / split) or texts.find(key, root / split)
        if path is None:
            path = folder / (without_ending(name) + ".txt")
            raise DataError(f"{path}: an image without captions ({name} is in the {split} split)")
        lines = [clean(line) for line in read_lines(path) if tokenize(line)]
        if not lines:
            raise DataError(f"{path}: holds no caption")
        captions.append(lines)
    return captions, []


def _order(folder: Path, found: Found) -> tuple[list[int], int, str]:
    """Where each image's captions are in captions.pickle: filenames.pickle came with it, and has its order."""
    text, pickled = folder / "filenames.txt", folder / "filenames.pickle"
    if not (is_file(text) and is_file(pickled)):
        return found.places, found.total, ""
    names, places = _pickled_names(pickled), {}
    for place, name in enumerate(names):
        if hidden(name):
            continue
        there = _find(found.images, name, pickled)
        key = form(without_ending(os.path.normpath(name))) if there is None else there[1]
        if key in places:
            raise DataError(f"{pickled}: names {name!r} twice; each image may be in a split once")
        places[key] = place
    missing = next((n for n, key in zip(found.names, found.keys, strict=True) if key not in places), None)
    if missing is not None:
        raise DataError(
            f"{text}: names {missing!r}, which {pickled} does not; captions.pickle is in the order of "
            "filenames.pickle, "
            "so there are no captions for it: take the list away that is not of these images, or give the "
            "captions "
            "as text/NAME.txt"
        )
    told = f", in the order of {pickled}"
    if len(found.keys) < len(places):
        told += f", of which {text} names {len(found.keys):,}"
    return [places[key] for key in found.keys], len(names), told


def _pickled_captions(root: Path, split: str, images: int, each: int) -> list[list[str]]:
    """AttnGAN's captions: [train, test, index to word, word to index], the same number for each image, in order."""
    path = root / "captions.pickle"
    if not is_file(path):
        raise DataError(f"{root}: captions are missing; looked for {', '.join(_TEXT_FOLDERS)} and captions.pickle")
    content = read_plain_pickle(path)
    kinds = (list, list, dict)
    if not isinstance(content, list) or [type(part) for part in content[:3]] != list(kinds):
        raise DataError(f"{path}: must hold [train captions, test captions, index to word, word to index]")
    indexed, words = content[0 if split == "train" else 1], content[2]
    texts = _spelled_out(path, split, indexed, words)
    # Which captions are whose follows from nothing but this number: by division, a part of the names would divide too.
    if len(indexed) != each * images:
        evenly = "are not" if indexed and len(indexed) % images == 0 else "do not divide evenly between"
        what = f"{each} for each of {images} images" if evenly == "are not" else f"{images} images"
        raise DataError(
            f"{path}: {len(indexed)} {split} captions {evenly} {what}; they are in the order of the whole list of "
            f"names, {each} an image: put back the filenames.pickle that came with it (to train on a part, give the "
            f"captions as text/NAME.txt), or say how many there are of each image by the trainer's option "
            "captions-per-image"
        )
    return [texts[i : i + each] for i in range(0, len(texts), each)]


def _spelled_out(path: Path, split: str, indexed: list[Any], words: dict[Any, Any]) -> list[str]:
    words = {i: decode(word) if isinstance(word, bytes) else word for i, word in words.items()}
    for i, word in words.items():
        if not isinstance(i, int) or not isinstance(word, str):
            raise DataError(f"{path}: its vocabulary must hold a word for each index, got {type(word).__name__}")
    # Index 0 is <end> and what shorter captions are filled up with; neither it nor <unk> is a word.
    silent = {i for i, word in words.items() if _SPECIAL.fullmatch(word)} | ({0} - words.keys())
    letters, texts = 0, []
    for number, caption in enumerate(indexed):
        if not isinstance(caption, list):
            raise DataError(f"{path}: {split} caption {number} is a {type(caption).__name__}, not a list of words")
        chosen = []
        letters += len(caption)
        for i in caption:
            if isinstance(i, int) and i in silent:
                continue
            if not isinstance(i, int) or i not in words:
                what = i if isinstance(i, int | str) else f"a {type(i).__name__}"
                raise DataError(f"{path}: a {split} caption holds {what}, which is no word of its vocabulary")
            chosen.append(words[i])
            letters += len(words[i])
            # A pickle's lists may be one list many times over.
            if letters > LETTERS:
                raise DataError(f"{path}: its {split} captions have more than {LETTERS:,} letters")
        text = clean(" ".join(chosen))
        if not tokenize(text):
            raise DataError(f"{path}: {split} caption {number} is empty")
        texts.append(text)
    return texts
