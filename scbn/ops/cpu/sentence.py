"""The sentence cue on the CPU: one pass forward after the statistics, two backward, in tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from scbn.ops.cpu.tiles import fit, statistics, tile_buffer, tiles
from scbn.ops.values import Joint, Statistics

__all__ = ["backward", "forward", "statistics"]


def forward(x: Tensor, gamma: Tensor, beta: Tensor, stats: Statistics, eps: float) -> Tensor:
    """y of :func:`scbn.ops.sentence.sentence_norm`."""
    scales, shifts = (gamma.to(x.dtype) * (stats.var + eps).rsqrt())[:, :, None], beta.to(x.dtype)[:, :, None]
    y = torch.empty_like(x)
    buffer = tile_buffer(x, x.shape[1])
    for s, p in tiles(x):
        # Centred, not with the mean folded into the shifts, where a large one would cancel.
        centred = torch.sub(x[s, :, p], stats.mean[:, None], out=fit(buffer, x[s, :, p]))
        torch.addcmul(shifts[s], centred, scales[s], out=y[s, :, p])
    return y


def backward(
    dy: Tensor, x: Tensor, gamma: Tensor, stats: Statistics, eps: float, joint: Joint | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients as :func:`scbn.ops.sentence.sentence_norm_backward_op`; ``joint`` is None where statistics are given."""
    gamma, rstd, mean = gamma.to(x.dtype), (stats.var + eps).rsqrt(), stats.mean[:, None]
    scales = (gamma * rstd)[:, :, None]
    dx, dgamma, dbeta = torch.empty_like(x), torch.zeros_like(gamma), torch.zeros_like(gamma)
    buffer = tile_buffer(x, x.shape[1])
    for s, p in tiles(x):
        part, grad = x[s, :, p], dy[s, :, p]
        centred = torch.sub(part, mean, out=fit(buffer, part))
        dgamma[s] += centred.mul_(grad).sum(2)
        dbeta[s] += grad.sum(2)
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
        centred = torch.sub(x[s, :, p], mean, out=fit(buffer, part))
        torch.addcmul(offset, dy[s, :, p], scales[s], out=part)
        part.addcmul_(centred, slope[:, None], value=-1)
    return dx, dgamma, dbeta
