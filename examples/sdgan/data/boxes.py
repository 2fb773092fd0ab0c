"""Bounding boxes of CUB-200-2011, each with the line it is from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from examples.sdgan.data.dataset import DataError
from examples.sdgan.data.lookup import without_ending
from examples.sdgan.data.reading import form, is_file, numbered_lines

EDGE = 2.0
"""Pixels by which a box may leave its image: boxes are rounded, and drawn by hand."""
SIDE = 4.0
"""Pixels of the shortest side: of fewer nothing can be seen, and they are likely another image's, or no pixels."""


class Box(NamedTuple):
    """A bounding box in pixels, and where it is written."""

    x: float
    y: float
    width: float
    height: float
    where: str = ""


def read_boxes(folder: Path, names: Sequence[str]) -> list[Box] | None:
    """The box of every name, from ``bounding_boxes.txt`` and ``images.txt``; ``None`` where there is no such file.

    Args:
        folder: of both files.
        names: of the images, in the form of :meth:`Folder.key`.

    Raises:
        DataError: a line is not as it must be, or an image has none.
    """
    path, index = folder / "bounding_boxes.txt", folder / "images.txt"
    if not is_file(path):
        return None
    numbers, rows, boxes = _numbers(index, set(names)), _rows(path), []
    for name in names:
        if name not in numbers:
            raise DataError(f"{path}: no bounding box for {name!r}; {index} must list every image")
        if numbers[name] not in rows:
            raise DataError(f"{path}: no bounding box for {name!r}, which is number {numbers[name]} in {index}")
        line, words = rows[numbers[name]]
        boxes.append(_box(f"{path}: line {line}", words))
    _check_pixels(path, boxes)
    return boxes


def _numbers(path: Path, known: set[str]) -> dict[str, str]:
    """The number of every name; which box is an image's must follow from the files in one way."""
    numbers: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, text in numbered_lines(path).items():
        number, *name = text.split(maxsplit=1)
        if not name:
            raise DataError(f"{path}: line {line}: expected 'number CLASS/NAME.jpg', got {text!r:.80}")
        key = _key(name[0], known)
        for what in (f"number {number}", f"image {key!r}"):
            if what in lines:
                raise DataError(
                    f"{path}: line {line}: names {what} again, after line {lines[what]}; each image has one "
                    "number and "
                    "each number one image: take the wrong line away"
                )
            lines[what] = line
        numbers[key] = number
    return numbers


def _rows(path: Path) -> dict[str, tuple[int, list[str]]]:
    """Line and words of every number."""
    rows: dict[str, tuple[int, list[str]]] = {}
    for line, text in numbered_lines(path).items():
        number, *_ = words = text.split()
        if number in rows:
            raise DataError(
                f"{path}: line {line}: a box of number {number} again, after line {rows[number][0]}; each "
                "image has one: "
                "take the wrong line away"
            )
        rows[number] = (line, words)
    return rows


def _check_pixels(path: Path, boxes: Sequence[Box]) -> None:
    if boxes and all(max(box.x, box.y, box.width, box.height) <= 1 for box in boxes):
        raise DataError(
            f"{path}: all {len(boxes):,} boxes lie within 1, so they are fractions of the image; boxes are in "
            "pixels: "
            "multiply x and width by the width of each image, y and height by its height"
        )
    for box in boxes:
        if min(box.width, box.height) < SIDE:
            raise DataError(
                f"{box.where}: a bounding box of {box.width:g} x {box.height:g} pixels, needs at least "
                f"{SIDE:g} on a "
                "side; boxes are 'number x y width height' in pixels of the image as it is: put the line "
                "right, or take "
                "bounding_boxes.txt away to use images whole"
            )


def _key(name: str, known: set[str]) -> str:
    key = form(without_ending(name.strip().replace("\\", "/").removeprefix("./")))
    # A class may be called as the folder of all images is.
    return key if key in known else key.removeprefix("images/")


def _box(where: str, words: list[str]) -> Box:
    try:
        x, y, width, height = map(float, words[1:5])
    except ValueError as error:
        raise DataError(f"{where}: expected lines of 'number x y width height' ({error})") from error
    if not all(math.isfinite(value) for value in (x, y, width, height)) or width <= 0 or height <= 0:
        raise DataError(f"{where}: expected lines of 'number x y width height', got no box: {' '.join(words)}")
    return Box(x, y, width, height, where)


def reach(box: Box, size: tuple[int, int]) -> float:
    """How far to the right or down a box reaches, as a share of the image."""
    return max((box.x + box.width) / size[0], (box.y + box.height) / size[1])


def around(box: Box, size: tuple[int, int], path: Path) -> tuple[int, int, int, int]:
    """A square of 1.5 times the box's longer side around its centre, within the image, as in AttnGAN.

    Raises:
        DataError: the box leaves the image, so that it is of another image, or of this one in another size.
    """
    x, y, width, height, where = box
    inside = x >= -EDGE and y >= -EDGE and x + width <= size[0] + EDGE and y + height <= size[1] + EDGE
    radius = 0.75 * max(width, height)
    cx, cy = x + width / 2, y + height / 2
    left, top = max(0, int(cx - radius)), max(0, int(cy - radius))
    right, bottom = min(size[0], int(cx + radius)), min(size[1], int(cy + radius))
    empty = left >= right or top >= bottom
    if not inside or empty:
        what = "leaves nothing of" if empty else "does not lie within"
        raise DataError(
            f"{where or 'bounding boxes'}: {path}: its bounding box {x:g} {y:g} {width:g} {height:g} {what} "
            f"{size[0]} x {size[1]} pixels; boxes are in pixels of the image as it is: use the images that they were "
            "made for, scale the boxes with the images, or take bounding_boxes.txt away to use images whole"
        )
    return left, top, right, bottom
