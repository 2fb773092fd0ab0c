"""Cost as a multiple of plain batch norm, with the spread."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.run import Row


def ratios(row: Row, base: Row, what: str) -> list[float]:
    """Of each round, the contender's time over the baseline's of the same round."""
    return [a / b for a, b in zip(getattr(row, what), getattr(base, what), strict=True)]


def plot(rows: list[Row], path: Path, title: str) -> None:
    """A panel for step and one for inference; a bar is the median over rounds, the line spans all rounds."""
    shapes = list(dict.fromkeys(row.shape for row in rows))
    names = list(dict.fromkeys(row.contender for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.3 * len(names) * len(shapes) + 1.4), sharey=True)
    for axis, what in zip(axes, ("step", "inference"), strict=True):
        for s, shape in enumerate(shapes):
            mine = {row.contender: row for row in rows if row.shape == shape}
            base = mine["BatchNorm2d"]
            for i, name in enumerate(names):
                values = ratios(mine[name], base, what)
                y = i + (s - (len(shapes) - 1) / 2) * 0.8 / len(shapes)
                bar = axis.barh(y, median(values), 0.75 / len(shapes), color=f"C{s}")
                axis.hlines(y, min(values), max(values), color="black", linewidth=1)
                if i == 0:
                    bar.set_label("x".join(map(str, shape)))
                axis.text(max(values), y, f" {median(values):.2f}", va="center", fontsize=6)
        axis.axvline(1, color="gray", linewidth=0.8)
        axis.set_title(f"{what}, as a multiple of BatchNorm2d", fontsize=9)
        axis.grid(axis="x", alpha=0.25)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=7, loc="lower right")
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
