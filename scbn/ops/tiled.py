"""The word path on the CPU: a tile of positions at a time, so that every temporary stays in cache.

Forward: statistics, then one pass that reads x and writes y. Backward: attention is recomputed; one pass reads x and dy
and writes dx, and another adds the statistics' share, ``k1 + k2 x`` per channel: with the tables' gradients known, mean
and mean product of the normalised gradient are sums over T rows, not over positions. Kept for backward: x, the tables,
two numbers a channel.

Samples are shared between as many Python threads as torch would use: skinny products do not divide well from within.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

_TILE_VALUES = 1 << 17  # half a megabyte of float32 for each tile: a core's second-level cache
_pool: tuple[int, int, ThreadPoolExecutor] | None = None


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of x (N, C, P): two passes, the second in tiles."""
    n, _, positions = x.shape
    mean = x.mean(2).mean(0)
    tile = _tile(x)
    squares = torch.zeros(n, x.shape[1], dtype=x.dtype)

    def sample(i: int) -> None:
        shifted = x.new_empty(x.shape[1], tile)
        for start in range(0, positions, tile):
            part = x[i, :, start : start + tile]
            out = torch.sub(part, mean[:, None], out=_fit(shifted, part.shape[1]))
            squares[i] += torch.linalg.vector_norm(out, dim=1).square()

    _each(sample, n)
    return mean, squares.sum(0) / (n * positions)


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
    tile = _tile(x)

    def sample(i: int) -> None:
        attention, scaled = x.new_empty(keys.shape[1], tile), x.new_empty(x.shape[1], tile)
        for start in range(0, x.shape[2], tile):
            part = x[i, :, start : start + tile]
            a, s = _fit(attention, part.shape[1]), _fit(scaled, part.shape[1])
            a = _attend(keys[i], part, None if hidden is None else hidden[i], a)
            torch.mm(scales[i], a, out=s).mul_(part)
            torch.addmm(s, shifts[i], a, out=s)
            y[i, :, start : start + tile] = s

    _each(sample, x.shape[0])
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
    shifts = beta - scales * mean
    scales_t = scales.mT.contiguous()
    dx = torch.empty_like(x)
    dkeys, dgamma, dbeta = (torch.zeros_like(keys, memory_format=torch.contiguous_format) for _ in range(3))
    tile = _tile(x)

    def sample(i: int) -> None:
        words = keys.shape[1]
        buffers = x.new_empty(x.shape[1], tile), x.new_empty(words, tile), x.new_empty(words, tile)
        keys_t = keys[i].mT.contiguous()
        for start in range(0, x.shape[2], tile):
            part, up = x[i, :, start : start + tile], dy[i, :, start : start + tile]
            u, a, d = (_fit(buffer, part.shape[1]) for buffer in buffers)
            a = _attend(keys[i], part, None if hidden is None else hidden[i], a)
            torch.mul(up, part, out=u)
            dgamma[i].addmm_(a, u.mT)
            dbeta[i].addmm_(a, up.mT)
            torch.mm(scales[i], u, out=d).addmm_(shifts[i], up)
            d.sub_((d * a).sum(0, keepdim=True)).mul_(a)
            dkeys[i].addmm_(d, part.mT)
            torch.mm(scales_t[i], a, out=u).mul_(up)
            torch.addmm(u, keys_t, d, out=u)
            dx[i, :, start : start + tile] = u

    _each(sample, x.shape[0])
    # So far dgamma holds sum dy x a; with xhat it is
    dgamma.sub_(dbeta * mean).mul_(rstd)
    if of_batch:
        count = x.shape[0] * x.shape[2]
        mean_d = (scales * dbeta).sum((0, 1)) / count
        slope = (scales * dgamma).sum((0, 1)) / count * rstd
        offset = slope * mean - mean_d

        def add(i: int) -> None:
            for start in range(0, x.shape[2], tile):
                part = dx[i, :, start : start + tile]
                part.addcmul_(x[i, :, start : start + tile], slope[:, None], value=-1).add_(offset[:, None])

        _each(add, x.shape[0])
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
        from scbn.ops.composed import word_norm as composed

        given = (None, None) if ctx.of_batch else (mean, var)
        y = composed(x, keys, gamma, beta, hidden, *given, ctx.eps)
        inputs = [t for t in (x, keys, gamma, beta) if t.requires_grad]
        grads = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
        found = tuple(next(grads) if t.requires_grad else None for t in (x, keys, gamma, beta))
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


def _tile(x: Tensor) -> int:
    return max(1, min(x.shape[2], _TILE_VALUES // x.shape[1]))


def _fit(buffer: Tensor, width: int) -> Tensor:
    """The buffer, or for the last tile a narrower one of its own: views of it would not be contiguous."""
    return buffer if buffer.shape[1] == width else buffer.new_empty(buffer.shape[0], width)


def _each(task: Callable[[int], None], count: int) -> None:
    """Run ``task`` for every sample, on as many threads as torch would use."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        for i in range(count):
            task(i)
        return

    def share(first: int) -> None:
        # Both settings are of the thread: neither inference nor gradient mode is inherited by one of a pool.
        with torch.no_grad():
            for i in range(first, count, threads):
                task(i)

    for _ in _executor(threads).map(share, range(threads)):
        pass


def _executor(threads: int) -> ThreadPoolExecutor:
    global _pool
    # A forked child has the object but none of the threads.
    if _pool is None or _pool[:2] != (os.getpid(), threads):
        _pool = os.getpid(), threads, ThreadPoolExecutor(threads, "scbn", lambda: torch.set_num_threads(1))
    return _pool[2]
