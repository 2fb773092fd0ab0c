"""The embedded birds as a data set."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from examples.sdgan.data.birds import describe, draw, sample_birds
from examples.sdgan.data.dataset import CaptionedImages

COUNTS = {"train": 6000, "test": 1500}
_SEEDS = {"train": 1, "test": 2}


class DrawnImages:
    """All images drawn at once and kept in memory."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def load(self, indices: list[int], size: int, rng: torch.Generator | None) -> Tensor:
        """uint8 (N, 3, size, size), as drawn: cropped or flipped birds would be birds of another kind."""
        images = self.images[indices]
        if images.shape[-1] != size:
            raise ValueError(f"the birds were drawn at {images.shape[-1]} px, asked for {size}")
        return images


def birds(split: str, size: int, count: int | None = None) -> CaptionedImages:
    """The birds of a split (``"train"`` or ``"test"``), drawn at ``size`` pixels with ten captions each."""
    seed = _SEEDS[split]
    flock = sample_birds(count or COUNTS[split], seed)
    rng = random.Random(seed)
    described = [describe(labels, rng) for labels in flock.labels.tolist()]
    return CaptionedImages(
        name=f"embedded birds ({split})",
        images=DrawnImages(draw(flock, size, seed)),
        captions=[texts for texts, _ in described],
        classes=flock.species,
        labels=flock.labels,
        named=[named for _, named in described],
    )
