"""Pictures: cost as a multiple of plain batch norm, bandwidth against the machine's, and how cost grows."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from benchmarks.candidates import BASELINE
from benchmarks.run import Row, Shape

# Passes over x that a step cannot do without: read for statistics, read, write; read x and dy twice, write dx.
FLOOR = {"step": 8, "inference": 2}

_SUMMARY = (
    "SentenceSCBN",
    "WordSCBN",
    "WordSCBN, eager backend, compiled",
    "formula as written",
    "formula as written, compiled",
    "attention by SDPA",
    "attention by SDPA, compiled",
)


def ratios(row: Row, base: Row, what: str) -> list[float]:
    """Of each round, the candidate's time over the baseline's of the same round."""
    return [a / b for a, b in zip(getattr(row, what), getattr(base, what), strict=True)]


def baseline(rows: list[Row], row: Row, what: str) -> Row:
    """The batch norm that a row is compared with: eager or compiled, whichever is faster at its shape."""
    plain = [r for r in rows if r.shape == row.shape and r.words == row.words and r.candidate.startswith(BASELINE)]
    return min(plain, key=lambda r: median(getattr(r, what)))


def plot_ratios(rows: list[Row], path: Path, title: str) -> None:
    """A panel for step and one for inference; a bar is the median over rounds, the line spans all rounds."""

    def values(row: Row, what: str) -> list[float]:
        return ratios(row, baseline(rows, row, what), what)

    _bars(rows, values, "as a multiple of the faster BatchNorm2d", path, title, reference=1.0)


def plot_summary(rows: list[Row], path: Path, title: str) -> None:
    """The answer in one panel: a step of our layers and of what else computes the same, at the first shape."""
    mine = [row for row in rows if row.shape == rows[0].shape and row.candidate in _SUMMARY]
    if not mine:
        return
    figure, axis = plt.subplots(figsize=(7, 0.36 * len(mine) + 1.1))
    for i, row in enumerate(mine):
        found = ratios(row, baseline(rows, row, "step"), "step")
        axis.barh(i, median(found), 0.6, color="C0" if row.candidate.endswith("SCBN") else "C7")
        axis.hlines(i, min(found), max(found), color="black", linewidth=1)
        axis.annotate(f" {median(found):.1f}", (max(found), i), fontsize=9, va="center")
    axis.axvline(1.0, color="gray", linewidth=0.8)
    axis.set_yticks(range(len(mine)), [row.candidate for row in mine], fontsize=9)
    axis.invert_yaxis()
    axis.margins(x=0.08)
    axis.set_xlabel(f"training step as a multiple of the faster BatchNorm2d, {rows[0].shape}", fontsize=8)
    figure.suptitle(title, fontsize=7)
    figure.tight_layout(pad=0.6)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_bandwidth(rows: list[Row], path: Path, title: str, itemsize: int, limit: float) -> None:
    """The bytes that batch norm cannot do without, over the time taken, against what a copy reaches on this machine."""

    def values(row: Row, what: str) -> list[float]:
        size = itemsize * _volume(row.shape)
        return [FLOOR[what] * size / t / 1e9 for t in getattr(row, what)]

    _bars(rows, values, "GB/s of the floor of bytes (gray: a copy)", path, title, reference=limit / 1e9)


def plot_growth(panels: dict[str, list[tuple[int, Row]]], path: Path, title: str) -> None:
    """Milliseconds of a step against T, C, H and N, one panel each; the band spans all rounds."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.4), squeeze=False)
    for axis, (name, points) in zip(axes[0], panels.items(), strict=True):
        for candidate in dict.fromkeys(row.candidate for _, row in points):
            mine = [(at, row) for at, row in points if row.candidate == candidate]
            at = [value for value, _ in mine]
            (line,) = axis.plot(at, [1e3 * median(row.step) for _, row in mine], marker="o", ms=3, label=candidate)
            low, high = ([1e3 * pick(row.step) for _, row in mine] for pick in (min, max))
            axis.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel=name)
        axis.set_xticks(list(dict.fromkeys(at for at, _ in points)))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("step, ms")
    axes[0][-1].legend(fontsize=7, loc="upper left")
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.7, rect=(0, 0, 1, 0.97))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(rows: list[Row], values, label: str, path: Path, title: str, reference: float) -> None:
    shapes = list(dict.fromkeys(row.shape for row in rows))
    names = list(dict.fromkeys(row.candidate for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.26 * len(names) * len(shapes) + 1.4), sharey=True)
    for axis, what in zip(axes, ("step", "inference"), strict=True):
        for s, shape in enumerate(shapes):
            mine = {row.candidate: row for row in rows if row.shape == shape}
            for i, name in enumerate(names):
                found = values(mine[name], what)
                y = i + (s - (len(shapes) - 1) / 2) * 0.8 / len(shapes)
                bar = axis.barh(y, median(found), 0.75 / len(shapes), color=f"C{s}")
                axis.hlines(y, min(found), max(found), color="black", linewidth=1)
                if i == 0:
                    bar.set_label("x".join(map(str, shape)))
                # At the bar's end, over the range: beside the range's end it would be read off there.
                told = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
                at = {"xytext": (2, 0), "textcoords": "offset points", "va": "center"}
                axis.annotate(f"{median(found):.3g}", (median(found), y), fontsize=6, bbox=told, **at)
        axis.axvline(reference, color="gray", linewidth=0.8)
        axis.margins(x=0.06)
        axis.set_xlim(left=0)
        axis.set_title(f"{what}: {label}", fontsize=9)
        axis.grid(axis="x", alpha=0.25)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[1].legend(fontsize=7, loc="lower right")
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.7, rect=(0, 0, 1, 1 - 0.15 / figure.get_figheight()))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _volume(shape: Shape) -> int:
    n, c, h, w = shape
    return n * c * h * w
