"""Statistics shared between processes.

``nn.SyncBatchNorm`` marks a norm as shared, but its own forward applies no condition and refuses the CPU, so the
statistics are gathered here, for every device, with plain differentiable operations.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduceSum(torch.autograd.Function):
    """The sum over all processes, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grads[0], ctx.group), None  # pyright: ignore[reportReturnType]


def normalize(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    num_batches: Tensor | None,
    eps: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """Normalise ``x`` (N, C, *spatial) with the mean and variance of the joint batch of all processes of ``group``."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    local = x.new_full((1,), x.numel() / x.shape[1])
    # Two small reductions, not one of sums of squares: those cancel where the mean is large.
    joint = _AllReduceSum.apply(torch.cat((x.sum(axes), local)), group)
    assert isinstance(joint, Tensor)
    count = joint[-1].detach()
    mean = joint[:-1] / count
    centred = x - mean.reshape(1, -1, *(1,) * (x.dim() - 2))
    squares = _AllReduceSum.apply(centred.square().sum(axes), group)
    assert isinstance(squares, Tensor)
    var = squares / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            update_running(running_mean, mean, momentum, num_batches)
            update_running(running_var, squares / (count - 1), momentum, num_batches)
    return centred * torch.rsqrt(var + eps).reshape(1, -1, *(1,) * (x.dim() - 2))


def joint_statistics(mean: Tensor, var: Tensor, count: int, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) of the joint batch, and its values per channel (1,), from each process's own.

    One collective, and no sums of squares, which cancel where the mean is large.
    """
    local = torch.cat((mean, var, mean.new_full((1,), count)))
    members = [torch.empty_like(local) for _ in range(dist.get_world_size(group_named(group)))]
    dist.all_gather(members, local, group=group_named(group))
    means, variances, counts = torch.stack(members).split((len(mean), len(var), 1), 1)
    total = counts.sum(0)
    joint = (means * counts).sum(0) / total
    return joint, ((variances + (means - joint).square()) * counts).sum(0) / total, total


def joint_mean(means: Tensor, count: int, group: str) -> Tensor:
    """The mean over the joint batch of what each process gives as the mean of its ``count`` values."""
    total = torch.cat((means.flatten() * count, means.new_full((1,), count)))
    dist.all_reduce(total, group=group_named(group))
    return (total[:-1] / total[-1]).reshape(means.shape)


def group_named(name: str) -> dist.ProcessGroup:
    """The group a custom operation was told by name, because an operation's arguments cannot be a group."""
    return dist.distributed_c10d._resolve_process_group(name)  # pyright: ignore


def update_running(running: Tensor, batch: Tensor, momentum: float, num_batches: Tensor | None) -> None:
    """Move a running statistic towards the batch's, in place: by ``momentum``, or as the mean of all batches."""
    batch = batch.to(running.dtype)
    if num_batches is None:
        running.lerp_(batch, momentum)
    else:
        running.add_((batch - running) / num_batches)
