"""Tiles of positions, samples shared between threads, and the statistics they give."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

# Two megabytes of float32 a tile: small enough for a core's share of the last cache, large enough that Python's calls
# do not count. 2^16 to 2^20 were measured; see docs/benchmark.md.
VALUES = 1 << 19
_pool: tuple[int, int, ThreadPoolExecutor] | None = None


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of x (N, C, P): two passes, the second in tiles."""
    n, _, positions = x.shape
    mean = x.mean(2).mean(0)
    tile = tile_width(x)
    squares = torch.zeros(n, x.shape[1], dtype=x.dtype)

    def sample(i: int) -> None:
        shifted = x.new_empty(x.shape[1], tile)
        for start in range(0, positions, tile):
            part = x[i, :, start : start + tile]
            out = torch.sub(part, mean[:, None], out=fit(shifted, part.shape[1]))
            squares[i] += torch.linalg.vector_norm(out, dim=1).square()

    each_sample(sample, n)
    return mean, squares.sum(0) / (n * positions)


def tile_width(x: Tensor) -> int:
    return max(1, min(x.shape[2], VALUES // x.shape[1]))


def fit(buffer: Tensor, width: int) -> Tensor:
    """The buffer, or for the last tile a narrower one of its own: views of it would not be contiguous."""
    return buffer if buffer.shape[1] == width else buffer.new_empty(buffer.shape[0], width)


def each_sample(task: Callable[[int], None], count: int) -> None:
    """Run ``task`` for every sample, on as many Python threads as torch would use.

    Whole samples, because skinny products do not divide well from within.
    """
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        for i in range(count):
            task(i)
        return

    def share(first: int) -> None:
        # Both settings are of the thread: neither inference nor gradient mode is inherited by one of a pool.
        with torch.no_grad():
            for i in range(first, count, threads):
                task(i)

    for _ in _executor(threads).map(share, range(threads)):
        pass


def _executor(threads: int) -> ThreadPoolExecutor:
    global _pool
    # A forked child has the object but none of the threads.
    if _pool is None or _pool[:2] != (os.getpid(), threads):
        _pool = os.getpid(), threads, ThreadPoolExecutor(threads, "scbn", lambda: torch.set_num_threads(1))
    return _pool[2]
