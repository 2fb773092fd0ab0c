"""What such a bird can look like, its species, and the combinations that no training bird has."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.sdgan.data.birds.attributes import COLOURS, Birds

PATTERNS = ("plain", "striped", "spotted")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "crown": COLOURS,
    "throat": COLOURS,
    "wing": COLOURS,
    "belly": COLOURS,
    "tail": COLOURS,
    "wing pattern": PATTERNS,
    "belly pattern": PATTERNS,
    "tail length": ("short", "long"),
    "beak": ("short", "long"),
    "legs": ("red", "yellow", "black"),
    "posture": ("upright", "bent"),
    "perch": ("branch", "rock", "grass"),
    "background": ("sky", "forest", "sunset"),
}
"""Every attribute with its values; a label is an index into the values."""

NAMES = list(ATTRIBUTES)
SPECIES = 100
MUTATION = 0.3
HELD_OUT = ("crown", "wing")
"""Of these two attributes, a seventh of the combinations is in no training bird: see :func:`held_out`."""
_UNIFORM = 0.25
_PLUMAGE = [NAMES.index(part) for part in ("crown", "throat", "wing", "belly", "tail")]


def sample_birds(count: int, seed: int, training: bool = True) -> Birds:
    """Draw ``count`` birds of 100 species.

    A species settles every attribute, and a quarter of them are of one colour; in an individual each attribute is redrawn
    with probability 0.3. Training birds have none of the held-out combinations: their wings get another colour.
    """
    rng = torch.Generator().manual_seed(seed)
    species = torch.randint(SPECIES, (count,), generator=rng)
    strangers = _independent(count, rng)
    mutated = torch.rand(strangers.shape, generator=rng) < MUTATION
    labels = torch.where(mutated, strangers, prototypes()[species])
    if training:
        wing = NAMES.index("wing")
        labels[:, wing] = torch.where(held_out(labels), (labels[:, wing] + 1) % len(COLOURS), labels[:, wing])
    return Birds(labels, species)


def held_out(labels: Tensor) -> Tensor:
    """(N,) bool: which birds have a combination of crown and wings that no training bird has.

    With every crown goes one colour of the wings, another for each.
    """
    crown, wing = (labels[:, NAMES.index(part)] for part in HELD_OUT)
    return wing == (2 * crown + 3) % len(COLOURS)


def prototypes() -> Tensor:
    """(100, 14) int64, the labels of each species."""
    rng = torch.Generator().manual_seed(2019)
    labels = _independent(SPECIES, rng)
    uniform = torch.rand(SPECIES, generator=rng) < _UNIFORM
    for part in _PLUMAGE[1:]:
        labels[:, part] = torch.where(uniform, labels[:, _PLUMAGE[0]], labels[:, part])
    return labels


def _independent(count: int, rng: torch.Generator) -> Tensor:
    return torch.stack([torch.randint(len(v), (count,), generator=rng) for v in ATTRIBUTES.values()], 1)
