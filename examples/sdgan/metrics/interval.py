"""The interval that a measured number stands in, by bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DRAWS = 2000


def bootstrap(count: int, statistic: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """A 95 % interval: images are drawn with replacement, because what is read from one image is not independent.

    Args:
        count: images.
        statistic: of draws of them, (2000, count) int64: the measure of each draw, (2000,).

    Returns:
        The 2.5 % and 97.5 % quantiles; the same for the same images.
    """
    draws = torch.randint(count, (DRAWS, count), generator=torch.Generator().manual_seed(0))
    return interval(statistic(draws))


def interval(values: Tensor) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of what was drawn, float64 (N,)."""
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
