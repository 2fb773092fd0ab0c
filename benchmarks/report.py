"""What a run leaves: a table to print, JSON and CSV to keep, pictures to look at."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.plot import baseline, plot_bandwidth, plot_growth, plot_ratios, plot_summary, ratios
from benchmarks.run import Row, Shape


def table(rows: list[Row], itemsize: int, base: str | None = None) -> Table:
    """Medians over rounds of the ratio to the faster batch norm (or ``base``) in the same round, with the range.

    80 columns wide; a shape stands once, above its candidates.
    """
    multiple = "BN" if base is None else base.rpartition(", ")[2]
    result = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    result.add_column("candidate", no_wrap=True)
    for name in (f"step / {multiple}", f"inference / {multiple}", "kept/|x|"):
        result.add_column(name, justify="right")
    shape: Shape | None = None
    for row in rows:
        if row.shape != shape:
            shape = row.shape
            result.add_section()
            result.add_row(f"[bold]{' x '.join(map(str, shape))}")
        cells = []
        for what in ("step", "inference"):
            other = baseline(rows, row, what) if base is None else next(r for r in rows if r.candidate == base)
            cells.append(_spread(ratios(row, other, what)))
        kept = f"{row.kept / (itemsize * math.prod(row.shape)):.2f}" if row.kept else ""
        result.add_row(row.candidate, *cells, kept)
    return result


def write(
    folder: Path,
    about: dict[str, Any],
    rows: list[Row],
    generator: list[Row],
    panels: dict[str, list[tuple[int, Row]]],
    itemsize: int,
) -> None:
    """results.json, results.csv, results.png, summary.png, bandwidth.png and, where it was measured, growth.png."""
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
        f"T = {about['words']}, {about['dtype']}, {about['layout'].replace('_', ' ')}, {about['allocator']} memory, commit {about['commit']}"
    )
    plot_ratios(rows, folder / "results.png", title)
    plot_summary(rows, folder / "summary.png", title)
    plot_bandwidth(rows, folder / "bandwidth.png", title, itemsize, about["copy_bytes_per_second"])
    if panels:
        plot_growth(panels, folder / "growth.png", title.replace("T = ", "but in the first panel T = "))


def _spread(values: list[float]) -> str:
    middle = median(values)
    return f"{middle:.{1 if middle >= 10 else 2}f} ({min(values):.1f}-{max(values):.1f})"
