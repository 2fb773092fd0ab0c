"""The sentence cue on the CPU: one pass forward after the statistics, two backward, in tiles."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scbn.ops.tiles import each_sample, fit, statistics, tile_width

__all__ = ["backward", "forward", "statistics"]


def forward(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """y of :func:`scbn.ops.fused_sentence.sentence_norm`."""
    scales = gamma.to(x.dtype) * (var + eps).rsqrt()
    shifts = beta.to(x.dtype) - scales * mean
    y = torch.empty_like(x)
    tile = tile_width(x)

    def sample(i: int) -> None:
        scale, shift = scales[i, :, None], shifts[i, :, None]
        for start in range(0, x.shape[2], tile):
            part = y[i, :, start : start + tile]
            torch.mul(x[i, :, start : start + tile], scale, out=part).add_(shift)

    each_sample(sample, x.shape[0])
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
    """Gradients as :func:`scbn.ops.fused_sentence.sentence_norm_backward`; ``joint`` is None where statistics are given."""
    gamma, rstd = gamma.to(x.dtype), (var + eps).rsqrt()
    scales = gamma * rstd
    dx, dgamma, dbeta = torch.empty_like(x), torch.zeros_like(gamma), torch.zeros_like(gamma)
    tile = tile_width(x)

    def reduce(i: int) -> None:
        product = x.new_empty(x.shape[1], tile)
        for start in range(0, x.shape[2], tile):
            part, up = x[i, :, start : start + tile], dy[i, :, start : start + tile]
            centred = torch.sub(part, mean[:, None], out=fit(product, part.shape[1]))
            dgamma[i] += centred.mul_(up).sum(1)
            dbeta[i] += up.sum(1)

    each_sample(reduce, x.shape[0])
    dgamma.mul_(rstd)
    slope = offset = None
    if joint is not None:
        count = x.shape[0] * x.shape[2]
        mean_d, mean_dx = joint(torch.stack([(gamma * dbeta).sum(0), (gamma * dgamma).sum(0)]) / count) * rstd
        slope = mean_dx * rstd
        offset = (slope * mean - mean_d)[:, None]

    def apply(i: int) -> None:
        for start in range(0, x.shape[2], tile):
            part = dx[i, :, start : start + tile]
            torch.mul(dy[i, :, start : start + tile], scales[i, :, None], out=part)
            if slope is not None and offset is not None:
                part.addcmul_(x[i, :, start : start + tile], slope[:, None], value=-1).add_(offset)

    each_sample(apply, x.shape[0])
    return dx, dgamma, dbeta
