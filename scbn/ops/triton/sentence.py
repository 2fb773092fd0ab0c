"""The sentence cue by Triton kernels: as many passes over maps as plain batch norm, and nothing else of their size."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Triton adds launch options to a kernel's signature and indexes tensors by None; its types know neither.

from __future__ import annotations

import torch
import triton
from torch import Tensor

from scbn.ops.triton.launch import FUSED, cut, laid_out_as, layout, on, statistics, with_result
from scbn.ops.triton.sentence_kernels import sentence_apply, sentence_dx, sentence_finish, sentence_reduce
from scbn.ops.values import Joint, Statistics

__all__ = ["backward", "forward", "statistics"]


def forward(x: Tensor, gamma: Tensor, beta: Tensor, stats: Statistics, eps: float) -> Tensor:
    """y of :func:`scbn.ops.sentence.sentence_norm`."""
    samples, channels, positions = x.shape
    x, y = with_result(x)
    block_p, block_c = _blocks(x)
    with on(x.device):
        sentence_apply[(triton.cdiv(positions, block_p), triton.cdiv(channels, block_c), samples)](
            x=x, y=y, gamma=gamma.contiguous(), beta=beta.contiguous(), mean=stats.mean, var=stats.var, eps=eps,
            **layout(x), BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4, **FUSED,
        )  # fmt: skip
    return y


def backward(
    dy: Tensor, x: Tensor, gamma: Tensor, stats: Statistics, eps: float, joint: Joint | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients as :func:`scbn.ops.sentence.sentence_norm_backward_op`; ``joint`` is None where statistics are given."""
    samples, channels, positions = x.shape
    x, dx = with_result(x)
    dy, gamma = laid_out_as(x, dy), gamma.contiguous()
    block_p, block_c = _blocks(x)
    length, chunks = cut(positions, block_p, samples * triton.cdiv(channels, block_c), x.device)
    sums = x.new_empty((samples, chunks, 2, channels), dtype=torch.float32)
    dgamma, dbeta = torch.empty_like(gamma), torch.empty_like(gamma)
    totals = sums.new_empty((2, samples, channels))
    shared = {"mean": stats.mean, "var": stats.var, "eps": eps, **layout(x)}
    tile = {"BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": 4, **FUSED}
    with on(x.device):
        sentence_reduce[(samples * chunks, triton.cdiv(channels, block_c))](
            x=x, dy=dy, sums=sums, length=length, chunks=chunks, **shared, **tile,
        )  # fmt: skip
        sentence_finish[(samples, triton.cdiv(channels, 64))](
            sums=sums, gamma=gamma, dgamma=dgamma, dbeta=dbeta, totals=totals, chunks=chunks, channels=channels,
            plane=samples * channels, share=1 / (samples * positions), BLOCK_S=16, BLOCK_C=64, num_warps=4, **FUSED,
        )  # fmt: skip
        means = totals.sum(1)
        if joint is not None:
            means = joint(means)
        sentence_dx[(triton.cdiv(positions, block_p), triton.cdiv(channels, block_c), samples)](
            x=x, dy=dy, dx=dx, gamma=gamma, means=means, OF_BATCH=joint is not None, **shared, **tile,
        )  # fmt: skip
    return dx, dgamma, dbeta


def _blocks(x: Tensor) -> tuple[int, int]:
    """Positions and channels of a tile: long where memory runs, 4,096 values at most."""
    along, across = (2, 1) if x.stride(2) == 1 else (1, 2)
    long = min(triton.next_power_of_2(x.shape[along]), 512)
    short = min(triton.next_power_of_2(x.shape[across]), 4096 // long, 64)
    return (long, short) if along == 2 else (short, long)
