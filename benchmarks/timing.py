"""How long a call takes, and what the machine could do: PyTorch's and Triton's own timers."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.benchmark import Timer


@dataclass(frozen=True)
class Setting:
    """Where and how everything runs."""

    device: str = "cpu"
    dtype: str = "float32"
    words: int = 18
    rounds: int = 9
    threads: int = 1
    layout: Literal["contiguous", "channels_last"] = "contiguous"
    allocator: Literal["trimmed", "warm"] = "trimmed"


def seconds(call: Callable[[], object], setting: Setting) -> float:
    """One timing of ``call``: a run on the CPU, on a GPU the median of those that fit into 25 ms."""
    if setting.device == "cuda":
        from triton.testing import do_bench

        milliseconds: Any = do_bench(call, warmup=5, rep=25, return_mode="median")
        return milliseconds / 1e3
    if setting.allocator == "trimmed":
        _trim()
    else:
        call()
    return Timer("call()", globals={"call": call}, num_threads=setting.threads).timeit(1).median


def _trim() -> None:
    """Give free memory back to the system: else a call is several times faster or slower by what ran before it.

    Around 32 MB glibc's allocator keeps a freed map or returns it, and a fresh one costs a page fault every 4 KB.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def copy_bandwidth(setting: Setting, megabytes: int = 256) -> float:
    """Bytes a second of a copy, reading and writing counted: what no kernel that reads and writes can beat by much."""
    source = torch.ones(megabytes << 18, device=setting.device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    copy()
    return 2 * source.numel() * 4 / min(seconds(copy, setting) for _ in range(5))
