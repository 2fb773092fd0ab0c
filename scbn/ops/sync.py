"""Statistics shared between processes.

``nn.SyncBatchNorm`` marks a norm as shared, but its own forward applies no condition and refuses the CPU, so the
statistics are gathered here, for every device.

Every process of a group must make the same collective calls in the same order, whatever its own part of the batch is
like. So nothing here, nor what calls it, may depend on a local size: a process without any sample takes part too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scbn.ops.values import Joint, Statistics

if dist.is_available() and not dist.is_initialized():
    # Its functions have the default group of the moment of their import as an argument's default, and torch imports it
    # with the first custom operation that runs. A group kept so outlives destroy_process_group, and gloo's threads with it,
    # one of which may then be ended by the interpreter's exit: "terminate called without an active exception".
    import torch.distributed.nn.functional


class _AllReduceSum(torch.autograd.Function):
    """The sum over all processes, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group.group_name  # by name: a graph that is still there keeps no group alive
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grads[0], group_named(ctx.group)), None  # pyright: ignore[reportReturnType]


def normalize(
    x: Tensor, eps: float, group: dist.ProcessGroup, learning: bool = False
) -> tuple[Tensor, Statistics]:
    """``x`` (N, C, *spatial) normalised by the joint batch of all processes of ``group``, and its statistics.

    ``learning``: there will be a backward pass, in which this process takes part even if its own ``x`` needs no gradient.
    """
    axes = [axis for axis in range(x.dim()) if axis != 1]
    local = x.new_full((1,), x.numel() / x.shape[1])
    # Two small reductions, not one of sums of squares: those cancel where the mean is large.
    sums = x.sum(axes)
    if learning and not x.requires_grad and torch.is_grad_enabled():
        sums = sums + sums.new_zeros((), requires_grad=True)
    joint = _AllReduceSum.apply(torch.cat((sums, local)), group)
    assert isinstance(joint, Tensor)
    count = joint[-1:].detach()
    mean = joint[:-1] / count.clamp(min=1)
    centred = x - mean.reshape(1, -1, *(1,) * (x.dim() - 2))
    squares = _AllReduceSum.apply(centred.square().sum(axes), group)
    assert isinstance(squares, Tensor)
    var = squares / count.clamp(min=1)
    xhat = centred * torch.rsqrt(var + eps).reshape(1, -1, *(1,) * (x.dim() - 2))
    return xhat, Statistics(mean.detach(), var.detach(), count)


def joint_statistics(local: Statistics, count: int, group: str) -> Statistics:
    """Of the joint batch, from each process's own ``count`` values a channel.

    One collective, and no sums of squares, which cancel where the mean is large.
    """
    channels = len(local.mean)
    share = torch.cat((local.mean, local.var, local.mean.new_full((1,), count)))
    members = [torch.empty_like(share) for _ in range(dist.get_world_size(group_named(group)))]
    dist.all_gather(members, share, group=group_named(group))
    means, variances, counts = torch.stack(members).split((channels, channels, 1), 1)
    total = counts.sum(0)
    mean = (means * counts).sum(0) / total.clamp(min=1)
    squares = (variances + (means - mean).square()) * counts
    return Statistics(mean, squares.sum(0) / total.clamp(min=1), total)


def joint_of(x: Tensor, group: str) -> Joint:
    """What turns means over this process's x (N, C, P) into means over the joint batch."""
    count = x.shape[0] * x.shape[2]

    def joint(means: Tensor) -> Tensor:
        if not group:
            return means
        total = torch.cat((means.flatten() * count, means.new_full((1,), count)))
        dist.all_reduce(total, group=group_named(group))
        return (total[:-1] / total[-1].clamp(min=1)).reshape(means.shape)

    return joint


def group_named(name: str) -> dist.ProcessGroup:
    """The group a custom operation was told by name, because an operation's arguments cannot be a group."""
    return dist.distributed_c10d._resolve_process_group(name)  # pyright: ignore
