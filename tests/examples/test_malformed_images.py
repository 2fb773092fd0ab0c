"""Images that are broken, odd or made to do harm: refused with file and reason, or read with the right pixels."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.files import NAMES, Strike, opened, picture, pipe, write_cub
from PIL import Image

from examples.sdgan.data import DataError
from examples.sdgan.data.cub import cub
from examples.sdgan.data.files import PIXELS, ImageFiles

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n%%Page: 1 1\n(touch) run showpage\n%%EOF\n"
)


def load(path: Path) -> torch.Tensor:
    """(3, 38, 38), all that is kept of a picture of 32 pixels."""
    return ImageFiles([path], 32).load([0], 38, None)[0].double()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, kind: int, row: bytes, extra: bytes = b"") -> bytes:
    """A PNG of equal rows; kind 0 is grey, 2 RGB, 3 a palette, 4 grey and alpha."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    rows = zlib.compress((b"\0" + row) * min(height, 40))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def grey(extra: bytes = b"") -> bytes:
    return png(40, 40, 8, 0, b"\x55" * 40, extra)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes((data[position] ^ 255,)) + data[position + 1 :]


def saved(path: Path, image: Image.Image, **options) -> bytes:
    image.save(path, **options)
    return path.read_bytes()


def tiff(pixels: np.ndarray) -> Callable[[Path], bytes]:
    return lambda folder: saved(folder / "t.tiff", Image.fromarray(pixels))


def archive(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "z", "w") as file:
        file.writestr("a.jpg", b"x")
    return (folder / "z").read_bytes()


REFUSED: dict[str, tuple[bytes | Callable[[Path], bytes], str]] = {
    "a web page": (b"<html><body>404 not found</body></html>", "none of JPEG, PNG"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "none of JPEG, PNG"),
    "EPS, which Pillow gives to Ghostscript": (EPS, "none of JPEG, PNG"),
    "a zip archive": (archive, "none of JPEG, PNG"),
    "a pickle with code": (lambda folder: pickle.dumps(Strike(folder / "canary")), "none of JPEG, PNG"),
    "more pixels than memory": (png(200_000, 200_000, 8, 0, b""), "40000000000 pixels"),
    "a few pixels too many": (png(8192, PIXELS // 8192 + 1, 8, 0, b""), "8192 x 8193 pixels are more than 67,108"),
    "no pixels": (png(0, 40, 8, 0, b""), "not a readable image"),
    "a text chunk that unpacks to 100 MB": (
        grey(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000)))),
        "Decompressed data too large",
    ),
    "a flipped bit in the pixels": (flipped(grey(), 50), "OSError: .* data stream"),
    "PNG cut short": (grey()[:60], "truncated|broken"),
    "GIF of a header": (b"GIF89a\x28\x00\x28\x00\x80\x00\x00", "not a readable image"),
    "32 bits of grey": (tiff(np.full((40, 40), 1 << 20, np.int32)), "32 bits of grey have no known range"),
    "negative grey": (tiff(np.full((40, 40), -5, np.int32)), "32 bits of grey have no known range"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_refused_with_file_and_reason(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, reason = REFUSED[how]
    canary, programs = tmp_path / "canary", tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch '{canary}'\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    path = tmp_path / "bird.jpg"
    path.write_bytes(content if isinstance(content, bytes) else content(tmp_path))
    with pytest.raises(DataError, match=reason) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: not a readable image (")
    assert not canary.exists()


def test_an_unreadable_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "bird.jpg")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)  # to root, every file is readable
    with pytest.raises(DataError, match=r"bird.jpg: not a readable image \(PermissionError: .*Permission denied"):
        load(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def as_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def as_broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.jpg"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (as_folder, "is a folder; a file is expected here"),
        (as_device, "is a device; a file is expected here"),
        (as_loop, "cannot be read .*symbolic links"),
        (as_broken_link, "captions without an image"),
    ],
)
@pytest.mark.parametrize("named", [True, False], ids=["by the split file", "by the folder"])
def test_what_is_no_file_is_no_image(change, reason: str, named: bool, tmp_path: Path) -> None:
    root = write_cub(tmp_path)
    if not named:
        (root / "train" / "filenames.txt").unlink()
    path = root / "images" / "001.A" / "a2.jpg"
    change(path)
    with pytest.raises(DataError, match=reason) as refused, opened() as files:
        cub(root, "train", 32)
    assert str(refused.value).startswith(f"{path}: ")
    assert path not in files


@pytest.mark.parametrize("name", ["a2.jpg", "a2.png"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    root = write_cub(tmp_path)
    (root / "images" / "001.A" / "a2.jpg").unlink()
    with pipe(root / "images" / "001.A" / name) as path, opened() as files:
        with pytest.raises(DataError) as refused:
            cub(root, "train", 32)
        assert str(refused.value) == f"{path}: is a pipe; a file is expected here"
        assert path not in files


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    root = write_cub(tmp_path)
    (root / "train" / "filenames.txt").unlink()
    picture(root / "images" / "001.A" / "a2.jpeg")
    with pytest.raises(DataError, match=r"images: names '001.A/a2' twice"):
        cub(root, "train", 32)


def boxes(root: Path, box: str) -> Path:
    (root / "images.txt").write_text("".join(f"{i} {name}.jpg\n" for i, name in enumerate(NAMES, 1)))
    (root / "bounding_boxes.txt").write_text(f"1 {box}\n2 0 0 40 40\n3 0 0 40 40\n")
    return root / "bounding_boxes.txt"


@pytest.mark.parametrize(
    "box", ["nan 0 40 40", "0 0 inf 40", "0 0 -40 40", "0 0 0 40", "0 0 40", "a b c d", "", "0 0 0x10 40"]
)
def test_boxes_that_are_none_are_named(box: str, tmp_path: Path) -> None:
    path = boxes(write_cub(tmp_path), box)
    with pytest.raises(DataError, match="expected lines of 'number x y width height'") as refused:
        cub(tmp_path, "train", 32)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize("box", ["500 500 40 40", "-900 0 40 40", "1e300 1e300 9 9"])
def test_boxes_with_nothing_of_the_image_are_named(box: str, tmp_path: Path) -> None:
    boxes(write_cub(tmp_path), box)
    with pytest.raises(DataError, match=r"a1.jpg: .*its bounding box .* leaves nothing of 40 x 40 pixels"):
        cub(tmp_path, "train", 32)


def test_boxes_without_their_index_name_the_index(tmp_path: Path) -> None:
    boxes(write_cub(tmp_path), "0 0 40 40")
    (tmp_path / "images.txt").unlink()
    with pytest.raises(DataError) as refused:
        cub(tmp_path, "train", 32)
    assert str(refused.value) == f"{tmp_path / 'images.txt'}: cannot be read (no such file)"


def transparent_palette(path: Path) -> None:
    image = Image.new("P", (40, 40), 0)
    image.paste(1, (0, 0, 40, 20))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(path, format="PNG", transparency=bytes((255, 0)))


def frames(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        first, second = (Image.new("RGB", (40, 40), colour) for colour in ((255, 0, 0), (0, 0, 255)))
        first.save(path, format=kind, save_all=True, append_images=[second])

    return write


def image(mode: str, kind: str, colour, **options) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (40, 40), colour).save(path, format=kind, **options)


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def with_tail(path: Path) -> None:
    picture(path)
    path.write_bytes(path.read_bytes() + b"<?php system('id'); ?>" * 100)


def big_endian(path: Path) -> None:
    Image.fromarray(np.full((40, 40), 0x8000, ">u2")).save(path, format="TIFF")


SIXTEEN = b"\xff\xff\x80\x00\x00\x00" * 40
# What lies at the top and at the bottom.
HANDLED: dict[str, tuple[Callable[[Path], None], tuple[int, int, int], tuple[int, int, int]]] = {
    "PNG called .jpg": (image("RGB", "PNG", (1, 2, 3)), (1, 2, 3), (1, 2, 3)),
    "BMP called .jpg": (image("RGB", "BMP", (1, 2, 3)), (1, 2, 3), (1, 2, 3)),
    "CMYK in TIFF": (image("CMYK", "TIFF", (0, 255, 255, 0)), (255, 0, 0), (255, 0, 0)),
    "grey JPEG": (image("L", "JPEG", 90), (90, 90, 90), (90, 90, 90)),
    "two colours, one bit": (image("1", "PNG", 1), (255, 255, 255), (255, 255, 255)),
    "two bits of grey": (content(png(40, 40, 2, 0, b"\x55" * 10)), (85, 85, 85), (85, 85, 85)),
    "16 bits of RGB": (content(png(40, 40, 16, 2, SIXTEEN)), (255, 128, 0), (255, 128, 0)),
    "16 bits of grey, big-endian TIFF": (big_endian, (127, 127, 127), (127, 127, 127)),
    "16 bits of grey, a clear one": (
        content(png(40, 40, 16, 0, b"\x40\x00" * 40, chunk(b"tRNS", b"\x40\x00"))),
        (255, 255, 255),
        (255, 255, 255),
    ),
    "a clear colour": (
        content(png(40, 40, 8, 2, b"\x10\x20\x30" * 40, chunk(b"tRNS", b"\0\x10\0\x20\0\x30"))),
        (255, 255, 255),
        (255, 255, 255),
    ),
    "a palette with clear entries": (transparent_palette, (255, 255, 255), (255, 0, 0)),
    "an animation's first frame": (frames("GIF"), (255, 0, 0), (255, 0, 0)),
    "a phone's JPEG of two pictures": (frames("MPO"), (254, 0, 0), (254, 0, 0)),
    "JPEG and something behind it": (with_tail, (200, 30, 30), (200, 30, 30)),
    "one pixel": (content(png(1, 1, 8, 2, b"\x09\x08\xc8")), (9, 8, 200), (9, 8, 200)),
    "thin and tall": (
        lambda path: Image.new("RGB", (1, 60_000), (9, 8, 200)).save(path, format="PNG"),
        (9, 8, 200),
        (9, 8, 200),
    ),
}


@pytest.mark.parametrize("how", HANDLED)
def test_odd_images_are_read_as_they_look(how: str, tmp_path: Path) -> None:
    write, top, bottom = HANDLED[how]
    write(tmp_path / "bird.jpg")
    pixels = load(tmp_path / "bird.jpg")
    for part, colour in ((pixels[:, :16], top), (pixels[:, -16:], bottom)):
        expected = torch.tensor(colour, dtype=torch.float64)[:, None, None]
        assert (part - expected).abs().max() < 4


CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
# Of the EXIF standard: which of the stored corners is seen top left, top right, bottom left, bottom right.
ORIENTATIONS = {
    2: ("green", "red", "white", "blue"),
    4: ("blue", "white", "red", "green"),
    5: ("red", "blue", "green", "white"),
    6: ("blue", "red", "white", "green"),
    7: ("white", "green", "blue", "red"),
    8: ("green", "white", "red", "blue"),
    99: ("red", "green", "blue", "white"),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_are_turned_as_exif_says(orientation: int, tmp_path: Path) -> None:
    stored = Image.new("RGB", (60, 40))
    for i, colour in enumerate(CORNERS.values()):
        left, top = 30 * (i % 2), 20 * (i // 2)
        stored.paste(colour, (left, top, left + 30, top + 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "bird.jpg", exif=exif, quality=100, subsampling=0)
    pixels = load(tmp_path / "bird.jpg")
    seen = [pixels[:, y, x] for y in (6, 31) for x in (6, 31)]
    for corner, name in zip(seen, ORIENTATIONS[orientation], strict=True):
        assert (corner - torch.tensor(CORNERS[name], dtype=torch.float64)).abs().max() < 12, name


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Tag data larger than file")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01\0\x06",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x9c\x9b\0\x05\0\0\0\x7f\0\0\0\x01\0\0\0\0",
    ],
    ids=["garbage", "beyond the end", "cut short", "text for a number", "a tag of more than there is"],
)
@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # Pillow 12 says so
def test_broken_exif_spoils_no_picture(exif: bytes, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "bird.jpg", exif=exif, quality=95)
    pixels = load(tmp_path / "bird.jpg")
    assert (pixels - torch.tensor([200.0, 30, 30])[:, None, None]).abs().max() < 4
