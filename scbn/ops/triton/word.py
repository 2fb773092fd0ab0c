"""The word cue by Triton kernels.

Forward: statistics (reads x), then y (reads x, writes y). Backward, with the attention recomputed each time: sums over
positions (reads x and dy), then dx (reads x and dy, writes dx). Eight passes of x's size, as many as plain batch norm, where
the sums of all channels fit in registers; elsewhere attention and its gradient, two numbers a word slot and position, are
written and read besides, of so many samples at a time that they take half of x's size, or of one.

With L = scale keys . x, a = softmax(L), G = weight + sum_t a_t gamma_t:

    dgamma_t = sum_j a_tj dy_j xhat_j      dbeta_t = sum_j a_tj dy_j      dkeys_t = scale sum_j dL_tj x_j
    da_t = dy . (xhat gamma_t + beta_t)    dL = a (da - sum_t a_t da_t)
    dx = rstd (dy G - mean(dy G) - xhat mean(dy G xhat)) + scale sum_t dL_t keys_t
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# Triton adds launch options to a kernel's signature and indexes tensors by None; its types know neither.

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from scbn.ops.triton.launch import (
    FUSED,
    capability,
    cut,
    is_odd,
    laid_out_as,
    layout,
    on,
    product_kind,
    product_settings,
    statistics,
    with_result,
    word_blocks,
)
from scbn.ops.triton.word_kernels import word_apply, word_dx, word_finish, word_reduce
from scbn.ops.values import Joint, Statistics, WordTables

__all__ = ["backward", "forward", "statistics"]
_CHUNKS = 16
_LITTLE = 16 << 20


def forward(x: Tensor, tables: WordTables, stats: Statistics, eps: float, scale: float) -> Tensor:
    """y of :func:`scbn.ops.word.word_norm`."""
    samples, channels, positions = x.shape
    x, y = with_result(x)
    kind = product_kind(x, _table_dtype(tables))
    slots, (block, _, _) = word_blocks(tables.keys.shape[1], channels, kind, capability(x.device), is_odd(x))
    arguments = {**_tables(tables, x), "mean": stats.mean, "var": stats.var, "eps": eps, **layout(x)}
    with on(x.device):
        word_apply[(triton.cdiv(positions, block.positions), samples)](
            x=x, y=y, factor=scale * math.log2(math.e), **arguments,
            BLOCK_P=block.positions, BLOCK_C=block.channels, WORDS=slots, HAS_PADDING=tables.padding is not None,
            num_warps=block.warps, num_stages=1, **product_settings(kind), **FUSED,
        )  # fmt: skip
    return y


def backward(
    dy: Tensor, x: Tensor, tables: WordTables, stats: Statistics, eps: float, scale: float, joint: Joint | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as :func:`scbn.ops.word.word_norm_backward_op`; ``joint`` is None where the statistics are given."""
    samples, channels, positions = x.shape
    x, dx = with_result(x)
    dy = laid_out_as(x, dy)
    kind = product_kind(x, _table_dtype(tables))
    slots, (_, reduce, last) = word_blocks(tables.keys.shape[1], channels, kind, capability(x.device), is_odd(x))
    arguments = _tables(tables, x)
    keys, gamma, beta = (arguments[name] for name in ("keys", "gamma", "beta"))
    own = {name: arguments.pop(name) for name in ("weight", "bias", "stride_weight")}
    statistics = {"mean": stats.mean, "var": stats.var, "eps": eps, "factor": scale * math.log2(math.e)}
    shared = {"WORDS": slots, "HAS_PADDING": tables.padding is not None}
    tile = {**shared, "num_stages": 1, **product_settings(kind), **FUSED}
    narrow = channels <= reduce.channels
    kept = torch.bfloat16 if kind == "bf16" else torch.float32
    group = samples if narrow else _samples_at_once(x, 2 * slots * kept.itemsize)
    # Of chunks shorter than this the sums would take more memory than x.
    length, chunks = cut(positions, reduce.positions, group, x.device, least=3 * slots * 4 // x.element_size())
    sums = x.new_empty((samples, chunks, 3, slots, channels), dtype=torch.float32)
    scratch = sums if narrow else x.new_empty((group, positions, 2, slots), dtype=kept)
    dkeys, dgamma, dbeta = (torch.empty_like(t) for t in (keys, gamma, beta))
    totals = sums.new_empty((4, samples, channels))
    with on(x.device):
        for first in range(0, samples, group):
            some = slice(first, first + group)
            of_these = {name: arguments[name][some] for name in ("keys", "gamma", "beta", "padding")}
            word_reduce[(chunks, len(x[some]))](
                x=x[some], dy=dy[some], words=arguments["words"], **of_these, **statistics, sums=sums[some],
                scratch=scratch, length=length, **layout(x),
                BLOCK_P=reduce.positions, BLOCK_C=reduce.channels, NARROW=narrow, num_warps=reduce.warps, **tile,
            )  # fmt: skip
        if chunks > _CHUNKS:  # one program would add them up one after the other
            sums, chunks = sums.sum(1), 1
        word_finish[(samples, triton.cdiv(channels, 32))](
            sums=sums, gamma=gamma, beta=beta, weight=own["weight"], stride_weight=own["stride_weight"],
            padding=arguments["padding"], words=arguments["words"], channels=channels, chunks=chunks,
            plane=samples * channels, dgamma=dgamma, dbeta=dbeta, dkeys=dkeys, totals=totals, scale=scale,
            share=1 / (samples * positions), BLOCK_C=32, num_warps=4, **shared, **FUSED,
        )  # fmt: skip
        summed = totals.sum(1)
        means = summed[2:] if joint is None else joint(summed[2:])
        word_dx[(triton.cdiv(positions, last.positions), samples)](
            x=x, dy=dy, dx=dx, **arguments, weight=own["weight"], stride_weight=own["stride_weight"], **statistics,
            means=means, scale=scale, **layout(x),
            BLOCK_P=last.positions, BLOCK_C=last.channels, OF_BATCH=joint is not None, num_warps=last.warps, **tile,
        )  # fmt: skip
    return dx, dkeys, dgamma, dbeta, summed[:2] if tables.weight.dim() == 1 else totals[:2]


def _table_dtype(tables: WordTables) -> torch.dtype:
    """The widest of the words' tables."""
    return torch.promote_types(torch.promote_types(tables.keys.dtype, tables.gamma.dtype), tables.beta.dtype)


def _samples_at_once(x: Tensor, size: int) -> int:
    """Of how many samples the attention, ``size`` bytes a position, waits in memory at a time.

    In half of x's size, or in what is little on any GPU: each time costs a launch.
    """
    samples, channels, positions = x.shape
    most = max(samples * channels * x.element_size() // (2 * size), _LITTLE // (size * positions))
    most = max(1, min(samples, most))
    return triton.cdiv(samples, triton.cdiv(samples, most))  # the same number each time


def _tables(tables: WordTables, x: Tensor) -> dict[str, Any]:
    """The kernels' arguments for the words; something to point at where there is no mask."""
    keys, gamma, beta, weight, bias = (t.contiguous() for t in tables[:5])
    padding = x if tables.padding is None else tables.padding.contiguous().view(torch.uint8)
    return {
        "keys": keys,
        "gamma": gamma,
        "beta": beta,
        "weight": weight,
        "bias": bias,
        "padding": padding,
        "words": keys.shape[1],
        "stride_weight": 0 if weight.dim() == 1 else weight.shape[1],  # none where all samples share the norm's
    }
