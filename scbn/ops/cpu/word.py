"""The word cue on the CPU: a tile of positions at a time, so that every temporary stays in cache.

The backward writes dx in the pass that sums the tables' gradients; a second adds the statistics' share,
``k1 + k2 x`` per channel: with the tables' gradients known, mean and mean product of the normalised gradient are sums
over T rows, not over positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scbn.ops.cpu.tiles import add_product, centre, fit, load, product, statistics, store, tile_buffer, tiles
from scbn.ops.eager import compute_dtype, padding_logits, with_own
from scbn.ops.values import Joint, Statistics, WordTables

__all__ = ["backward", "forward", "statistics"]


def forward(x: Tensor, tables: WordTables, stats: Statistics, eps: float, scale: float) -> Tensor:
    """y of :func:`scbn.ops.word.word_norm`."""
    keys, gamma, beta = _prepare(x, tables, scale)
    mask, rstd, mean = _Mask.of(tables.padding, keys.dtype), (stats.var + eps).rsqrt(), stats.mean[:, None]
    scales, shifts = (gamma * rstd).mT.contiguous(), beta.mT.contiguous()
    y = torch.empty_like(x)
    attention, centred, scaled, parts = (tile_buffer(x, rows) for rows in (keys.shape[1], *x.shape[1:2] * 3))
    for s, p in tiles(x):
        part = load(x[s, :, p], parts)
        a = _attend(keys[s], part, mask, s, fit(attention, part))
        # Centred, not with the mean folded into the shifts, where a large one would cancel.
        c = torch.sub(part, mean, out=fit(centred, part))
        gain = product(scales[s], a, fit(scaled, part))
        y[s, :, p] = add_product(c.mul_(gain), shifts[s], a)
    return y


def backward(
    dy: Tensor, x: Tensor, tables: WordTables, stats: Statistics, eps: float, scale: float, joint: Joint | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as :func:`scbn.ops.word.word_norm_backward_op`; ``joint`` is None where the statistics are given."""
    keys, gamma, beta = _prepare(x, tables, scale)
    mask, rstd, mean = _Mask.of(tables.padding, keys.dtype), (stats.var + eps).rsqrt(), stats.mean[:, None]
    scales = gamma * rstd
    scales_t, keys_t = scales.mT.contiguous(), keys.mT.contiguous()
    # Not in x's dtype: what the second pass takes away is of the same size, and would uncover the rounding.
    full = torch.empty_like(x, dtype=keys.dtype)
    dx = full if full.dtype == x.dtype else torch.empty_like(x)
    dkeys, dgamma, dbeta = (torch.zeros_like(keys, memory_format=torch.contiguous_format) for _ in range(3))
    products, parts, grads = (tile_buffer(x, x.shape[1]) for _ in range(3))
    attention, gradient = (tile_buffer(x, keys.shape[1]) for _ in range(2))
    for s, p in tiles(x):
        part, grad = load(x[s, :, p], parts), load(dy[s, :, p], grads)
        u, d = fit(products, part), fit(gradient, part)
        a = _attend(keys[s], part, mask, s, fit(attention, part))
        # Centred before it is summed: sums of dy x cancel where the mean is large.
        torch.sub(part, mean, out=u).mul_(grad)
        dgamma[s].baddbmm_(a, u.mT)
        dbeta[s].baddbmm_(a, grad.mT)
        add_product(product(scales[s], u, d), beta[s], grad)
        d.sub_((d * a).sum(1, keepdim=True)).mul_(a)
        dkeys[s].baddbmm_(d, part.mT)
        product(scales_t[s], a, u).mul_(grad)
        full[s, :, p] = add_product(u, keys_t[s], d)
    dgamma.mul_(rstd)
    if joint is not None:
        count = max(1, x.shape[0] * x.shape[2])
        means = joint(torch.stack([(gamma * dbeta).sum((0, 1)), (gamma * dgamma).sum((0, 1))]) / count)
        mean_d, slope = (means[0] * rstd)[:, None], (means[1] * rstd * rstd)[:, None]
        for s, p in tiles(x):
            part = full[s, :, p]
            centred = centre(x[s, :, p], mean, fit(products, part))
            store(dx[s, :, p], part.sub_(mean_d).sub_(centred.mul_(slope)))
    elif dx is not full:
        dx.copy_(full)
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
    dtype = compute_dtype(x)
    keys, gamma, beta = with_own(tables, dtype)
    if tables.padding is not None:
        keys = keys.masked_fill(tables.padding[:, :, None], 0)  # whatever it holds: its gradient is 0 times that
    return keys.to(dtype) * scale, gamma, beta


class _Mask(NamedTuple):
    """Padding (N, T), and what stands for its logits in each caption, (N,)."""

    padding: Tensor
    fill: Tensor

    @classmethod
    def of(cls, padding: Tensor | None, dtype: torch.dtype) -> _Mask | None:
        return None if padding is None else cls(padding, padding_logits(padding, dtype))


def _attend(keys: Tensor, part: Tensor, mask: _Mask | None, samples: slice, out: Tensor) -> Tensor:
    """Attention (k, T, tile) of the positions of a tile; ``out`` is overwritten."""
    logits = product(keys, part, out)
    if mask is not None:
        torch.where(mask.padding[samples, :, None], mask.fill[samples, None, None], logits, out=logits)
    # A softmax over an axis that is not innermost in memory would copy before.
    return logits.softmax(1) if logits.is_contiguous() else logits.mT.softmax(2).mT
