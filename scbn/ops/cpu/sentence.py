"""The sentence cue on the CPU: one pass forward after the statistics, two backward, in tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from scbn.ops.cpu.tiles import centre, fit, load, place, statistics, store, tile_buffer, tiles
from scbn.ops.values import Joint, Statistics

__all__ = ["backward", "forward", "statistics"]


def forward(x: Tensor, gamma: Tensor, beta: Tensor, stats: Statistics, eps: float) -> Tensor:
    """y of :func:`scbn.ops.sentence.sentence_norm`."""
    scales, shifts = (table[:, :, None] for table in (gamma * (stats.var + eps).rsqrt(), beta))
    mean = stats.mean[:, None]
    y = torch.empty_like(x)
    buffer = tile_buffer(x, x.shape[1])
    for s, p in tiles(x):
        # Centred, not with the mean folded into the shifts, where a large one would cancel. Not torch.addcmul: with
        # operands that are broadcast it takes four times as long as the two operations.
        part = y[s, :, p]
        store(part, centre(x[s, :, p], mean, place(part, buffer)).mul_(scales[s]).add_(shifts[s]))
    return y


def backward(
    dy: Tensor, x: Tensor, gamma: Tensor, stats: Statistics, eps: float, joint: Joint | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients as :func:`scbn.ops.sentence.sentence_norm_backward_op`; ``joint`` is None where statistics are given."""
    gamma, rstd, mean = gamma.to(stats.mean.dtype), (stats.var + eps).rsqrt(), stats.mean[:, None]
    dx, dgamma, dbeta = torch.empty_like(x), torch.zeros_like(gamma), torch.zeros_like(gamma)
    buffer, loaded = tile_buffer(x, x.shape[1]), tile_buffer(x, x.shape[1])
    for s, p in tiles(x):
        grad = load(dy[s, :, p], loaded)
        centred = centre(x[s, :, p], mean, fit(buffer, grad))
        dgamma[s] += centred.mul_(grad).sum(2)
        dbeta[s] += grad.sum(2)
    dgamma.mul_(rstd)
    scales, slope, offset = (gamma * rstd)[:, :, None], None, None
    if joint is not None:
        count = max(1, x.shape[0] * x.shape[2])
        means = joint(torch.stack([(gamma * dbeta).sum(0), (gamma * dgamma).sum(0)]) / count)
        offset, slope = (means[0] * rstd)[:, None], (means[1] * rstd * rstd)[:, None]
    for s, p in tiles(x):
        part = dx[s, :, p]
        grad = torch.mul(load(dy[s, :, p], loaded), scales[s], out=place(part, loaded))
        if slope is not None and offset is not None:
            grad.sub_(offset).sub_(centre(x[s, :, p], mean, fit(buffer, part)).mul_(slope))
        store(part, grad)
    return dx, dgamma, dbeta
