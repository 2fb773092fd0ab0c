"""What a bird can look like, and the species whose looks go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
    sizes = [len(values) for values in ATTRIBUTES.values()]
    species_rng = torch.Generator().manual_seed(2019)
    prototypes = torch.stack([torch.randint(n, (SPECIES,), generator=species_rng) for n in sizes], 1)
    rng = torch.Generator().manual_seed(seed)
    species = torch.randint(SPECIES, (count,), generator=rng)
    strangers = torch.stack([torch.randint(n, (count,), generator=rng) for n in sizes], 1)
    mutated = torch.rand(strangers.shape, generator=rng) < MUTATION
    return Birds(torch.where(mutated, strangers, prototypes[species]), species)
