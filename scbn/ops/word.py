"""The word cue as one operation with its backward by hand: what autograd, torch.compile and opcheck see.

Forward: statistics, then one pass that reads x and writes y. Backward: attention is recomputed from x; kept are x, the
tables and two numbers a channel. Opaque to torch.compile on purpose: traced through, the partitioner would keep maps of
x's size. :mod:`scbn.ops.cpu.word` and :mod:`scbn.ops.triton.word` compute it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scbn.ops import eager, statistics, sync
from scbn.ops.cpu import word as cpu
from scbn.ops.values import Statistics, WordBackend, WordTables


def word_norm(
    x: Tensor,
    tables: WordTables,
    given: Statistics | None,
    *,
    eps: float,
    scale: float,
    group: str = "",
    backend: str,
) -> tuple[Tensor, Statistics]:
    """y = xhat (weight + sum_t a_t gamma_t) + bias + sum_t a_t beta_t, with a = softmax_t(scale x . keys_t).

    Args:
        x: (N, C, P), contiguous or with channels innermost.
        tables: the words', and the norm's own weight and bias.
        given: statistics to normalise with; ``None``: those of the batch.
        eps: added to the variance.
        scale: factor on the dot product.
        group: name of the process group whose joint batch is meant; empty for this process alone.
        backend: ``"cpu"`` or ``"triton"``.

    Returns:
        y, and the statistics it was normalised with, the variance biased.
    """
    mean, var = (None, None) if given is None else given[:2]
    y, mean, var, count = word_norm_op(x, *tables, mean, var, eps, scale, group, backend)
    return y, Statistics(mean, var, count if group else x.numel() // x.shape[1])


@torch.library.custom_op("scbn::word_norm", mutates_args=())
def word_norm_op(
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    scale: float,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`word_norm` with tensors for arguments and results, the count (1,), or (0,) without a group."""
    run = implementation(backend)
    stats = statistics.used_statistics(run.statistics, x, mean, var, group)
    y = run.forward(x, WordTables(keys, gamma, beta, weight, bias, padding), stats, eps, scale)
    return y, *statistics.as_outputs(stats)


@word_norm_op.register_fake
def _(x, keys, gamma, beta, weight, bias, padding, mean, var, eps, scale, group, backend):
    return torch.empty_like(x), *statistics.fake_outputs(x, mean, group)


@torch.library.custom_op("scbn::word_norm_backward", mutates_args=())
def word_norm_backward_op(
    dy: Tensor,
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    scale: float,
    of_batch: bool,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, keys, gamma, beta, and of weight and bias in one tensor (2, ...).

    ``of_batch``: mean and variance are the batch's own.
    """
    if dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)
    tables, stats = WordTables(keys, gamma, beta, weight, bias, padding), Statistics(mean, var)
    joint = sync.joint_of(x, group) if of_batch else None
    grads = implementation(backend).backward(dy, x, tables, stats, eps, scale, joint)
    dx, dkeys, dgamma, dbeta, own = (
        g.to(t.dtype) for g, t in zip(grads, (x, keys, gamma, beta, weight), strict=True)
    )
    return dx, dkeys, dgamma, dbeta, own


@word_norm_backward_op.register_fake
def _(dy, x, keys, gamma, beta, weight, bias, padding, mean, var, eps, scale, of_batch, group, backend):
    tables = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (keys, gamma, beta))
    return torch.empty_like(x), *tables, weight.new_empty((2, *weight.shape))


def implementation(backend: str) -> WordBackend:
    """The module that computes; Triton is imported when it is first asked for."""
    if backend == "cpu":
        return cpu
    from scbn.ops.triton import word as triton

    return triton


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, mean, _, ctx.eps, ctx.scale, ctx.group, ctx.backend = inputs
    ctx.of_batch = mean is None
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # three launches that fill zeros nobody reads
    ctx.save_for_backward(*tensors, *output[1:3])


def _backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = len(ctx.needs_input_grad)
    if dy is None:
        return (None,) * inputs
    *tensors, padding, mean, var = ctx.saved_tensors
    if torch.is_grad_enabled():
        # Someone differentiates the gradient: by operations that autograd knows.
        given = None if ctx.of_batch else Statistics(mean, var)

        def norm(x: Tensor, *tables: Tensor) -> Tensor:
            words = WordTables._make((*tables, padding))
            return eager.word_norm(x, words, given, eps=ctx.eps, scale=ctx.scale, group=ctx.group)

        grads = eager.differentiable_gradients(norm, tuple(tensors), dy)
    else:
        settings = ctx.eps, ctx.scale, ctx.of_batch, ctx.group, ctx.backend
        *grads, own = word_norm_backward_op(dy, *tensors, padding, mean, var, *settings)
        grads += own[0], own[1].to(tensors[-1].dtype)
    return *grads, *(None,) * (inputs - len(grads))


word_norm_op.register_autograd(_backward, setup_context=_setup)
