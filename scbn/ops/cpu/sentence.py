"""The sentence cue on the CPU: one pass forward after the statistics, two backward, in tiles."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scbn.ops.cpu.tiles import fit, statistics, tile_buffer, tiles

__all__ = ["backward", "forward", "statistics"]


def forward(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """y of :func:`scbn.ops.sentence.sentence_norm`."""
    scales, shifts = (gamma.to(x.dtype) * (var + eps).rsqrt())[:, :, None], beta.to(x.dtype)[:, :, None]
    y = torch.empty_like(x)
    buffer = tile_buffer(x, x.shape[1])
    for s, p in tiles(x):
        # Centred, not with the mean folded into the shifts, where a large one would cancel.
        centred = torch.sub(x[s, :, p], mean[:, None], out=fit(buffer, x[s, :, p]))
        torch.addcmul(shifts[s], centred, scales[s], out=y[s, :, p])
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    joint: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients as :func:`scbn.ops.sentence.sentence_norm_backward`; ``joint`` is None where statistics are given."""
    gamma, rstd = gamma.to(x.dtype), (var + eps).rsqrt()
    scales = (gamma * rstd)[:, :, None]
    dx, dgamma, dbeta = torch.empty_like(x), torch.zeros_like(gamma), torch.zeros_like(gamma)
    buffer = tile_buffer(x, x.shape[1])
    for s, p in tiles(x):
        part, up = x[s, :, p], dy[s, :, p]
        centred = torch.sub(part, mean[:, None], out=fit(buffer, part))
        dgamma[s] += centred.mul_(up).sum(2)
        dbeta[s] += up.sum(2)
    dgamma.mul_(rstd)
    slope = offset = None
    if joint is not None:
        count = max(1, x.shape[0] * x.shape[2])
        means = joint(torch.stack([(gamma * dbeta).sum(0), (gamma * dgamma).sum(0)]) / count)
        mean_d, slope = means[0] * rstd, means[1] * rstd * rstd
        offset = -mean_d[:, None]
    for s, p in tiles(x):
        part = dx[s, :, p]
        if slope is None or offset is None:
            torch.mul(dy[s, :, p], scales[s], out=part)
            continue
        centred = torch.sub(x[s, :, p], mean[:, None], out=fit(buffer, part))
        torch.addcmul(offset, dy[s, :, p], scales[s], out=part)
        part.addcmul_(centred, slope[:, None], value=-1)
    return dx, dgamma, dbeta
