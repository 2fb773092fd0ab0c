"""Before, at step 0 and after, side by side, with what the new layers hear."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch.nn.functional as F
from torch import Tensor

from examples.sdgan.plots.samples import pixels, printable


def side_by_side(
    columns: dict[str, Tensor],
    maps: Tensor | None,
    words: list[list[str]],
    captions: list[str],
    path: Path,
    title: str,
) -> None:
    """A row a caption: its image of every column, then where the finest word layer attends to each word.

    Args:
        columns: name to images (N, 3, S, S) in [-1, 1].
        maps: (N, T, H, W), or ``None`` where no layer attends to words.
        words: of each caption.
        captions: printed under their row.
        path: of the picture.
        title: above all.
    """
    shown = 0 if maps is None else min(10, max(map(len, words)))
    across = len(columns) + shown
    figure, axes = plt.subplots(
        len(captions), across, figsize=(1.35 * across, 1.75 * len(captions) + 0.5), squeeze=False
    )
    size = next(iter(columns.values())).shape[-1]
    heat = (
        None
        if maps is None
        else F.interpolate(maps.float(), size=(size, size), mode="bilinear", align_corners=False)
    )
    for r, (row, caption) in enumerate(zip(axes, captions, strict=True)):
        for axis in row:
            axis.axis("off")
        for axis, (name, images) in zip(row, columns.items(), strict=False):
            axis.imshow(pixels(images[r]), interpolation="nearest")
            axis.set_title(name, fontsize=7, pad=2)
        text = printable(textwrap.shorten(caption, 150))
        told = row[0].text(0, -0.05, text, transform=row[0].transAxes, va="top", fontsize=7, parse_math=False)
        told.set_in_layout(False)  # it runs on under the whole row
        if heat is None:
            continue
        last = pixels(list(columns.values())[-1][r])
        for axis, word, weight in zip(row[len(columns) :], words[r], heat[r], strict=False):
            peak = float(weight.max())
            axis.imshow(last.mean(2), cmap="gray", vmin=0, vmax=1)
            axis.imshow(weight.numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=max(peak, 1e-6))
            axis.set_title(printable(f"{word}  {peak:.2f}"), fontsize=7, pad=2, parse_math=False)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.6)
    figure.savefig(path, dpi=130)
    plt.close(figure)
