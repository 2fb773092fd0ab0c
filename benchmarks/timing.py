"""How long a call takes, and what the machine could do: PyTorch's and Triton's own timers."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.benchmark import Timer


def seconds(call: Callable[[], object], device: str, threads: int) -> float:
    """One timing of ``call``: a run on the CPU, on a GPU the median of those that fit into 25 ms."""
    if device == "cuda":
        from triton.testing import do_bench

        milliseconds: Any = do_bench(call, warmup=5, rep=25, return_mode="median")
        return milliseconds / 1e3
    _trim()
    return Timer("call()", globals={"call": call}, num_threads=threads).timeit(1).median


def _trim() -> None:
    """Give free memory back to the system: else a call is several times faster or slower by what ran before it.

    Around 32 MB glibc's allocator keeps a freed map or returns it, and a fresh one costs a page fault every 4 KB.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def copy_bandwidth(device: str, threads: int, megabytes: int = 256) -> float:
    """Bytes a second of a copy, reading and writing counted: what no kernel that reads and writes can beat by much."""
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    copy()
    return 2 * source.numel() * 4 / min(seconds(copy, device, threads) for _ in range(5))
