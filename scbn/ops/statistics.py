"""The statistics that a fused operation normalises with, and how it returns them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scbn.ops import sync
from scbn.ops.values import Statistics


def used_statistics(
    of_batch: Callable[[Tensor], Statistics], x: Tensor, mean: Tensor | None, var: Tensor | None, group: str
) -> Statistics:
    """What x (N, C, P) is normalised with: the given statistics, or those of the batch, of all processes of a group."""
    if mean is not None and var is not None:
        return Statistics(mean.clone(), var.clone())
    stats = of_batch(x)
    return sync.joint_statistics(stats, x.shape[0] * x.shape[2], group) if group else stats


def as_outputs(stats: Statistics) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics as a custom operation returns them; their count (1,), or (0,) where no processes share them."""
    count = stats.count if isinstance(stats.count, Tensor) else stats.mean.new_empty(0)
    return stats.mean, stats.var, count


def fake_outputs(x: Tensor, mean: Tensor | None, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors like :func:`as_outputs` for the compiler."""
    channels = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    return channels, torch.empty_like(channels), channels.new_empty(1 if group and mean is None else 0)
