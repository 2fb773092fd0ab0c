"""The drawn birds as data sets."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from examples.sdgan.data.dataset import CaptionedImages
from examples.sdgan.data.drawn import DRAWN

COUNTS = {"train": 6000, "test": 1500}


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


def birds(split: str, size: int, count: int | None = None, kind: str = "toy") -> CaptionedImages:
    """The birds of a split (``"train"`` or ``"test"``), drawn at ``size`` pixels with ten captions each."""
    drawn = DRAWN[kind]
    seed = drawn.seeds[split]
    flock = drawn.sample(split, count or COUNTS[split], seed)
    rng = random.Random(seed)
    described = [drawn.describe(labels, rng, 10) for labels in flock.labels.tolist()]
    return CaptionedImages(
        name=f"{drawn.title} ({split})",
        images=DrawnImages(drawn.draw(flock, size, seed)),
        captions=[texts for texts, _ in described],
        classes=flock.species,
        labels=flock.labels,
        named=[named for _, named in described],
        drawn=drawn,
    )
