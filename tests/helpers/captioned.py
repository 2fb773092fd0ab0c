"""Small folders of captioned images, in the layouts that people have."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.files import picture

from examples.sdgan.data.folder import folder

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "grey": (120, 120, 120)}


def images(root: Path, count: int = 20, place: str = "") -> list[tuple[str, str]]:
    """Pictures of one colour, each with a caption that names it."""
    made = []
    for i in range(count):
        colour = list(COLOURS)[i % 4]
        name = f"{place}photo {i:02}.png"
        picture(root / name, COLOURS[colour])
        made.append((name, f"a {colour} thing, number {i}"))
    return made


def as_csv(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)


def both(root: Path, **options: Any) -> tuple[Any, Any]:
    return folder(root, "train", 32, **options), folder(root, "test", 32, **options)
