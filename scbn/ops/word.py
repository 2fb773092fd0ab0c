"""The word cue as one operation with its backward by hand: what autograd, torch.compile and opcheck see.

Forward: statistics, then one pass that reads x and writes y. Backward: attention is recomputed from x; kept are x, the
tables and two numbers a channel. Opaque to torch.compile on purpose: traced through, the partitioner would keep maps of
x's size. :mod:`scbn.ops.cpu.word` and :mod:`scbn.ops.triton.word` compute it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scbn.ops import eager, sync
from scbn.ops.cpu import word as cpu


@torch.library.custom_op("scbn::word_norm", mutates_args=())
def word_norm(
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    own_gamma: Tensor,
    own_beta: Tensor,
    padding: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    scale: float,
    group: str,
    path: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y = xhat (own_gamma + sum_t a_t gamma_t) + own_beta + sum_t a_t beta_t, with a = softmax_t(scale x . keys_t).

    Args:
        x: (N, C, P), contiguous or with channels innermost.
        keys, gamma, beta: (N, T, C).
        own_gamma, own_beta: (C,) or (N, C), both alike.
        padding: (N, T) bool, words without weight; a caption of nothing else adds nothing.
        mean, var: (C,), statistics to use; ``None``: those of the batch.
        eps: added to the variance.
        scale: factor on the dot product.
        group: name of the process group whose joint batch is meant; empty for this process alone.
        path: ``"tiled"`` or ``"triton"``.

    Returns:
        y; the mean and biased variance it was normalised with; the values per channel of the joint batch, (1,), or
        nothing, (0,), without a group.
    """
    run: Any = implementation(path)
    counted = x.new_empty(0, dtype=torch.promote_types(x.dtype, torch.float32))
    if mean is None or var is None:
        used, spread = run.statistics(x)
        if group:
            used, spread, counted = sync.joint_statistics(used, spread, x.shape[0] * x.shape[2], group)
    else:
        used, spread = mean.clone(), var.clone()
    y = run.forward(x, keys, gamma, beta, own_gamma, own_beta, padding, used, spread, eps, scale)
    return y, used, spread, counted


@word_norm.register_fake
def _(x, keys, gamma, beta, own_gamma, own_beta, padding, mean, var, eps, scale, group, path):
    channels = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    counted = channels.new_empty(1 if group and mean is None else 0)
    return torch.empty_like(x), channels, torch.empty_like(channels), counted


@torch.library.custom_op("scbn::word_norm_backward", mutates_args=())
def word_norm_backward(
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
    of_batch: bool,
    group: str,
    path: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, keys, gamma, beta, and of own_gamma and own_beta in one tensor (2, ...).

    ``of_batch``: mean and variance are the batch's own.
    """
    if dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)

    def joint(means: Tensor) -> Tensor:
        return sync.joint_mean(means, x.shape[0] * x.shape[2], group) if group else means

    run = implementation(path)
    grads = run.backward(
        dy, x, keys, gamma, beta, own_gamma, own_beta, padding, mean, var, eps, scale, joint if of_batch else None
    )
    return tuple(g.to(t.dtype) for g, t in zip(grads, (x, keys, gamma, beta, own_gamma), strict=True))


@word_norm_backward.register_fake
def _(dy, x, keys, gamma, beta, own_gamma, own_beta, padding, mean, var, eps, scale, of_batch, group, path):
    tables = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (keys, gamma, beta))
    return torch.empty_like(x), *tables, own_gamma.new_empty((2, *own_gamma.shape))


def implementation(path: str) -> ModuleType:
    """The module that computes; Triton is imported when it is first asked for."""
    if path == "tiled":
        return cpu
    from scbn.ops.triton import word as triton

    return triton


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, mean, _, eps, scale, group, path = inputs
    _, used_mean, used_var, counted = output
    ctx.mark_non_differentiable(used_mean, used_var, counted)
    ctx.set_materialize_grads(False)  # three launches that fill zeros nobody reads
    ctx.save_for_backward(*tensors, used_mean, used_var)
    ctx.eps, ctx.scale, ctx.of_batch, ctx.group, ctx.path = eps, scale, mean is None, group, path


def _backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 13
    *tensors, padding, mean, var = ctx.saved_tensors
    settings = ctx.eps, ctx.scale
    if torch.is_grad_enabled():
        # Someone differentiates the gradient: by operations that autograd knows.
        given = (None, None) if ctx.of_batch else (mean, var)
        rest = (padding, *given, *settings, ctx.group)
        grads = eager.differentiable_gradients(eager.word_norm, tuple(tensors), rest, dy)
    else:
        rest = (padding, mean, var, *settings, ctx.of_batch, ctx.group, ctx.path)
        *grads, own = word_norm_backward(dy, *tensors, *rest)
        grads += own[0], own[1].to(tensors[-1].dtype)
    return *grads, *(None,) * 7


word_norm.register_autograd(_backward, setup_context=_setup)
