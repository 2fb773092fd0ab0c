"""MS-COCO captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from examples.sdgan.data.cub import listed
from examples.sdgan.data.dataset import CaptionedImages, DataError
from examples.sdgan.data.files import ImageFiles
from examples.sdgan.data.lookup import IMAGE_ENDINGS, Folder
from examples.sdgan.data.notes import about_captions, refuse_one_file
from examples.sdgan.data.reading import duplicate, is_file, read_bytes
from examples.sdgan.data.vocabulary import clean, tokenize


def coco(
    root: Path, split: str, size: int, progress=lambda done: None, captions_per_image: int = 0
) -> CaptionedImages:
    """The images of a split (``"train"``, or ``"test"``, which is COCO's val).

    Looks for ``annotations/captions_{train,val}*.json`` and for the images in the folder of the file's own ending,
    such as ``train2014/`` (or ``images/train2014/``, or ``images/``). Images that the JSON lists are used; each needs a caption.
    Without annotations AttnGAN's layout is read: ``images/NAME.jpg``, ``SPLIT/filenames.pickle`` (or ``.txt``), and
    ``text/NAME.txt`` or ``captions.pickle``.

    Args:
        root: of the data set.
        split: ``"train"`` or ``"test"``.
        size: pixels that will be asked for.
        progress: called with the number of images checked so far.
        captions_per_image: of ``captions.pickle``, which does not say it; 0 for AttnGAN's five.

    Raises:
        DataError: something is missing or unreadable; the message names it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --root must be the COCO folder with annotations/ in it")
    kind = "train" if split == "train" else "val"
    found = sorted((root / "annotations").glob(f"captions_{kind}*.json"))
    if not any((root / "annotations").glob("captions_*.json")) and _is_attngans(root):
        return listed(root, split, size, progress, captions_per_image, "coco")
    if not found:
        if kind == "val":
            return CaptionedImages("COCO (val)", ImageFiles([], size), [])
        raise DataError(
            f"{root / 'annotations'}: holds no captions_{kind}*.json; expected that, or AttnGAN's layout: "
            "images/NAME.jpg, train/filenames.pickle, and captions.pickle or text/NAME.txt"
        )
    path = _of_one_year(root, kind) or min(found, key=lambda path: _is_absent(root, _name(path)))
    folder = _folder(root, _name(path))
    captions = _read(path)
    images, paths = Folder(folder, ("", *IMAGE_ENDINGS)), []
    for name in captions:
        image = images.find(name, path)
        if image is None:
            raise DataError(f"{folder / name}: captions without an image ({path} lists it)")
        paths.append(image)
    twice = duplicate(map(str, paths))
    if twice is not None:
        raise DataError(f"{path}: lists the file {twice!r} as several images; each needs a file of its own")
    refuse_one_file(path, list(captions), paths)
    name, texts = f"COCO ({kind})", list(captions.values())
    return CaptionedImages(
        name, ImageFiles(paths, size, None, progress), texts, notes=tuple(about_captions(name, texts))
    )


def _is_attngans(root: Path) -> bool:
    return any(is_file(root / "train" / f"filenames.{ending}") for ending in ("txt", "pickle"))


def _name(path: Path) -> str:
    return path.stem.removeprefix("captions_")


def _of_one_year(root: Path, kind: str) -> Path | None:
    """Where there are several, the file whose split the other kind has too: years share images.

    Of several such years the one whose images are there.
    """
    folder = root / "annotations"
    files = {
        k: {p.stem.removeprefix(f"captions_{k}"): p for p in folder.glob(f"captions_{k}*.json")}
        for k in ("train", "val")
    }
    years = files["train"].keys() & files["val"].keys()
    if not years and files["train"] and files["val"]:
        raise DataError(
            f"{folder}: captions_train*.json and captions_val*.json are of different years "
            f"({sorted(files['train'])} and {sorted(files['val'])}), whose images overlap; keep those of one year"
        )
    if not years:
        return None
    year = min(years, key=lambda y: (_is_absent(root, f"train{y}") + _is_absent(root, f"val{y}"), y))
    return files[kind][year]


def _is_absent(root: Path, name: str) -> bool:
    return not any(folder.is_dir() for folder in _folders(root, name))


def _folders(root: Path, name: str) -> tuple[Path, Path]:
    return root / name, root / "images" / name


def _folder(root: Path, name: str) -> Path:
    for folder in _folders(root, name):
        if folder.is_dir():
            return folder
    flat = root / "images"
    if flat.is_dir() and any(path.suffix.lower() in IMAGE_ENDINGS for path in flat.iterdir()):
        return flat
    raise DataError(
        f"{root}: the folder of images is missing; looked for {name}, images/{name} and images/ with images in it"
    )


def _read(path: Path) -> dict[str, list[str]]:
    """Captions by file name."""
    data = read_bytes(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # not JSON, no Unicode, a number without end, or nested too deep
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    try:
        names = _names(path, content["images"])
        captions: dict[str, list[str]] = {name: [] for name in names.values()}
        for note in content["annotations"]:
            if note["image_id"] not in names:
                raise DataError(f"{path}: a caption of image {note['image_id']!r}, which the file does not list")
            if not isinstance(note["caption"], str):
                raise DataError(
                    f"{path}: the caption of image {note['image_id']} is {note['caption']!r}, not text"
                )
            text = clean(note["caption"])
            if tokenize(text):
                captions[names[note["image_id"]]].append(text)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not COCO captions: expected images with id and file_name, and annotations with "
            f"image_id and caption ({type(error).__name__}: {error})"
        ) from error
    for name, texts in captions.items():
        if not texts:
            raise DataError(f"{path}: an image without captions: {name}")
    return captions


def _names(path: Path, images: list[dict[str, Any]]) -> dict[int, str]:
    """File names by image id."""
    names: dict[int, str] = {}
    for image in images:
        number, name = image["id"], image["file_name"]
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: the file_name of image {number!r} is {name!r}, not a name")
        if number in names:
            raise DataError(f"{path}: lists image {number!r} twice, as {names[number]!r} and {name!r}")
        names[number] = name
    twice = duplicate(names.values())
    if twice is not None:
        raise DataError(f"{path}: lists the file {twice!r} as several images; each needs a file of its own")
    return names
