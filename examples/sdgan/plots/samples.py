"""Everything of a run that a person would rather look at than read."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch.nn.functional as F
from torch import Tensor

History = dict[str, dict[str, list[float]]]
"""Of each phase, each curve: a value for every recorded step, and the steps under ``"step"``."""


def sample_grid(images: Tensor, captions: list[str], path: Path, columns: int = 6, title: str = "") -> None:
    """Images (N, 3, S, S) in [-1, 1] with their captions underneath."""
    rows = math.ceil(len(images) / columns)
    width = 26
    # A caption of thousands of words would make a picture larger than can be drawn.
    captions = [textwrap.fill(caption, width, max_lines=12, placeholder=" ...") for caption in captions]
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.75 * columns, (1.65 + 0.155 * lines) * rows + 0.4), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(pixels(image), interpolation="nearest")
        axis.text(
            0.5,
            -0.04,
            printable(caption),
            transform=axis.transAxes,
            ha="center",
            va="top",
            fontsize=7,
            parse_math=False,
        )
    if title:
        figure.suptitle(title, fontsize=9)
    _finish(figure, path)


def attention_sheet(
    images: Tensor, maps: Tensor, words: list[list[str]], path: Path, columns: int = 14, title: str = ""
) -> None:
    """A row an image: the picture, then where it attends to each word of its caption.

    Args:
        images: (N, 3, S, S) in [-1, 1].
        maps: (N, T, H, W), word attention.
        words: of each caption; at most the first ``columns`` are shown.
        path: of the picture.
        columns: words a row.
        title: above all.
    """
    columns = min(columns, max(map(len, words)))
    figure, axes = plt.subplots(
        len(images), columns + 1, figsize=(1.2 * (columns + 1), 1.42 * len(images) + 0.4), squeeze=False
    )
    size = images.shape[-1]
    heat = F.interpolate(maps.float(), size=(size, size), mode="bilinear", align_corners=False)
    for row, image, attention, caption in zip(axes, images, heat, words, strict=True):
        for axis in row:
            axis.axis("off")
        row[0].imshow(pixels(image), interpolation="nearest")
        row[0].set_title("generated", fontsize=7, pad=2)
        for axis, word, weight in zip(row[1:], caption, attention, strict=False):
            axis.imshow(pixels(image).mean(2), cmap="gray", vmin=0, vmax=1)
            peak = float(weight.max())
            axis.imshow(weight.numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=max(peak, 1e-6))
            axis.set_title(printable(f"{word}  {peak:.2f}"), fontsize=7, pad=2, parse_math=False)
    figure.suptitle(title or "word attention; the number is the map's highest weight", fontsize=9)
    _finish(figure, path)


def loss_curves(history: History, path: Path) -> None:
    """A panel for each loss of each phase; the line is a moving average over the points behind it."""
    panels = [
        (phase, name, curves["step"], values)
        for phase, curves in history.items()
        for name, values in curves.items()
        if name != "step" and any(math.isfinite(value) for value in values)
    ]
    columns = 4
    rows = max(1, math.ceil(len(panels) / columns))
    figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (phase, name, steps, values) in zip(axes.flat, panels, strict=False):
        axis.axis("on")
        points = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
        x, y = [s for s, _ in points], [v for _, v in points]
        axis.plot(x, y, ".", markersize=2, alpha=0.35, color="tab:blue")
        window = max(1, len(y) // 25)
        smooth = [sum(y[max(0, i - window) : i + 1]) / len(y[max(0, i - window) : i + 1]) for i in range(len(y))]
        axis.plot(x, smooth, color="tab:blue", linewidth=1.2)
        axis.set_title(f"{phase}: {name}", fontsize=8)
        axis.set_xlabel("step", fontsize=7)
        axis.tick_params(labelsize=6)
        axis.grid(alpha=0.25)
    _finish(figure, path)


def printable(text: str) -> str:
    """Without what no font can encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def pixels(image: Tensor):
    """(S, S, 3) in [0, 1], to show."""
    return ((image.detach().float().cpu().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()


def _finish(figure, path: Path) -> None:
    figure.tight_layout(pad=0.6)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def finest(maps: dict[str, Tensor]) -> tuple[str, Tensor] | None:
    """The word map of the highest resolution, with its layer's name; ``None`` where no layer attends to words."""
    if not maps:
        return None
    name = max(maps, key=lambda key: maps[key].shape[-1])
    return name, maps[name]
