"""The sentence cue as one operation with its backward by hand: what autograd, torch.compile and opcheck see.

Scale and shift are one number for each sample and channel, so they go into the normalisation:
``y = x (rstd g) + (b - mean rstd g)``. Nothing is kept but x and two numbers a channel.
:mod:`scbn.ops.cpu.sentence` and :mod:`scbn.ops.triton.sentence` compute it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from scbn.ops import eager, statistics, sync
from scbn.ops.cpu import sentence as cpu
from scbn.ops.values import SentenceBackend, Statistics


def sentence_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    given: Statistics | None,
    *,
    eps: float,
    group: str = "",
    backend: str,
) -> tuple[Tensor, Statistics]:
    """y = xhat gamma + beta.

    Args:
        x: (N, C, P), contiguous or with channels innermost.
        gamma, beta: (N, C), the norm's own weight and bias within them.
        given, eps, group, backend: as :func:`scbn.ops.word.word_norm`.

    Returns:
        As there.
    """
    mean, var = (None, None) if given is None else given[:2]
    y, mean, var, count = sentence_norm_op(x, gamma, beta, mean, var, eps, group, backend)
    return y, Statistics(mean, var, count if group else x.numel() // x.shape[1])


@torch.library.custom_op("scbn::sentence_norm", mutates_args=())
def sentence_norm_op(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`sentence_norm` with tensors for arguments and results, the count (1,), or (0,) without a group."""
    run = implementation(backend)
    stats = statistics.used_statistics(run.statistics, x, mean, var, group)
    return run.forward(x, gamma, beta, stats, eps), *statistics.as_outputs(stats)


@sentence_norm_op.register_fake
def _(x, gamma, beta, mean, var, eps, group, backend):
    return torch.empty_like(x), *statistics.fake_outputs(x, mean, group)


@torch.library.custom_op("scbn::sentence_norm_backward", mutates_args=())
def sentence_norm_backward_op(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    of_batch: bool,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gamma and beta; ``of_batch``: mean and variance are the batch's own."""
    if dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)
    joint = sync.joint_of(x, group) if of_batch else None
    grads = implementation(backend).backward(dy, x, gamma, Statistics(mean, var), eps, joint)
    dx, dgamma, dbeta = (g.to(t.dtype) for g, t in zip(grads, (x, gamma, beta), strict=True))
    return dx, dgamma, dbeta


@sentence_norm_backward_op.register_fake
def _(dy, x, gamma, beta, mean, var, eps, of_batch, group, backend):
    return torch.empty_like(x), *(
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (gamma, beta)
    )


def implementation(backend: str) -> SentenceBackend:
    """The module that computes; Triton is imported when it is first asked for."""
    if backend == "cpu":
        return cpu
    from scbn.ops.triton import sentence as triton

    return triton


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, mean, _, ctx.eps, ctx.group, ctx.backend = inputs
    ctx.of_batch = mean is None
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # three launches that fill zeros nobody reads
    ctx.save_for_backward(*tensors, *output[1:3])


def _backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = len(ctx.needs_input_grad)
    if dy is None:
        return (None,) * inputs
    *tensors, mean, var = ctx.saved_tensors
    if torch.is_grad_enabled():
        # Someone differentiates the gradient: by operations that autograd knows.
        given = None if ctx.of_batch else Statistics(mean, var)
        norm = partial(eager.sentence_norm, given=given, eps=ctx.eps, group=ctx.group)
        grads = eager.differentiable_gradients(norm, tuple(tensors), dy)
    else:
        settings = ctx.eps, ctx.of_batch, ctx.group, ctx.backend
        grads = sentence_norm_backward_op(dy, *tensors, mean, var, *settings)
    return *grads, *(None,) * (inputs - len(grads))


sentence_norm_op.register_autograd(_backward, setup_context=_setup)
