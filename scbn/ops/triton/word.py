"""The word cue by Triton kernels.

Forward: statistics (reads x), then y (reads x, writes y). Backward, with the attention recomputed each time: sums over
positions (reads x and dy), then dx (reads x and dy, writes dx). Eight passes of x's size, as many as plain batch norm, where
the sums of all channels fit in registers; elsewhere attention and its gradient, two numbers a word slot and position, are
written and read besides.

With L = scale keys . x, a = softmax(L), G = own_gamma + sum_t a_t gamma_t:

    dgamma_t = sum_j a_tj dy_j xhat_j      dbeta_t = sum_j a_tj dy_j      dkeys_t = scale sum_j dL_tj x_j
    da_t = dy . (xhat gamma_t + beta_t)    dL = a (da - sum_t a_t da_t)
    dx = rstd (dy G - mean(dy G) - xhat mean(dy G xhat)) + scale sum_t dL_t keys_t
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# Triton adds launch options to a kernel's signature and indexes tensors by None; its types know neither.

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from scbn.ops.triton.launch import (
    FUSED,
    capability,
    cut,
    on,
    product_kind,
    product_settings,
    statistics,
    word_blocks,
)
from scbn.ops.triton.word_kernels import word_apply, word_dx, word_finish, word_reduce

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
    """y of :func:`scbn.ops.word.word_norm`."""
    samples, channels, positions = x.shape
    keys, gamma, beta, own_gamma, own_beta = (t.contiguous() for t in (keys, gamma, beta, own_gamma, own_beta))
    words = keys.shape[1]
    kind = product_kind(x)
    slots, (block, _, _) = word_blocks(words, channels, kind, capability(x.device))
    y = torch.empty_like(x)
    with on(x.device):
        word_apply[(triton.cdiv(positions, block.positions), samples)](
            x, y, keys, gamma, beta, own_gamma, own_beta, _bytes(padding, x), mean, var, eps, scale * math.log2(math.e),
            positions, channels, words, x.stride(0), x.stride(2), x.stride(1), _own_stride(own_gamma),
            BLOCK_P=block.positions, BLOCK_C=block.channels, WORDS=slots, HAS_PADDING=padding is not None,
            num_warps=block.warps, num_stages=1, **product_settings(kind), **FUSED,
        )  # fmt: skip
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
    """Gradients as :func:`scbn.ops.word.word_norm_backward`; ``joint`` is None where the statistics are given."""
    samples, channels, positions = x.shape
    keys, gamma, beta, own_gamma, own_beta = (t.contiguous() for t in (keys, gamma, beta, own_gamma, own_beta))
    words = keys.shape[1]
    kind = product_kind(x)
    slots, (_, reduce, last) = word_blocks(words, channels, kind, capability(x.device))
    factor, mask, strides = scale * math.log2(math.e), _bytes(padding, x), (x.stride(0), x.stride(2), x.stride(1))
    shared = {"WORDS": slots, "HAS_PADDING": padding is not None}
    tiles = {**shared, "num_stages": 1, **product_settings(kind), **FUSED}
    narrow = channels <= reduce.channels
    length, chunks = cut(positions, reduce.positions, samples, x.device)
    sums = x.new_empty((samples * chunks, 3, slots, channels), dtype=torch.float32)
    kept = torch.bfloat16 if kind == "bf16" else torch.float32
    scratch = sums if narrow else x.new_empty((samples, positions, 2, slots), dtype=kept)
    dkeys, dgamma, dbeta = (torch.empty_like(t) for t in (keys, gamma, beta))
    totals = sums.new_empty((4, samples, channels))
    dx = torch.empty_like(x)
    with on(x.device):
        word_reduce[(chunks, samples)](
            x, dy, keys, gamma, beta, mask, mean, var, eps, factor, sums, scratch,
            positions, channels, words, length, *strides,
            BLOCK_P=reduce.positions, BLOCK_C=reduce.channels, NARROW=narrow, num_warps=reduce.warps, **tiles,
        )  # fmt: skip
        word_finish[(samples, triton.cdiv(channels, 32))](
            sums, gamma, beta, own_gamma, mask, dgamma, dbeta, dkeys, totals,
            chunks, samples, channels, words, scale, 1 / (samples * positions), _own_stride(own_gamma), BLOCK_C=32, num_warps=4, **shared, **FUSED,
        )  # fmt: skip
        summed = totals.sum(1)
        means = summed[2:] if joint is None else joint(summed[2:])
        word_dx[(triton.cdiv(positions, last.positions), samples)](
            x, dy, dx, keys, gamma, beta, own_gamma, mask, mean, var, means, eps, factor, scale,
            positions, channels, words, *strides, _own_stride(own_gamma),
            BLOCK_P=last.positions, BLOCK_C=last.channels, OF_BATCH=joint is not None, num_warps=last.warps, **tiles,
        )  # fmt: skip
    return dx, dkeys, dgamma, dbeta, summed[:2] if own_gamma.dim() == 1 else totals[:2]


def _bytes(padding: Tensor | None, x: Tensor) -> Tensor:
    """The mask as the kernels read it; something to point at where there is none."""
    return x if padding is None else padding.contiguous().view(torch.uint8)


def _own_stride(own: Tensor) -> int:
    """From one sample's scale and shift to the next's: none where all share the norm's."""
    return 0 if own.dim() == 1 else own.shape[1]
