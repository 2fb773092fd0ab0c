"""Captions, names and captions' JSON of unknown origin: odd ones are read right, broken ones named, none leads outside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.files import NAMES, captions_json, opened, picture, pipe, write_coco, write_cub
from PIL import Image

from examples.sdgan.data import DataError, SiamesePairs, reading
from examples.sdgan.data.coco import coco
from examples.sdgan.data.cub import cub
from examples.sdgan.data.vocabulary import Vocabulary, tokenize
from examples.sdgan.plots import samples


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cub(tmp_path / "birds")


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def caption_file(root: Path) -> Path:
    return root / "text" / f"{NAMES[1]}.txt"


def names_file(root: Path) -> Path:
    return root / "train" / "filenames.txt"


TWO = "a bird\nit is red\n"


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        (TWO.encode("utf-16"), ["a bird", "it is red"]),
        (b"\xfe\xff" + TWO.encode("utf-16-be"), ["a bird", "it is red"]),
        (TWO.encode("utf-32"), ["a bird", "it is red"]),
        (TWO.encode("utf-8-sig"), ["a bird", "it is red"]),
        (TWO.replace("\n", "\r\n").encode(), ["a bird", "it is red"]),
        (TWO.replace("\n", "\r").encode(), ["a bird", "it is red"]),
        ("ein Käfer\nein Vögel\n".encode("latin-1"), ["ein Käfer", "ein Vögel"]),
        ("ein Käfer\n".encode() + "ein Vögel\n".encode("latin-1"), ["ein Käfer", "ein Vögel"]),
        (b"a \x1b[31mred\x1b[0m\x07 bird\x7f\n", ["a [31mred [0m bird"]),
        ("a bird\x0bof\u2028one\x85line\x1cand\x0cone caption".encode(), ["a bird of one line and one caption"]),
    ],
    ids=[
        "UTF-16", "UTF-16 BE", "UTF-32", "byte order mark", "CRLF", "CR", "Latin-1", "half Latin-1", "escape codes",
        "other separators",
    ],
)  # fmt: skip
def test_captions_in_other_encodings(content: bytes, captions: list[str], root: Path) -> None:
    caption_file(root).write_bytes(content)
    assert cub(root, "train", 32).captions[1] == captions


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("一只红色的鸟\uff0c黑色的翅膀。", [*"一只红色的鸟", *"黑色的翅膀"]),
        ("लाल पक्षी, काले पंख", ["लाल", "पक्षी", "काले", "पंख"]),
        ("طائرٌ أحمر", ["طائرٌ", "أحمر"]),
        ("นกสีแดงที่สวย", ["น", "ก", "สี", "แ", "ด", "ง", "ที่", "ส", "ว", "ย"]),
        ("赤い小鳥がカメラを見る", [*"赤い小鳥がカメラを見る"]),
        ("这只鸟是red的,翅膀有2条white bars", [*"这只鸟是", "red", "的", *"翅膀有", "2", "条", "white", "bars"]),
        ("Ein bird鳥", ["ein", "bird", "鳥"]),
        ("빨간 새가 있다", ["빨간", "새가", "있다"]),
        ("ខ្មែរ ລາວ မြန်", ["ខ្", "មែ", "រ", "ລ", "າ", "ວ", "မြ", "န်"]),
        ("cafe\u0301 und caf\u00e9", ["café", "und", "café"]),
        ("ΜΑΎΡΟ Πουλί", ["μαύρο", "πουλί"]),
        ("a ❤\ufe0f bird \u0301", ["a", "bird"]),
    ],
    ids=[
        "Chinese", "Hindi", "Arabic", "Thai", "Japanese", "mixed", "mixed in a word", "Korean", "Khmer, Lao, Myanmar",
        "accents of two kinds", "Greek", "marks without a letter",
    ],
)  # fmt: skip
def test_words_of_other_scripts(caption: str, words: list[str], root: Path) -> None:
    assert tokenize(caption) == words
    caption_file(root).write_text(caption, encoding="utf-8")
    data = cub(root, "train", 32)
    vocabulary = Vocabulary.of(c for cs in data.captions for c in cs)
    assert [vocabulary.words[i] for i in vocabulary.encode(caption)] == words


def test_a_caption_of_ten_thousand_words(root: Path, tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(10_000)]
    for name in NAMES:
        (root / "text" / f"{name}.txt").write_text(" ".join(words))
    data = cub(root, "train", 32)
    vocabulary = Vocabulary.of(c for cs in data.captions for c in cs)
    batch = SiamesePairs(data, vocabulary, 18, 4, 32, seed=0)[0]
    assert batch.tokens.shape == (8, 18)
    assert (batch.tokens > 1).all()
    samples.sample_grid(torch.zeros(3, 3, 8, 8), [cs[0] for cs in data.captions], tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert max(grid.size) < 3000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no caption"),
        ("\u200b \u00a0 ❤\ufe0f ...\n".encode(), "holds no caption"),
        (b"a bird\x00\n", "holds NUL bytes, so it is no text"),
        (TWO.encode("utf-16-le"), r"UTF-16 without its mark\); save it as UTF-8"),
        (TWO.encode("utf-16")[:-1], "begins as utf-16, but is not"),
        (b"\xef\xbb\xbfa \xff bird", "begins as utf-8-sig, but is not"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "holds NUL bytes"),
    ],
    ids=["empty", "no words", "NUL", "UTF-16 without mark", "half a letter", "mark of another", "a picture"],
)
def test_captions_that_are_no_text_are_named(content: bytes, reason: str, root: Path) -> None:
    caption_file(root).write_bytes(content)
    with pytest.raises(DataError, match=reason) as refused:
        cub(root, "train", 32)
    assert str(refused.value).startswith(f"{caption_file(root)}: ")


@pytest.mark.parametrize("which", [caption_file, names_file, lambda root: root / "bounding_boxes.txt"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "too large"])
def test_what_is_no_text_file_is_not_read(which: Callable[[Path], Path], kind: str, root: Path) -> None:
    path = which(root)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "too large":
        (root / "images.txt").write_text("1 a.jpg\n")
        with path.open("wb") as file:
            file.truncate(1 << 40)  # takes no space on the disk
    reason = "are too many for text" if kind == "too large" else f"is a {kind}; a file is expected here"
    if kind == "pipe":
        with pipe(path), pytest.raises(DataError, match=reason) as refused:
            cub(root, "train", 32)
    else:
        with pytest.raises(DataError, match=reason) as refused:
            cub(root, "train", 32)
    assert str(refused.value).startswith(f"{path}: ")


def test_text_that_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # to root, every file is readable
    with pytest.raises(DataError) as refused:
        cub(root, "train", 32)
    assert str(refused.value) == f"{names_file(root)}: cannot be read (Permission denied)"


def test_names_with_a_byte_order_mark_and_windows_lines(root: Path) -> None:
    names_file(root).write_bytes(("\ufeff" + "\r\n".join(NAMES)).encode())
    assert len(cub(root, "train", 32)) == 3


def outside(root: Path) -> Path:
    """A whole data set beside ``root``: whoever leads there would be believed."""
    return write_cub(root.parent / "secret")


@pytest.mark.parametrize(
    "name",
    [
        "{outside}/images/001.A/a1",
        "../../secret/images/001.A/a1",
        "001.A/../../../secret/images/001.A/a1",
        "./../../secret/./images/001.A/a1",
    ],
)
def test_names_do_not_lead_outside(name: str, root: Path) -> None:
    secret = outside(root)
    name = name.format(outside=secret)
    names_file(root).write_text(f"{NAMES[0]}\n{name}\n")
    with opened() as files, pytest.raises(DataError, match="which lies outside") as refused:
        cub(root, "train", 32)
    assert f"names '{name}.jpg'" in str(refused.value)
    assert names_file(root) in files  # so the recorder sees what is read
    assert not [path for path in files if path.is_relative_to(secret)]


def test_names_that_come_back_inside_are_inside(root: Path) -> None:
    names_file(root).write_text("001.A/../001.A/a1\n./002.B/b1\n001.A/a2\n")
    data = cub(root, "train", 32)
    assert data.classes is not None
    assert data.classes.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([*NAMES, NAMES[0]], "names '001.A/a1' twice"),
        ([*NAMES, "002.B/../001.A/a1"], "names '002.B/../001.A/a1' twice"),
        (["x" * 300], "cannot be read .*File name too long"),
        (["001.A/a1/a1"], "captions without an image"),
        (["001.A/\x1b[2Ja1"], r"001.A/\\x1b\[2Ja1.jpg: captions without an image"),
        (["001.A"], "captions without an image"),
    ],
    ids=["twice", "twice in other words", "too long", "below a file", "escape codes", "a folder's"],
)
def test_names_that_mean_nothing_are_refused(names: list[str], reason: str, root: Path) -> None:
    names_file(root).write_text("\n".join(names))
    with pytest.raises(DataError, match=reason) as refused:
        cub(root, "train", 32)
    assert "\x1b" not in str(refused.value)
    assert str(root) in str(refused.value)


def test_file_names_in_no_encoding_are_files_all_the_same(root: Path) -> None:
    names_file(root).unlink()
    for folder, ending in (("images", "jpg"), ("text", "txt")):
        old = root / folder / f"{NAMES[0]}.{ending}"
        os.rename(old, os.fsencode(old).replace(b"a1", b"a\xff"))
    assert len(cub(root, "train", 32)) == 3


WRONG_SHAPES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read as JSON"),
    "cut short": (b'{"images": [{"id": 7, "fi', "cannot be read as JSON"),
    "Latin-1": ('{"images": "ä"}'.encode("latin-1"), "cannot be read as JSON .*decode"),
    "nested too deep": (b"[" * 1_000_000, "cannot be read as JSON"),
    "a number of 10,000 digits": (b"1" * 10_000, "cannot be read as JSON"),
    "a list": (b"[]", "not COCO captions"),
    "a text": (b'"images"', "not COCO captions"),
    "null": (b"null", "not COCO captions"),
    "images by name": (b'{"images": {"7.jpg": 7}, "annotations": []}', "not COCO captions"),
    "annotations null": (b'{"images": [], "annotations": null}', "not COCO captions"),
    "annotations of texts": (b'{"images": [], "annotations": ["a dog"]}', "not COCO captions"),
    "an image that is a number": (b'{"images": [7], "annotations": []}', "not COCO captions"),
}


@pytest.mark.parametrize("how", WRONG_SHAPES)
def test_json_of_the_wrong_shape_is_named(how: str, coco_root: Path) -> None:
    content, reason = WRONG_SHAPES[how]
    captions_json(coco_root).write_bytes(content)
    with pytest.raises(DataError, match=reason) as refused:
        coco(coco_root, "train", 32)
    assert str(refused.value).startswith(f"{captions_json(coco_root)}: ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["images"][0].update(id=[7]), "not COCO captions.*unhashable"),
        (lambda c: c["annotations"][0].update(image_id={}), "not COCO captions.*unhashable"),
        (lambda c: c["images"][0].update(file_name=7), "file_name of image 7 is 7, not a name"),
        (lambda c: c["images"][0].update(file_name=""), "file_name of image 7 is '', not a name"),
        (lambda c: c["images"][0].update(file_name="a\0.jpg"), r"names 'a\\x00.jpg', which no file can be called"),
        (lambda c: c["images"][0].update(file_name="\ud800.jpg"), r"names '\\ud800.jpg', which no file can be"),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), "names '/etc/passwd', which lies outside"),
        (lambda c: c["images"][0].update(file_name="9.jpg"), "lists the file '9.jpg' as several images"),
        (lambda c: c["images"][0].update(file_name="./9.jpg"), "lists the file '9.jpg' as several images"),
        (lambda c: c["images"][0].update(id=9), "lists image 9 twice, as '7.jpg' and '9.jpg'"),
        (lambda c: c["annotations"][0].update(image_id="7"), "a caption of image '7', which the file does not"),
        (lambda c: c["annotations"][0].update(caption="\0\x1b"), "an image without captions: 7.jpg"),
        (lambda c: c["annotations"][0].update(caption=["a", "dog"]), r"is \['a', 'dog'\], not text"),
    ],
)
def test_json_of_wrong_entries_is_named(change: Callable[[dict], None], reason: str, coco_root: Path) -> None:
    content = json.loads(captions_json(coco_root).read_text())
    change(content)
    captions_json(coco_root).write_text(json.dumps(content))
    with opened() as files, pytest.raises(DataError, match=reason) as refused:
        coco(coco_root, "train", 32)
    assert str(refused.value).startswith(f"{captions_json(coco_root)}: ")
    assert files == [captions_json(coco_root)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_in_other_encodings(encoding: str, coco_root: Path) -> None:
    content = captions_json(coco_root).read_text().replace("a dog", "ein K\u00e4fer\\u0007")
    captions_json(coco_root).write_bytes(content.encode(encoding))
    assert coco(coco_root, "train", 32).captions == [["ein Käfer , no. 7"], ["ein Käfer , no. 9"]]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_json_that_is_no_file_is_not_read(kind: str, coco_root: Path) -> None:
    path = captions_json(coco_root)
    path.unlink()
    if kind == "folder":
        path.mkdir()
        with pytest.raises(DataError) as refused:
            coco(coco_root, "train", 32)
    else:
        with pipe(path), pytest.raises(DataError) as refused:
            coco(coco_root, "train", 32)
    assert str(refused.value) == f"{path}: is a {kind}; a file is expected here"


def test_the_limit_of_text_is_a_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LIMIT", 20)
    picture(root / "images" / "big.jpg")  # images have a limit of their own
    names_file(root).write_text(NAMES[0] + "\n")
    caption_file(root).with_name("a1.txt").write_text("a" * 20)
    assert len(cub(root, "train", 32)) == 1
    caption_file(root).with_name("a1.txt").write_text("a" * 21)
    with pytest.raises(DataError, match=r"a1.txt: 21 bytes are too many for text or metadata \(at most 20\)"):
        cub(root, "train", 32)
