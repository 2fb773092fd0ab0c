"""How cost grows: one of T, C, H and N at a time, the others as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from benchmarks.candidates import CANDIDATES
from benchmarks.run import Row, Shape, measure
from benchmarks.timing import Setting

NAMES = ("BatchNorm2d", "SentenceSCBN", "WordSCBN", "formula as written")
START: Shape = (4, 64, 64, 64)
VALUES = {"T": (4, 9, 18, 36, 64), "C": (16, 32, 64, 128, 256), "H": (16, 32, 64, 128), "N": (1, 2, 4, 8, 16)}


def growth(setting: Setting, report: Callable[[str], None]) -> dict[str, list[tuple[int, Row]]]:
    """Of each axis, its values and the rows measured there; W follows H."""
    candidates = [c for c in CANDIDATES if c.name in NAMES]
    panels: dict[str, list[tuple[int, Row]]] = {}
    for axis, value, shape, words in _points(setting.words):
        told = dataclasses.replace(setting, words=words)
        rows = measure(shape, candidates, told, lambda s, a=axis, v=value: report(f"growth, {a} = {v}: {s}"))
        panels.setdefault(axis, []).extend((value, row) for row in rows)
    return panels


def _points(words: int) -> Iterator[tuple[str, int, Shape, int]]:
    n, c, h, w = START
    for value in VALUES["T"]:
        yield "T", value, START, value
    for value in VALUES["C"]:
        yield "C", value, (n, value, h, w), words
    for value in VALUES["H"]:
        yield "H", value, (n, c, value, value), words
    for value in VALUES["N"]:
        yield "N", value, (value, c, h, w), words
