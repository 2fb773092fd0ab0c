"""Tiles of positions of a few samples, small enough to stay in cache, and the statistics they give."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scbn.ops.values import Statistics

# Two megabytes of float32 a tile and sample: small enough for a core's share of the last cache, large enough that Python's
# calls do not count. 2^16 to 2^20 were measured; see docs/benchmark.md.
VALUES = 1 << 19


def statistics(x: Tensor) -> Statistics:
    """Mean and biased variance of every channel of x (N, C, P), both zero for no values.

    Each tile is centred twice while it is in cache, by its mean and by what rounding left of that, or the rounding would
    stand in the variance wherever the mean is large. The tiles' are merged in float64, as Chan, Golub, LeVeque (1983).
    """
    samples, channels, positions = x.shape
    if samples * positions == 0:
        return Statistics(x.new_zeros(channels), x.new_zeros(channels))
    counts, means, squares = [], [], []
    buffer = tile_buffer(x, channels)
    for s, p in tiles(x):
        part = x[s, :, p]
        rough = part.mean(2, keepdim=True)
        centred = torch.sub(part, rough, out=fit(buffer, part))
        missed = centred.mean(2).double()
        missed = torch.where(missed.isfinite(), missed, 0)  # of an infinite value, whose mean is infinite
        width = part.shape[2]
        counts += [width] * part.shape[0]
        means.append(rough[:, :, 0] + missed)
        # Not linalg.vector_norm, which adds up less precisely.
        squares.append(centred.square_().sum(2).double() - width * missed.square())
    count = means[0].new_tensor(counts)[:, None]
    of_tile, total = torch.cat(means), samples * positions
    mean = (of_tile * count).sum(0) / total
    var = (torch.cat(squares) + (of_tile - mean).square() * count).sum(0) / total
    return Statistics(mean.to(x.dtype), var.clamp(min=0).to(x.dtype), total)


def tiles(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Samples and positions of each tile of x (N, C, P).

    As many samples at once as PyTorch has threads: its operations then share them out by themselves, a sample to a
    thread, whose tile stays in that core's cache. Threads of our own would inherit no mode that is the thread's
    (inference, grad, a default device), and setting their number would set it for the process.
    """
    samples, _, positions = x.shape
    many, tile = _samples(x), tile_width(x)
    for first in range(0, samples, many):
        for start in range(0, positions, tile):
            yield slice(first, min(first + many, samples)), slice(start, min(start + tile, positions))


def tile_width(x: Tensor) -> int:
    return max(1, min(x.shape[2], VALUES // x.shape[1]))


def tile_buffer(x: Tensor, rows: int) -> Tensor:
    """Memory for ``rows`` numbers at each position of a tile of x."""
    return x.new_empty(_samples(x), rows, tile_width(x))


def fit(buffer: Tensor, part: Tensor) -> Tensor:
    """The buffer, or for the last tile a smaller one of its own: views of it would not be contiguous."""
    samples, _, width = part.shape
    if buffer.shape[0] == samples and buffer.shape[2] == width:
        return buffer
    return buffer.new_empty(samples, buffer.shape[1], width)


def _samples(x: Tensor) -> int:
    whole = max(1, VALUES // max(1, x.shape[1] * x.shape[2]))  # as many as fit, where positions are few
    return max(1, min(x.shape[0], whole * torch.get_num_threads()))
