"""The drawn data sets by name: what their birds can look like, how they are drawn and described."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.sdgan.data import birds, birds_hard
from examples.sdgan.data.birds.attributes import Birds


@dataclass(frozen=True)
class Drawn:
    """A kind of drawn birds.

    Args:
        title: for messages.
        attributes: each with its values.
        sample: birds of a split, from a count and a seed.
        draw: uint8 images (N, 3, S, S) of birds, from the size and a seed.
        describe: captions of a bird's labels and, for each, the attributes that it names.
        seeds: of each split.
        reader_steps: what a classifier of the attributes needs.
        held_out: which birds have a combination that no training bird has, (N,) bool; ``None``: there is no such.
        likeliest: of labels and which of them are known, the likeliest of all; ``None``: nobody worked it out.
        reworded: a caption that no training caption is like, with or without synonyms, and what it names; or ``None``.
    """

    title: str
    attributes: Mapping[str, tuple[str, ...]]
    sample: Callable[[str, int, int], Birds]
    draw: Callable[[Birds, int, int], Tensor]
    describe: Callable[[list[int], random.Random, int], tuple[list[str], list[list[str]]]]
    seeds: Mapping[str, int]
    reader_steps: int
    held_out: Callable[[Tensor], Tensor] | None = None
    likeliest: Callable[[Tensor, Tensor], Tensor] | None = None
    reworded: Callable[[list[int], random.Random, bool], tuple[str, list[str]]] | None = None

    @property
    def names(self) -> list[str]:
        """Of the attributes, in the order of the labels."""
        return list(self.attributes)

    def independent(self, count: int, rng: torch.Generator) -> Tensor:
        """(N, A) labels of birds whose attributes know nothing of each other."""
        return torch.stack([torch.randint(len(v), (count,), generator=rng) for v in self.attributes.values()], 1)


DRAWN: dict[str, Drawn] = {
    "toy": Drawn(
        "embedded birds",
        birds.ATTRIBUTES,
        lambda split, count, seed: birds.sample_birds(count, seed),
        birds.draw,
        birds.describe,
        {"train": 1, "test": 2},
        350,
        likeliest=birds.likeliest,
        reworded=birds.reworded,
    ),
    "birds-hard": Drawn(
        "harder embedded birds",
        birds_hard.ATTRIBUTES,
        lambda split, count, seed: birds_hard.sample_birds(count, seed, split == "train"),
        birds_hard.draw,
        birds_hard.describe,
        {"train": 3, "test": 4},
        1000,
        held_out=birds_hard.held_out,
    ),
}
