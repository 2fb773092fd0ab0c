"""The sentence cue as one operation with its backward by hand: what autograd, torch.compile and opcheck see.

Scale and shift are one number for each sample and channel, so they go into the normalisation:
``y = x (rstd g) + (b - mean rstd g)``. Nothing is kept but x and two numbers a channel.
:mod:`scbn.ops.cpu.sentence` and :mod:`scbn.ops.triton.sentence` compute it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scbn.ops import eager, sync
from scbn.ops.cpu import sentence as cpu


@torch.library.custom_op("scbn::sentence_norm", mutates_args=())
def sentence_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    group: str,
    path: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y = xhat gamma + beta.

    Args:
        x: (N, C, P), contiguous or with channels innermost.
        gamma, beta: (N, C), the norm's own scale and shift within them.
        mean, var, eps, group, path: as :func:`scbn.ops.word.word_norm`.

    Returns:
        As there.
    """
    run: Any = implementation(path)
    counted = x.new_empty(0, dtype=torch.promote_types(x.dtype, torch.float32))
    if mean is None or var is None:
        used, spread = run.statistics(x)
        if group:
            used, spread, counted = sync.joint_statistics(used, spread, x.shape[0] * x.shape[2], group)
    else:
        used, spread = mean.clone(), var.clone()
    return run.forward(x, gamma, beta, used, spread, eps), used, spread, counted


@sentence_norm.register_fake
def _(x, gamma, beta, mean, var, eps, group, path):
    channels = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    counted = channels.new_empty(1 if group and mean is None else 0)
    return torch.empty_like(x), channels, torch.empty_like(channels), counted


@torch.library.custom_op("scbn::sentence_norm_backward", mutates_args=())
def sentence_norm_backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    of_batch: bool,
    group: str,
    path: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gamma and beta; ``of_batch``: mean and variance are the batch's own."""
    if dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)

    def joint(means: Tensor) -> Tensor:
        return sync.joint_mean(means, x.shape[0] * x.shape[2], group) if group else means

    grads = implementation(path).backward(dy, x, gamma, mean, var, eps, joint if of_batch else None)
    return tuple(g.to(t.dtype) for g, t in zip(grads, (x, gamma, beta), strict=True))


@sentence_norm_backward.register_fake
def _(dy, x, gamma, beta, mean, var, eps, of_batch, group, path):
    return torch.empty_like(x), *(
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (gamma, beta)
    )


def implementation(path: str) -> ModuleType:
    """The module that computes; Triton is imported when it is first asked for."""
    if path == "tiled":
        return cpu
    from scbn.ops.triton import sentence as triton

    return triton


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, gamma, beta, mean, _, eps, group, path = inputs
    _, used_mean, used_var, counted = output
    ctx.mark_non_differentiable(used_mean, used_var, counted)
    ctx.set_materialize_grads(False)  # three launches that fill zeros nobody reads
    ctx.save_for_backward(x, gamma, beta, used_mean, used_var)
    ctx.eps, ctx.of_batch, ctx.group, ctx.path = eps, mean is None, group, path


def _backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 8
    *tensors, mean, var = ctx.saved_tensors
    if torch.is_grad_enabled():
        # Someone differentiates the gradient: by operations that autograd knows.
        given = (None, None) if ctx.of_batch else (mean, var)
        rest = (*given, ctx.eps, ctx.group)
        grads = eager.differentiable_gradients(eager.sentence_norm, tuple(tensors), rest, dy)
    else:
        grads = sentence_norm_backward(dy, *tensors, mean, var, ctx.eps, ctx.of_batch, ctx.group, ctx.path)
    return *grads, *(None,) * 5


sentence_norm.register_autograd(_backward, setup_context=_setup)
