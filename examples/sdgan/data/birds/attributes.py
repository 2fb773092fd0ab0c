"""What a bird can look like, and the species whose looks go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COLOURS = ("red", "yellow", "green", "blue", "white", "black", "brown")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "crown": COLOURS,
    "wing": COLOURS,
    "belly": COLOURS,
    "beak": ("short", "long"),
}
"""Every attribute with its values; a label is an index into the values."""

SPECIES = 60
MUTATION = 0.15


@dataclass(frozen=True)
class Birds:
    """Birds, not yet drawn.

    Args:
        labels: (N, 5) int64, an index into the values of each attribute, in the order of ``ATTRIBUTES``.
        species: (N,) int64, the class.
    """

    labels: Tensor
    species: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def sample_birds(count: int, seed: int) -> Birds:
    """Draw ``count`` birds of 60 species.

    A species settles every attribute; in an individual each is redrawn with probability 0.15. So attributes are
    correlated, as in nature: what one caption leaves out, the rest of the bird often tells. The species are the same
    for every seed.
    """
    rng = torch.Generator().manual_seed(seed)
    species = torch.randint(SPECIES, (count,), generator=rng)
    strangers = torch.stack([torch.randint(len(v), (count,), generator=rng) for v in ATTRIBUTES.values()], 1)
    mutated = torch.rand(strangers.shape, generator=rng) < MUTATION
    return Birds(torch.where(mutated, strangers, prototypes()[species]), species)


def prototypes() -> Tensor:
    """(60, 5) int64, the labels of each species."""
    rng = torch.Generator().manual_seed(2019)
    return torch.stack([torch.randint(len(v), (SPECIES,), generator=rng) for v in ATTRIBUTES.values()], 1)


def likeliest(labels: Tensor, named: Tensor) -> Tensor:
    """The likeliest value of every attribute of birds of which some attributes are known.

    With species equally likely: P(a = v | named) is the mean over species, weighted by how well they fit what is named.

    Args:
        labels: (N, A) int64; named: (N, A) bool, which of them are known.

    Returns:
        (N, A) int64; what is named stays.
    """
    species = prototypes()
    chances = [len(values) for values in ATTRIBUTES.values()]
    fits = labels.new_ones(len(labels), SPECIES, dtype=torch.float64)
    for a, n in enumerate(chances):
        match = (labels[:, a, None] == species[None, :, a]).double()
        fits = torch.where(named[:, a, None], fits * (MUTATION / n + (1 - MUTATION) * match), fits)
    guesses = []
    for a, n in enumerate(chances):
        shows = MUTATION / n + (1 - MUTATION) * F.one_hot(species[:, a], n).double()
        guesses.append((fits @ shows).argmax(1))
    return torch.where(named, labels, torch.stack(guesses, 1))
