"""The word cue on the CPU: a tile of positions at a time, so that every temporary stays in cache.

Forward: statistics, then one pass that reads x and writes y. Backward: attention is recomputed; one pass reads x and dy
and writes dx, and another adds the statistics' share, ``k1 + k2 x`` per channel: with the tables' gradients known, mean
and mean product of the normalised gradient are sums over T rows, not over positions. Kept for backward: x, the tables,
two numbers a channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scbn.ops import composed
from scbn.ops.tiles import each_sample, fit, statistics, tile_width


@torch.library.custom_op("scbn::tiled_word_norm", mutates_args=())
def word_norm(
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    hidden: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = xhat (sum_t a_t gamma_t) + sum_t a_t beta_t.

    Args:
        x: (N, C, P); keys, gamma, beta: (N, T, C), the norm's own scale and shift within the tables.
        hidden: (N, T) bool, words without weight; at least one word of each caption is not hidden.
        mean, var: (C,), statistics to use; ``None``: those of the batch.
        eps: added to the variance.

    Returns:
        y, and the mean and biased variance it was normalised with.
    """
    if mean is None or var is None:
        mean, var = statistics(x)
    else:
        mean, var = mean.clone(), var.clone()
    rstd = (var + eps).rsqrt()
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
            a = _attend(keys[i], part, None if hidden is None else hidden[i], a)
            torch.mm(scales[i], a, out=s).mul_(part)
            torch.addmm(s, shifts[i], a, out=s)
            y[i, :, start : start + tile] = s

    each_sample(sample, x.shape[0])
    return y, mean, var


@word_norm.register_fake
def _(x, keys, gamma, beta, hidden, mean, var, eps):
    channels = x.new_empty(x.shape[1])
    return torch.empty_like(x), channels, torch.empty_like(channels)


@torch.library.custom_op("scbn::tiled_word_norm_backward", mutates_args=())
def word_norm_backward(
    dy: Tensor,
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    hidden: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    of_batch: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, keys, gamma and beta; ``of_batch``: mean and variance are x's own."""
    dy = dy.contiguous()
    rstd = (var + eps).rsqrt()
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
            a = _attend(keys[i], part, None if hidden is None else hidden[i], a)
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
    if of_batch:
        count = x.shape[0] * x.shape[2]
        mean_d = (scales * dbeta).sum((0, 1)) / count
        slope = (scales * dgamma).sum((0, 1)) / count * rstd
        offset = slope * mean - mean_d

        def add(i: int) -> None:
            for start in range(0, x.shape[2], tile):
                part = dx[i, :, start : start + tile]
                part.addcmul_(x[i, :, start : start + tile], slope[:, None], value=-1).add_(offset[:, None])

        each_sample(add, x.shape[0])
    return dx, dkeys, dgamma, dbeta


@word_norm_backward.register_fake
def _(dy, x, keys, gamma, beta, hidden, mean, var, eps, of_batch):
    return torch.empty_like(x), torch.empty_like(keys), torch.empty_like(gamma), torch.empty_like(beta)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, keys, gamma, beta, hidden, mean, _, eps = inputs
    _, used_mean, used_var = output
    ctx.mark_non_differentiable(used_mean, used_var)
    ctx.save_for_backward(x, keys, gamma, beta, hidden, used_mean, used_var)
    ctx.eps, ctx.of_batch = eps, mean is None


def _backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, keys, gamma, beta, hidden, mean, var = ctx.saved_tensors
    if torch.is_grad_enabled():
        # Someone differentiates the gradient: by operations that autograd knows.
        given = (None, None) if ctx.of_batch else (mean, var)
        tensors, rest = (x, keys, gamma, beta), (hidden, *given, ctx.eps)
        found = composed.differentiable_gradients(composed.word_norm, tensors, rest, dy)
        return *found, None, None, None, None
    grads = word_norm_backward(dy, x, keys, gamma, beta, hidden, mean, var, ctx.eps, ctx.of_batch)
    return *grads, None, None, None, None


word_norm.register_autograd(_backward, setup_context=_setup)


def _attend(keys: Tensor, part: Tensor, hidden: Tensor | None, out: Tensor) -> Tensor:
    """Attention (T, tile) of the positions of one sample."""
    logits = torch.mm(keys, part, out=out)
    if hidden is not None:
        logits.masked_fill_(hidden[:, None], -torch.inf)
    return logits.softmax(0)
