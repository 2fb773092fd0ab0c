"""What a run leaves: a table to print, JSON and CSV to keep, pictures to look at."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.plot import FLOOR, baseline, plot_bandwidth, plot_growth, plot_ratios, ratios
from benchmarks.run import Row


def table(rows: list[Row], itemsize: int, limit: float, base: str | None = None) -> Table:
    """Medians over rounds of the ratio to the faster batch norm (or ``base``) in the same round, with the range."""
    multiple = base or "BN"
    result = Table(
        "shape", "candidate", f"step / {multiple}", f"inference / {multiple}", "kept / |x|", "of copy", "error"
    )
    for row in rows:
        cells = []
        for what in ("step", "inference"):
            other = baseline(rows, row, what) if base is None else next(r for r in rows if r.candidate == base)
            cells.append(_spread(ratios(row, other, what)))
        size = itemsize * _volume(row)
        share = FLOOR["step"] * size / median(row.step) / limit
        kept = f"{row.kept / size:.2f}" if row.kept else ""
        error = "" if row.error is None else f"{row.error:.0e}"
        of_copy = f"{share:.0%}" if base is None else ""
        result.add_row("x".join(map(str, row.shape)), row.candidate, *cells, kept, of_copy, error)
    return result


def write(
    folder: Path,
    about: dict[str, Any],
    rows: list[Row],
    generator: list[Row],
    panels: dict[str, list[tuple[int, Row]]],
    itemsize: int,
) -> None:
    """results.json, results.csv, results.png, bandwidth.png and, where it was measured, growth.png."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        **about,
        "rows": [dataclasses.asdict(row) for row in rows],
        "generator": [dataclasses.asdict(row) for row in generator],
        "growth": {
            axis: [{"at": at, **dataclasses.asdict(row)} for at, row in points] for axis, points in panels.items()
        },
    }
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = [
            "candidate",
            "n",
            "c",
            "h",
            "w",
            "words",
            "step_s",
            "inference_s",
            "kept_bytes",
            "peak_bytes",
            "error",
        ]
        writer.writerow([*header, *(key for key in about)])
        for row in [*rows, *generator]:
            times = median(row.step), median(row.inference)
            writer.writerow(
                [row.candidate, *row.shape, row.words, *times, row.kept, row.peak, row.error, *about.values()]
            )
    title = (
        f"{about['machine']}, {about['threads']} thread(s), torch {about['torch']}, "
        f"T = {about['words']}, {about['dtype']}, commit {about['commit']}"
    )
    plot_ratios(rows, folder / "results.png", title)
    plot_bandwidth(rows, folder / "bandwidth.png", title, itemsize, about["copy_bytes_per_second"])
    if panels:
        plot_growth(panels, folder / "growth.png", title.replace("T = ", "but in the first panel T = "))


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _volume(row: Row) -> int:
    n, c, h, w = row.shape
    return n * c * h * w
