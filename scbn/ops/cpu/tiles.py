"""Tiles of positions of a few samples, small enough to stay in cache, and the statistics they give.

x (N, C, P) is contiguous or has its channels innermost. Every temporary lies as x does, so that operations on them run
through memory in order, and matrix products take either layout as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scbn.ops.eager import compute_dtype
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
    dtype = compute_dtype(x)
    if samples * positions == 0:
        return Statistics(x.new_zeros(channels, dtype=dtype), x.new_zeros(channels, dtype=dtype))
    counts, means, squares = [], [], []
    buffer, loaded = tile_buffer(x, channels), tile_buffer(x, channels)
    for s, p in tiles(x):
        part = load(x[s, :, p], loaded)
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
    return Statistics(mean.to(dtype), var.clamp(min=0).to(dtype), total)


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
    """Memory for ``rows`` numbers at each position of a tile of x, in float32 at least."""
    return _like(x, _samples(x), rows, tile_width(x))


def fit(buffer: Tensor, part: Tensor) -> Tensor:
    """The buffer, or for the last tile a smaller one of its own: views of it would not be contiguous."""
    samples, _, width = part.shape
    if buffer.shape[0] == samples and buffer.shape[2] == width:
        return buffer
    return _like(buffer, samples, buffer.shape[1], width)


def load(part: Tensor, buffer: Tensor) -> Tensor:
    """A tile of x to compute with: the tile itself, or its copy in float32.

    An operation on two dtypes at once would take two to thirty times as long as this copy and one on float32.
    """
    return part if part.dtype == buffer.dtype else fit(buffer, part).copy_(part)


def centre(part: Tensor, mean: Tensor, out: Tensor) -> Tensor:
    """A tile of x less the mean of each channel, in ``out``."""
    return torch.sub(load(part, out), mean, out=out)


def place(part: Tensor, buffer: Tensor) -> Tensor:
    """Where to compute what a tile of the result shall be, for :func:`store`: there, or in float32 first."""
    return part if part.dtype == buffer.dtype else fit(buffer, part)


def store(part: Tensor, value: Tensor) -> None:
    """Round what was computed in :func:`place` into a tile of the result, unless it stands there."""
    if part.dtype != value.dtype:
        part.copy_(value)


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a b of batches of matrices, in memory that lies as x does."""
    if out.is_contiguous():
        return torch.bmm(a, b, out=out)
    torch.bmm(b.mT, a.mT, out=out.mT)  # into transposed memory, PyTorch would multiply one after the other
    return out


def add_product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out + a b in the memory of ``out``, as :func:`product`."""
    if out.is_contiguous():
        return out.baddbmm_(a, b)
    out.mT.baddbmm_(b.mT, a.mT)
    return out


def _like(x: Tensor, samples: int, rows: int, width: int) -> Tensor:
    dtype = compute_dtype(x)
    if x.stride(1) == 1 and not x.is_contiguous():
        return x.new_empty(samples, width, rows, dtype=dtype).mT
    return x.new_empty(samples, rows, width, dtype=dtype)


def _samples(x: Tensor) -> int:
    whole = max(1, VALUES // max(1, x.shape[1] * x.shape[2]))  # as many as fit, where positions are few
    return max(1, min(x.shape[0], whole * torch.get_num_threads()))
