"""Pictures of measurements: paraphrases side by side, one word changed at a time, measures with their intervals."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from torch import Tensor

from examples.sdgan.data.dataset import CaptionedImages, to_float
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.plots.samples import pixels, printable


def paraphrase_sheet(
    samplers: dict[str, Sampler], data: CaptionedImages, path: Path, rows: int, columns: int = 5, real: bool = True
) -> None:
    """A row an image: the real one (unless it must not be shown), then what its captions generate from one noise."""
    chosen = data.spread(rows, paraphrased=True)
    first = next(iter(samplers.values()))
    noise = fixed_noise(len(chosen), first.config.generator.noise_dim, seed=6)
    cells: list[list[tuple[Tensor, str]]] = []
    for row, i in enumerate(chosen):
        captions = list(dict.fromkeys(data.captions[i]))[:columns]
        shown = to_float(data.images.load([i], first.config.size, None))[0]
        cells.append([(shown, "real image")] if real else [])
        for name, sampler in samplers.items():
            images = sampler.images(captions, noise[row].expand(len(captions), -1))
            told = [f"{name}: {caption}" if name else caption for caption in captions]
            cells[-1] += zip(images, told, strict=True)
    width = max(map(len, cells))
    _grid(cells, width, path, f"{data.name}: captions of one image, from one noise")


def word_change_sheet(
    samplers: dict[str, Sampler], captions: list[str], path: Path, title: str, seed: int = 7
) -> None:
    """A row a model: the same noise, and captions in which one word changes at a time."""
    cells = []
    for name, sampler in samplers.items():
        noise = fixed_noise(1, sampler.config.generator.noise_dim, seed).expand(len(captions), -1)
        images = sampler.images(captions, noise)
        cells.append([(image, f"{name}: {caption}") for image, caption in zip(images, captions, strict=True)])
    _grid(cells, len(captions), path, title)


def _grid(cells: list[list[tuple[Tensor, str]]], columns: int, path: Path, title: str) -> None:
    width = 26
    lines = max(len(textwrap.wrap(text, width)) for row in cells for _, text in row)
    figure, axes = plt.subplots(
        len(cells), columns, figsize=(1.75 * columns, (1.7 + 0.155 * lines) * len(cells) + 0.4), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, line in zip(axes, cells, strict=True):
        for axis, (image, text) in zip(row, line, strict=False):
            axis.imshow(pixels(image), interpolation="nearest")
            told = printable(textwrap.fill(text, width))
            axis.text(
                0.5, -0.04, told, transform=axis.transAxes, ha="center", va="top", fontsize=7, parse_math=False
            )
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.6)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def measures_chart(found: dict[str, Any], path: Path, title: str) -> None:
    """Every share and ratio with its interval; the others as text."""
    shares = {k: v for k, v in found.items() if "interval_95" in v and k != "matching_distance"}
    others = {k: v for k, v in found.items() if k not in shares}
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(shares) + 1.4))
    for row, value in enumerate(reversed(shares.values())):
        low, high = value["interval_95"]
        axis.plot([low, high], [row, row], color="tab:blue", linewidth=3, alpha=0.5)
        axis.plot(value["value"], row, "o", color="tab:blue")
        axis.annotate(
            f"{value['value']:.3f}",
            (value["value"], row),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    axis.set_yticks(range(len(shares)), [name.replace("_", " ") for name in reversed(shares)], fontsize=8)
    axis.set_xlim(-0.02, 1.05)
    axis.grid(axis="x", alpha=0.25)
    told = ", ".join(f"{k.replace('_', ' ')} {v['value']:.3g}" for k, v in others.items())
    axis.set_xlabel(f"value and 95 % interval{'; ' if told else ''}{told}", fontsize=8)
    axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.6)
    figure.savefig(path, dpi=130)
    plt.close(figure)
