"""Names of files as lists, systems and disks write them: read, or refused with the layout that is expected."""

from __future__ import annotations

import json
import os
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.files import picture
from helpers.layouts import NAMES, write

from examples.sdgan.data import DataError
from examples.sdgan.data.coco import coco
from examples.sdgan.data.cub import cub
from examples.sdgan.data.pickles import read_plain_pickle


@pytest.mark.parametrize(
    "left",
    [
        "images/.DS_Store",
        "images/001.A/._a1.jpg",
        "images/.ipynb_checkpoints/a1-checkpoint.jpg",
        "images/001.A/.ipynb_checkpoints/a1-checkpoint.jpg",
        "images/__MACOSX/001.A/a1.jpg",
        "text/.DS_Store",
        "text/001.A/._a1.txt",
        "text/.ipynb_checkpoints/a1-checkpoint.txt",
        "text/001.A/.ipynb_checkpoints/a1-checkpoint.txt",
        "images/001.A/Thumbs.db",
    ],
)
@pytest.mark.parametrize("lists", [True, False])
def test_what_systems_and_editors_leave_is_no_data(left: str, lists: bool, tmp_path: Path) -> None:
    root = write(tmp_path / ".data", NAMES)
    (root / left).parent.mkdir(parents=True, exist_ok=True)
    (root / left).write_bytes(b"\0\1\2")
    if not lists:
        (root / "train" / "filenames.txt").unlink()
    data = cub(root, "train", 32)
    assert len(data) == 4
    assert data.classes is not None
    assert data.classes.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"{name}.jpg",
        lambda name: f"{name}.JPG",
        lambda name: f"images/{name}.jpg",
        lambda name: f"./images/{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: f"images\\{name}.jpg".replace("/", "\\"),
    ],
)
@pytest.mark.parametrize("boxes", [True, False])
def test_lists_write_names_in_several_ways(change: Callable[[str], str], boxes: bool, tmp_path: Path) -> None:
    root = write(tmp_path, NAMES)
    if boxes:
        (root / "images.txt").write_text("".join(f"{i} {name}.jpg\n" for i, name in enumerate(NAMES)))
        (root / "bounding_boxes.txt").write_text("".join(f"{i} 0 0 40 40\n" for i in range(4)))
    (root / "train" / "filenames.txt").write_text("\n".join([*map(change, NAMES), "001.A/._a1"]))
    data = cub(root, "train", 32)
    assert [captions[0] for captions in data.captions] == [f"a bird called {name[-2:]}" for name in NAMES]
    assert data.classes is not None
    (root / "train" / "filenames.txt").write_text("\n".join([*NAMES, change(NAMES[0])]))
    with pytest.raises(DataError, match="twice"):
        cub(root, "train", 32)


@pytest.mark.parametrize("ending", [".bmp", ".BMP", ".Jpg", ".jpeg", ".webp", ".tif", ".gif", ".ppm"])
@pytest.mark.parametrize("lists", [True, False])
def test_images_of_every_ending_that_is_read(ending: str, lists: bool, tmp_path: Path) -> None:
    root = write(tmp_path, NAMES, ending=ending)  # what is in them is seen by their content
    if not lists:
        (root / "train" / "filenames.txt").unlink()
    assert len(cub(root, "train", 32)) == 4


@pytest.mark.parametrize("lists", [True, False])
def test_an_ending_that_is_not_read_is_named(lists: bool, tmp_path: Path) -> None:
    root = write(tmp_path, NAMES)
    (root / "images" / "001.A" / "a1.jpg").rename(root / "images" / "001.A" / "a1.heic")
    if not lists:
        (root / "train" / "filenames.txt").unlink()
    with pytest.raises(
        DataError, match=r"captions without an image.*there is a1.heic, but an image is called NAME"
    ):
        cub(root, "train", 32)


def test_an_empty_folder_names_the_layout(tmp_path: Path) -> None:
    for folder in ("images", "text"):
        (tmp_path / folder).mkdir()
    with pytest.raises(
        DataError, match=r"names no image; expected images/CLASS/NAME.jpg with text/CLASS/NAME.txt"
    ):
        cub(tmp_path, "train", 32)


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("lists", ["txt", "pickle", "none"])
def test_names_in_another_unicode_form(listed: Any, stored: Any, lists: str, tmp_path: Path) -> None:
    names = ["001.Käfer/vögel", "001.Käfer/a1", "002.B/é", "002.B/b2"]
    root = write(tmp_path, [unicodedata.normalize(stored, name) for name in names])
    names = [unicodedata.normalize(listed, name) for name in names]
    text = root / "text" / unicodedata.normalize(stored, "002.B/é.txt")
    text.rename(root / "text" / unicodedata.normalize(listed, "002.B/é.txt"))
    (root / "images.txt").write_text(
        "".join(f"{i} {name}.jpg\n" for i, name in enumerate(names)), encoding="utf-8"
    )
    (root / "bounding_boxes.txt").write_text("".join(f"{i} 0 0 40 40\n" for i in range(4)))
    (root / "train" / "filenames.txt").write_text("\n".join(names), encoding="utf-8")
    if lists != "txt":
        (root / "train" / "filenames.txt").unlink()
    if lists == "pickle":
        (root / "train" / "filenames.pickle").write_bytes(pickle.dumps(names))
    assert len(cub(root, "train", 32)) == 4


def python2(*texts: bytes) -> bytes:
    """A list of Python 2's strings, as its pickle holds them."""
    return b"(lp0\n" + b"".join(b"S" + repr(t)[1:].encode() + b"\np1\na" for t in texts) + b"."


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_bytes_of_a_python_2_pickle_are_text(encoding: str, tmp_path: Path) -> None:
    words = ["Käfer", "rødt", "nichts"]
    path = tmp_path / "p"
    path.write_bytes(python2(*(word.encode(encoding) for word in words)))
    assert read_plain_pickle(path) == words
    binary = b"".join(b"U" + bytes((len(w.encode(encoding)),)) + w.encode(encoding) for w in words)
    path.write_bytes(b"\x80\x02](" + binary + b"e.")
    assert read_plain_pickle(path) == words


@pytest.mark.parametrize("stored", ["utf-8", "latin-1"])
@pytest.mark.parametrize("listed", ["utf-8", "latin-1", "bytes"])
def test_names_of_a_python_2_pickle_are_found(stored: str, listed: str, tmp_path: Path) -> None:
    root = write(tmp_path, NAMES)
    (root / "train" / "filenames.txt").unlink()
    for folder, ending in (("images", "jpg"), ("text", "txt")):
        os.rename(
            root / folder / f"{NAMES[0]}.{ending}",
            os.fsencode(root / folder / "001.A") + b"/" + "ä.".encode(stored) + ending.encode(),
        )
    names = ["001.A/ä", *NAMES[1:]]
    content = (
        pickle.dumps([name.encode() for name in names], 4)
        if listed == "bytes"
        else python2(*(name.encode(listed) for name in names))
    )
    (root / "train" / "filenames.pickle").write_bytes(content)
    assert [captions[0] for captions in cub(root, "train", 32).captions][:2] == [
        "a bird called a1",
        "a bird called a2",
    ]


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_coco_names_in_another_unicode_form(listed: Any, stored: Any, tmp_path: Path) -> None:
    picture(tmp_path / "train2014" / unicodedata.normalize(stored, "vögel.jpg"))
    picture(tmp_path / "train2014" / "7.jpg")
    names = [unicodedata.normalize(listed, "vögel.jpg"), "7.jpg"]
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "caption": "a dog"} for i in range(2)],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_train2014.json").write_text(json.dumps(content))
    assert len(coco(tmp_path, "train", 32)) == 2
