"""The word cue on the CPU: a tile of positions at a time, so that every temporary stays in cache.

The backward writes dx in the pass that sums the tables' gradients; a second adds the statistics' share,
``k1 + k2 x`` per channel: with the tables' gradients known, mean and mean product of the normalised gradient are sums
over T rows, not over positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scbn.ops.composed import padding_logits
from scbn.ops.tiles import each_sample, fit, statistics, tile_width

__all__ = ["backward", "forward", "statistics"]


def forward(
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    own_gamma: Tensor,
    own_beta: Tensor,
    padding: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    scale: float,
) -> Tensor:
    """y of :func:`scbn.ops.fused_word.word_norm`."""
    keys, gamma, beta = _tables(x, keys, gamma, beta, own_gamma, own_beta, padding, scale)
    level, rstd = _level(x, padding), (var + eps).rsqrt()
    # The statistics go into the tables: y = x (a' G) + a' B, and xhat is never built.
    scales = (gamma * rstd).mT.contiguous()
    shifts = (beta - gamma * (rstd * mean)).mT.contiguous()
    y = torch.empty_like(x)
    tile = tile_width(x)

    def sample(i: int) -> None:
        attention, scaled = x.new_empty(keys.shape[1], tile), x.new_empty(x.shape[1], tile)
        for start in range(0, x.shape[2], tile):
            part = x[i, :, start : start + tile]
            a, s = fit(attention, part.shape[1]), fit(scaled, part.shape[1])
            a = _attend(i, keys, part, padding, level, a)
            torch.mm(scales[i], a, out=s).mul_(part)
            torch.addmm(s, shifts[i], a, out=s)
            y[i, :, start : start + tile] = s

    each_sample(sample, x.shape[0])
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    own_gamma: Tensor,
    own_beta: Tensor,
    padding: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    scale: float,
    joint: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, ...]:
    """Gradients as :func:`scbn.ops.fused_word.word_norm_backward`; ``joint`` is None where the statistics are given."""
    keys, gamma, beta = _tables(x, keys, gamma, beta, own_gamma, own_beta, padding, scale)
    level, rstd = _level(x, padding), (var + eps).rsqrt()
    scales = gamma * rstd
    scales_t = scales.mT.contiguous()
    dx = torch.empty_like(x)
    dkeys, dgamma, dbeta = (torch.zeros_like(keys, memory_format=torch.contiguous_format) for _ in range(3))
    tile = tile_width(x)

    def sample(i: int) -> None:
        words = keys.shape[1]
        buffers = x.new_empty(x.shape[1], tile), x.new_empty(words, tile), x.new_empty(words, tile)
        keys_t = keys[i].mT.contiguous()
        for start in range(0, x.shape[2], tile):
            part, up = x[i, :, start : start + tile], dy[i, :, start : start + tile]
            u, a, d = (fit(buffer, part.shape[1]) for buffer in buffers)
            a = _attend(i, keys, part, padding, level, a)
            # Centred before it is summed: sums of dy x cancel where the mean is large.
            torch.sub(part, mean[:, None], out=u).mul_(up)
            dgamma[i].addmm_(a, u.mT)
            dbeta[i].addmm_(a, up.mT)
            torch.mm(scales[i], u, out=d).addmm_(beta[i], up)
            d.sub_((d * a).sum(0, keepdim=True)).mul_(a)
            dkeys[i].addmm_(d, part.mT)
            torch.mm(scales_t[i], a, out=u).mul_(up)
            torch.addmm(u, keys_t, d, out=u)
            dx[i, :, start : start + tile] = u

    each_sample(sample, x.shape[0])
    dgamma.mul_(rstd)
    if joint is not None:
        count = x.shape[0] * x.shape[2]
        means = torch.stack([(gamma * dbeta).sum((0, 1)), (gamma * dgamma).sum((0, 1))]) / count
        mean_d, mean_dx = joint(means) * rstd
        slope = mean_dx * rstd
        offset = slope * mean - mean_d

        def add(i: int) -> None:
            for start in range(0, x.shape[2], tile):
                part = dx[i, :, start : start + tile]
                part.addcmul_(x[i, :, start : start + tile], slope[:, None], value=-1).add_(offset[:, None])

        each_sample(add, x.shape[0])
    over = (0, 1) if own_gamma.dim() == 1 else 1
    own = torch.stack((dgamma.sum(over), dbeta.sum(over)))
    dkeys.mul_(scale)
    if padding is not None:
        # An empty caption's softmax has nothing but padding: its own scale and shift learn, its words do not.
        for table in (dkeys, dgamma, dbeta):
            table.masked_fill_(padding[:, :, None], 0)
    return dx, dkeys, dgamma, dbeta, own


def _tables(
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    own_gamma: Tensor,
    own_beta: Tensor,
    padding: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys with the scale in them, and tables with the norm's own scale and shift in every row: weights sum to one."""
    if padding is not None:
        keys, gamma, beta = (t.masked_fill(padding[:, :, None], 0) for t in (keys, gamma, beta))
    gamma, beta = (
        table.to(x.dtype) + (own if own.dim() == 1 else own[:, None]).to(x.dtype)
        for table, own in ((gamma, own_gamma), (beta, own_beta))
    )
    return keys.to(x.dtype) * scale, gamma, beta


def _level(x: Tensor, padding: Tensor | None) -> Tensor | None:
    return None if padding is None else padding_logits(padding, x.dtype)


def _attend(
    i: int, keys: Tensor, part: Tensor, padding: Tensor | None, level: Tensor | None, out: Tensor
) -> Tensor:
    """Attention (T, tile) of the positions of sample i."""
    logits = torch.mm(keys[i], part, out=out)
    if padding is not None and level is not None:
        logits.masked_fill_(padding[i, :, None], level[i])
    return logits.softmax(0)
