"""Whether there are images enough to measure on: asked before hours go into what cannot be measured."""

from __future__ import annotations

from examples.sdgan.data.dataset import CaptionedImages

FEWEST = 4
"""Distances between sets of images need two in each, and their floor and KID compare halves of the real ones."""


def check_enough(data: CaptionedImages, count: int) -> None:
    """Raise ``ValueError``, naming the number that is needed, where a measure of ``count`` images has no value."""
    if count < FEWEST:
        raise ValueError(f"--images must be at least {FEWEST}, got {count}")
    if len(data) < FEWEST:
        raise ValueError(
            f"{data.name}: {len(data)} images to measure on, needs at least {FEWEST}: FID, KID and the matching distance "
            "compare halves of them, of two images each at least (thousands, for numbers that tell something)"
        )
    paraphrased = len(data.spread(len(data), paraphrased=True))
    if paraphrased < 2:
        raise ValueError(
            f"{data.name}: paraphrases need two held-out images with two different captions each, found {paraphrased}"
        )
    check_negatives(data, count)


def check_negatives(data: CaptionedImages, count: int) -> None:
    """Raise ``ValueError`` where R-precision has no caption to compare with."""
    chosen = data.spread(count)
    classes = range(len(data)) if data.classes is None else data.classes.tolist()
    kinds = {(classes[i], data.captions[i][0]): i for i in chosen}
    for number, text in kinds:
        if not any(other != number and told != text for other, told in kinds):
            what = "another caption" if data.classes is None else "another class and another caption"
            raise ValueError(
                f"{data.name}: R-precision needs at least two images to measure on, and for each one with {what}; "
                f"{text!r:.80} has none among {len(chosen)} images"
            )
