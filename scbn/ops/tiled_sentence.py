"""The sentence cue on the CPU: one pass forward after the statistics, two backward, and nothing kept but x.

Scale and shift are one number for each sample and channel, so they go into the normalisation:
``y = x (rstd g) + (b - mean rstd g)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scbn.ops import composed
from scbn.ops.tiles import each_sample, fit, statistics, tile_width


@torch.library.custom_op("scbn::tiled_sentence_norm", mutates_args=())
def sentence_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor | None, var: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y = xhat gamma + beta.

    Args:
        x: (N, C, P); gamma, beta: (N, C), the norm's own scale and shift within them.
        mean, var: (C,), statistics to use; ``None``: those of the batch.
        eps: added to the variance.

    Returns:
        y, and the mean and biased variance it was normalised with.
    """
    if mean is None or var is None:
        mean, var = statistics(x)
    else:
        mean, var = mean.clone(), var.clone()
    scales = gamma * (var + eps).rsqrt()
    shifts = beta - scales * mean
    y = torch.empty_like(x)
    tile = tile_width(x)

    def sample(i: int) -> None:
        scale, shift = scales[i, :, None], shifts[i, :, None]
        for start in range(0, x.shape[2], tile):
            part = y[i, :, start : start + tile]
            torch.mul(x[i, :, start : start + tile], scale, out=part).add_(shift)

    each_sample(sample, x.shape[0])
    return y, mean, var


@sentence_norm.register_fake
def _(x, gamma, beta, mean, var, eps):
    channels = x.new_empty(x.shape[1])
    return torch.empty_like(x), channels, torch.empty_like(channels)


@torch.library.custom_op("scbn::tiled_sentence_norm_backward", mutates_args=())
def sentence_norm_backward(
    dy: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, var: Tensor, eps: float, of_batch: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gamma and beta; ``of_batch``: mean and variance are x's own."""
    dy = dy.contiguous()
    rstd = (var + eps).rsqrt()
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
    if of_batch:
        count = x.shape[0] * x.shape[2]
        slope = (scales * dgamma).sum(0) / count * rstd
        offset = (slope * mean - (scales * dbeta).sum(0) / count)[:, None]

    def apply(i: int) -> None:
        for start in range(0, x.shape[2], tile):
            part = dx[i, :, start : start + tile]
            torch.mul(dy[i, :, start : start + tile], scales[i, :, None], out=part)
            if slope is not None and offset is not None:
                part.addcmul_(x[i, :, start : start + tile], slope[:, None], value=-1).add_(offset)

    each_sample(apply, x.shape[0])
    return dx, dgamma, dbeta


@sentence_norm_backward.register_fake
def _(dy, x, gamma, mean, var, eps, of_batch):
    return torch.empty_like(x), torch.empty_like(gamma), torch.empty_like(gamma)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gamma, beta, mean, _, eps = inputs
    _, used_mean, used_var = output
    ctx.mark_non_differentiable(used_mean, used_var)
    ctx.save_for_backward(x, gamma, beta, used_mean, used_var)
    ctx.eps, ctx.of_batch = eps, mean is None


def _backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, gamma, beta, mean, var = ctx.saved_tensors
    if torch.is_grad_enabled():
        # Someone differentiates the gradient: by operations that autograd knows.
        given = (None, None) if ctx.of_batch else (mean, var)
        rest = (*given, ctx.eps)
        return (
            *composed.differentiable_gradients(composed.sentence_norm, (x, gamma, beta), rest, dy),
            None,
            None,
            None,
        )
    grads = sentence_norm_backward(dy, x, gamma, mean, var, ctx.eps, ctx.of_batch)
    return *grads, None, None, None


sentence_norm.register_autograd(_backward, setup_context=_setup)
