"""Triton kernels: statistics, and the helpers that the cues' kernels share. Imports triton; imported only to launch.

Tiles are position-major, (BLOCK_P, BLOCK_C): channel-major ones spill registers. Strides decide what is contiguous, so
one source serves NCHW and channels-last maps. Offsets within a sample are 32-bit: 64-bit ones take the registers.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# Triton adds launch options to a kernel's signature and indexes tensors by None; its types know neither.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_tile(x, position, channel, positions, channels, stride_p, stride_c):
    """(BLOCK_P, BLOCK_C) of a sample in float32; zero outside."""
    inside = (position < positions)[:, None] & (channel < channels)[None, :]
    pointers = x + position[:, None] * stride_p + channel[None, :] * stride_c
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_tile(y, value, position, channel, positions, channels, stride_p, stride_c):
    """Write a (BLOCK_P, BLOCK_C) tile of a sample."""
    inside = (position < positions)[:, None] & (channel < channels)[None, :]
    pointers = y + position[:, None] * stride_p + channel[None, :] * stride_c
    tl.store(pointers, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def load_channels(values, channel, channels, other):
    """(BLOCK_C,) of a value per channel, in float32."""
    return tl.load(values + channel, mask=channel < channels, other=other).to(tl.float32)


@triton.jit
def statistics_partial(
    x, mean, squares, positions, channels, length, chunks, stride_n, stride_p, stride_c,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean and sum of centred squares of ``length`` positions of a sample: (N * chunks, C) each, in float64.

    A tile is centred twice, by its mean in float32 and by what that missed; a few numbers a channel are float64. Otherwise
    the mean's rounding would stand in the variance wherever the mean is large.
    """
    part = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = (part % chunks) * length
    end = tl.minimum(start + length, positions)
    x += (part // chunks).to(tl.int64) * stride_n
    count = 0.0
    m = tl.zeros((BLOCK_C,), tl.float64)
    m2 = tl.zeros((BLOCK_C,), tl.float64)
    for p in range(start, end, BLOCK_P):
        position = p + tl.arange(0, BLOCK_P)
        tile = load_tile(x, position, channel, end, channels, stride_p, stride_c)
        here = tl.minimum(BLOCK_P, end - p).to(tl.float32)
        rough = tl.sum(tile, 0) / here
        centred = tl.where((position < end)[:, None], tile - rough[None, :], 0.0)
        missed = tl.sum(centred, 0) / here
        missed = tl.where(missed == missed, missed, 0.0)  # of an infinite value, whose mean is infinite
        # Chan, Golub, LeVeque (1983): merging means and centred squares loses nothing where the mean is large.
        step = rough.to(tl.float64) + missed - m
        total = count + here
        m2 += tl.sum(centred * centred, 0) - here * missed * missed + step * step * (count * here / total)
        m += step * (here / total)
        count = total
    inside = channel < channels
    row = part.to(tl.int64) * channels + channel
    tl.store(mean + row, m, mask=inside)
    tl.store(squares + row, m2, mask=inside)


@triton.jit
def statistics_merge(
    mean, squares, out_mean, out_var, parts, positions, channels, length, chunks,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean and biased variance of each channel from the parts of :func:`statistics_partial`."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = (parts // chunks) * 1.0 * positions
    m = tl.zeros((BLOCK_C,), tl.float64)
    for s in range(0, parts, BLOCK_S):
        part = s + tl.arange(0, BLOCK_S)
        share = _share(part, parts, positions, length, chunks) / total
        m += tl.sum(_load_parts(mean, part, channel, parts, channels) * share[:, None], 0)
    m2 = tl.zeros((BLOCK_C,), tl.float64)
    for s in range(0, parts, BLOCK_S):
        part = s + tl.arange(0, BLOCK_S)
        count = _share(part, parts, positions, length, chunks)
        step = _load_parts(mean, part, channel, parts, channels) - m[None, :]
        m2 += tl.sum(_load_parts(squares, part, channel, parts, channels) + step * step * count[:, None], 0)
    tl.store(out_mean + channel, m.to(tl.float32), mask=channel < channels)
    tl.store(out_var + channel, (m2 / total).to(tl.float32), mask=channel < channels)


@triton.jit
def _load_parts(values, part, channel, parts, channels):
    """(BLOCK_S, BLOCK_C) of what each part found, in float64; zero outside."""
    inside = (part < parts)[:, None] & (channel < channels)[None, :]
    return tl.load(values + part.to(tl.int64)[:, None] * channels + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _share(part, parts, positions, length, chunks):
    """How many values a part stands for; none beyond the last."""
    count = tl.minimum(length, positions - (part % chunks) * length)
    return tl.where(part < parts, count, 0).to(tl.float64)
