"""The word cue on the CPU: a tile of positions at a time, so that every temporary stays in cache.

The backward writes dx in the pass that sums the tables' gradients; a second adds the statistics' share,
``k1 + k2 x`` per channel: with the tables' gradients known, mean and mean product of the normalised gradient are sums
over T rows, not over positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scbn.ops.cpu.tiles import fit, statistics, tile_buffer, tiles
from scbn.ops.eager import padding_logits, with_own
from scbn.ops.values import Joint, Statistics, WordTables

__all__ = ["backward", "forward", "statistics"]


def forward(x: Tensor, tables: WordTables, stats: Statistics, eps: float, scale: float) -> Tensor:
    """y of :func:`scbn.ops.word.word_norm`."""
    keys, gamma, beta = _prepare(x, tables, scale)
    mask, rstd, mean = _Mask.of(tables.padding, x.dtype), (stats.var + eps).rsqrt(), stats.mean[:, None]
    scales, shifts = (gamma * rstd).mT.contiguous(), beta.mT.contiguous()
    y = torch.empty_like(x)
    attention, centred, scaled = (tile_buffer(x, rows) for rows in (keys.shape[1], x.shape[1], x.shape[1]))
    for s, p in tiles(x):
        part = x[s, :, p]
        a = _attend(keys[s], part, mask, s, fit(attention, part))
        # Centred, not with the mean folded into the shifts, where a large one would cancel.
        c = torch.sub(part, mean, out=fit(centred, part))
        gain = torch.bmm(scales[s], a, out=fit(scaled, part))
        y[s, :, p] = c.mul_(gain).baddbmm_(shifts[s], a)
    return y


def backward(
    dy: Tensor, x: Tensor, tables: WordTables, stats: Statistics, eps: float, scale: float, joint: Joint | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as :func:`scbn.ops.word.word_norm_backward_op`; ``joint`` is None where the statistics are given."""
    keys, gamma, beta = _prepare(x, tables, scale)
    mask, rstd, mean = _Mask.of(tables.padding, x.dtype), (stats.var + eps).rsqrt(), stats.mean[:, None]
    scales = gamma * rstd
    scales_t, keys_t = scales.mT.contiguous(), keys.mT.contiguous()
    dx = torch.empty_like(x)
    dkeys, dgamma, dbeta = (torch.zeros_like(keys, memory_format=torch.contiguous_format) for _ in range(3))
    products, attention, gradient = (tile_buffer(x, rows) for rows in (x.shape[1], keys.shape[1], keys.shape[1]))
    for s, p in tiles(x):
        part, grad = x[s, :, p], dy[s, :, p]
        u, d = fit(products, part), fit(gradient, part)
        a = _attend(keys[s], part, mask, s, fit(attention, part))
        # Centred before it is summed: sums of dy x cancel where the mean is large.
        torch.sub(part, mean, out=u).mul_(grad)
        dgamma[s].baddbmm_(a, u.mT)
        dbeta[s].baddbmm_(a, grad.mT)
        torch.bmm(scales[s], u, out=d).baddbmm_(beta[s], grad)
        d.sub_((d * a).sum(1, keepdim=True)).mul_(a)
        dkeys[s].baddbmm_(d, part.mT)
        torch.bmm(scales_t[s], a, out=u).mul_(grad)
        dx[s, :, p] = u.baddbmm_(keys_t[s], d)
    dgamma.mul_(rstd)
    if joint is not None:
        count = max(1, x.shape[0] * x.shape[2])
        means = joint(torch.stack([(gamma * dbeta).sum((0, 1)), (gamma * dgamma).sum((0, 1))]) / count)
        mean_d, slope = (means[0] * rstd)[:, None], (means[1] * rstd * rstd)[:, None]
        for s, p in tiles(x):
            part = dx[s, :, p]
            centred = torch.sub(x[s, :, p], mean, out=fit(products, part))
            part.sub_(mean_d).addcmul_(centred, slope, value=-1)
    over = (0, 1) if tables.weight.dim() == 1 else 1
    own = torch.stack((dgamma.sum(over), dbeta.sum(over)))
    dkeys.mul_(scale)
    if tables.padding is not None:
        # An empty caption's softmax has nothing but padding: the norm's weight and bias learn, its words do not.
        for table in (dkeys, dgamma, dbeta):
            table.masked_fill_(tables.padding[:, :, None], 0)
    return dx, dkeys, dgamma, dbeta, own


def _prepare(x: Tensor, tables: WordTables, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Keys with the scale in them, and gamma and beta with the norm's own weight and bias."""
    keys, gamma, beta = with_own(tables, x.dtype)
    if tables.padding is not None:
        keys = keys.masked_fill(tables.padding[:, :, None], 0)  # whatever it holds: its gradient is 0 times that
    return keys.to(x.dtype) * scale, gamma, beta


class _Mask(NamedTuple):
    """Padding (N, T), and what stands for its logits in each caption, (N,)."""

    padding: Tensor
    fill: Tensor

    @classmethod
    def of(cls, padding: Tensor | None, dtype: torch.dtype) -> _Mask | None:
        return None if padding is None else cls(padding, padding_logits(padding, dtype))


def _attend(keys: Tensor, part: Tensor, mask: _Mask | None, samples: slice, out: Tensor) -> Tensor:
    """Attention (k, T, tile) of the positions of a tile."""
    logits = torch.bmm(keys, part, out=out)
    if mask is not None:
        logits = torch.where(mask.padding[samples, :, None], mask.fill[samples, None, None], logits)
    return logits.softmax(1)
