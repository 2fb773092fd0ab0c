"""Noise that stays the same, so that pictures of different steps and models can be compared."""

from __future__ import annotations

import torch
from torch import Tensor


def fixed_noise(count: int, dim: int, seed: int = 0) -> Tensor:
    """The same noise for every picture of a run."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
