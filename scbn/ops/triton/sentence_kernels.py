"""Triton kernels of the sentence cue; :mod:`scbn.ops.triton.sentence` launches them."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Triton adds launch options to a kernel's signature and indexes tensors by None; its types know neither.

from __future__ import annotations

import triton
import triton.language as tl

from scbn.ops.triton.common import load_channels, load_tile, store_tile


@triton.jit
def sentence_apply(
    x, y, gamma, beta, mean, var, eps, positions, channels, stride_n, stride_p, stride_c,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A tile of y = xhat gamma + beta."""
    n = tl.program_id(2).to(tl.int64)
    position = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = load_tile(x + n * stride_n, position, channel, positions, channels, stride_p, stride_c)
    rstd = tl.rsqrt(load_channels(var, channel, channels, 1.0) + eps)
    xhat = (tile - load_channels(mean, channel, channels, 0.0)[None, :]) * rstd[None, :]
    out = xhat * load_channels(gamma + n * channels, channel, channels, 0.0)[None, :]
    out += load_channels(beta + n * channels, channel, channels, 0.0)[None, :]
    store_tile(y + n * stride_n, out, position, channel, positions, channels, stride_p, stride_c)


@triton.jit
def sentence_reduce(
    x, dy, mean, var, eps, sums, positions, channels, length, chunks, stride_n, stride_p, stride_c,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """sum(dy xhat) and sum(dy) of a chunk of positions of a sample, into (N, chunks, 2, C)."""
    part = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = part // chunks
    start = (part % chunks).to(tl.int32) * length
    end = tl.minimum(start + length, positions)
    rstd = tl.rsqrt(load_channels(var, channel, channels, 1.0) + eps)
    centre = load_channels(mean, channel, channels, 0.0)
    dy_xhat = tl.zeros((BLOCK_C,), tl.float32)
    total = tl.zeros((BLOCK_C,), tl.float32)
    for p in range(start, end, BLOCK_P):
        position = p + tl.arange(0, BLOCK_P)
        tile = load_tile(x + n * stride_n, position, channel, end, channels, stride_p, stride_c)
        grad = load_tile(dy + n * stride_n, position, channel, end, channels, stride_p, stride_c)
        dy_xhat += tl.sum(grad * (tile - centre[None, :]), 0)
        total += tl.sum(grad, 0)
    row = sums + part * 2 * channels + channel
    tl.store(row, dy_xhat * rstd, mask=channel < channels)
    tl.store(row + channels, total, mask=channel < channels)


@triton.jit
def sentence_finish(
    sums, gamma, dgamma, dbeta, totals, chunks, channels, plane, share,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The chunks' sums of a sample added up: gradients (N, C), and its share of the means of dxhat and dxhat xhat.

    ``totals`` is (2, N, C), and ``plane`` N C.
    """
    n = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < channels
    part = tl.arange(0, BLOCK_S)
    first = sums + n * chunks * 2 * channels
    of_gamma = tl.zeros((BLOCK_C,), tl.float32)
    of_beta = tl.zeros((BLOCK_C,), tl.float32)
    for s in range(0, chunks, BLOCK_S):
        of_gamma += tl.sum(load_tile(first, s + part, channel, chunks, channels, 2 * channels, 1), 0)
        of_beta += tl.sum(load_tile(first + channels, s + part, channel, chunks, channels, 2 * channels, 1), 0)
    row = n * channels + channel
    own = load_channels(gamma + n * channels, channel, channels, 0.0)
    tl.store(dgamma + row, of_gamma.to(dgamma.dtype.element_ty), mask=inside)
    tl.store(dbeta + row, of_beta.to(dbeta.dtype.element_ty), mask=inside)
    tl.store(totals + row, own * of_beta * share, mask=inside)
    tl.store(totals + plane + row, own * of_gamma * share, mask=inside)


@triton.jit
def sentence_dx(
    x, dy, dx, gamma, mean, var, means, eps, positions, channels, stride_n, stride_p, stride_c,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, OF_BATCH: tl.constexpr,
):  # fmt: skip
    """A tile of dx = rstd (dy gamma - mean(dxhat) - xhat mean(dxhat xhat))."""
    n = tl.program_id(2).to(tl.int64)
    position = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    grad = load_tile(dy + n * stride_n, position, channel, positions, channels, stride_p, stride_c)
    out = grad * load_channels(gamma + n * channels, channel, channels, 0.0)[None, :]
    rstd = tl.rsqrt(load_channels(var, channel, channels, 1.0) + eps)
    if OF_BATCH:
        tile = load_tile(x + n * stride_n, position, channel, positions, channels, stride_p, stride_c)
        xhat = (tile - load_channels(mean, channel, channels, 0.0)[None, :]) * rstd[None, :]
        out -= load_channels(means, channel, channels, 0.0)[None, :]
        out -= load_channels(means + channels, channel, channels, 0.0)[None, :] * xhat
    store_tile(dx + n * stride_n, out * rstd[None, :], position, channel, positions, channels, stride_p, stride_c)
