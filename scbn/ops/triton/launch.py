"""What every launch of a Triton kernel needs: block sizes, how the work is cut, and the statistics both cues start from."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Triton adds launch options to a kernel's signature and indexes tensors by None; its types know neither.

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from scbn import ops
from scbn.ops.triton.common import statistics_merge, statistics_partial
from scbn.ops.values import Statistics

# Said at every launch: Triton 3.9 warns where it is left open, and 3.10 changes what is meant then.
FUSED = {"enable_fp_fusion": True}


def statistics(x: Tensor) -> Statistics:
    """Mean and biased variance (C,) of x (N, C, P), in float32."""
    samples, channels, positions = x.shape
    block_c = min(4 if x.stride(2) == 1 else 64, triton.next_power_of_2(channels))
    block_p = min(triton.next_power_of_2(positions), 4096 // block_c)
    length, chunks = cut(positions, block_p, samples * triton.cdiv(channels, block_c), x.device)
    parts = samples * chunks
    mean, squares = x.new_empty((2, parts, channels), dtype=torch.float64)
    out_mean, out_var = (x.new_empty(channels, dtype=torch.float32) for _ in range(2))
    with on(x.device):
        statistics_partial[(parts, triton.cdiv(channels, block_c))](
            x=x, mean=mean, squares=squares, length=length, chunks=chunks, **layout(x),
            BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4, **FUSED,
        )  # fmt: skip
        statistics_merge[(triton.cdiv(channels, 16),)](
            mean=mean, squares=squares, out_mean=out_mean, out_var=out_var, parts=parts, positions=positions,
            channels=channels, length=length, chunks=chunks, BLOCK_S=64, BLOCK_C=16, num_warps=4, **FUSED,
        )  # fmt: skip
    return Statistics(out_mean, out_var, samples * positions)


def with_result(x: Tensor) -> tuple[Tensor, Tensor]:
    """x, and memory for a result that lies as x does: a kernel has one set of strides for both.

    Where x is not dense no result can lie so, and x is copied.
    """
    result = torch.empty_like(x)
    if result.stride() != x.stride():
        x = result.copy_(x)
        result = torch.empty_like(x)
    return x, result


def laid_out_as(x: Tensor, other: Tensor) -> Tensor:
    """The other tensor in x's memory layout."""
    return other if other.stride() == x.stride() else torch.empty_like(x).copy_(other)


def layout(x: Tensor) -> dict[str, int]:
    """The arguments that say where x (N, C, P) lies."""
    return {
        "positions": x.shape[2],
        "channels": x.shape[1],
        "stride_n": x.stride(0),
        "stride_p": x.stride(2),
        "stride_c": x.stride(1),
    }


def cut(positions: int, block: int, others: int, device: torch.device, least: int = 1) -> tuple[int, int]:
    """Length, a multiple of ``block``, and number of the chunks of a sample, so that every multiprocessor has work.

    ``others``: into how many programs the work is cut along the other axes already. ``least``: of a chunk's positions.
    """
    wanted = max(1, 4 * multiprocessors(device) // others)
    length = block * triton.cdiv(max(least, triton.cdiv(positions, wanted)), block)
    return length, triton.cdiv(positions, length)


def multiprocessors(device: torch.device) -> int:
    """How many programs run side by side; interpreted, a few, so that several chunks are met."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def capability(device: torch.device) -> tuple[int, int]:
    """The GPU's compute capability; interpreted, that of a recent one."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Block(NamedTuple):
    """The tile of a program and the warps that share it."""

    positions: int
    channels: int
    warps: int


# Of each kind of product and number of word slots: the blocks of word_apply, word_reduce and word_dx. As much in flight
# as registers allow on sm_80, sm_90 and sm_100 under every compiler from Triton 3.6 to 3.9, which differ by a few registers
# (tests/ops/test_triton_offline.py says how few). The exception: 128 slots spill up to 64 bytes in tf32x3 and 8 in bf16.
_BLOCKS = {
    ("bf16", 16): (Block(128, 64, 8), Block(128, 64, 8), Block(128, 64, 8)),
    ("bf16", 32): (Block(64, 64, 4), Block(64, 64, 8), Block(64, 64, 4)),
    ("bf16", 64): (Block(32, 64, 8), Block(32, 64, 8), Block(32, 64, 8)),
    ("bf16", 128): (Block(32, 32, 8), Block(32, 32, 8), Block(32, 32, 8)),
    ("tf32", 32): (Block(64, 32, 4), Block(64, 64, 8), Block(64, 32, 4)),
    ("tf32x3", 16): (Block(128, 32, 8), Block(64, 16, 8), Block(128, 32, 8)),
    ("tf32x3", 32): (Block(64, 32, 4), Block(64, 16, 8), Block(64, 16, 4)),
    ("tf32x3", 64): (Block(32, 16, 8), Block(32, 16, 8), Block(32, 16, 8)),
    ("tf32x3", 128): (Block(32, 16, 8), Block(32, 16, 8), Block(32, 16, 8)),
}
# Smaller ones, where those spill: of sizes that 16 does not divide, so that loads are narrow and take more registers; and of
# GPUs whose products take operands from registers, not from shared or tensor memory (sm_8x, and sm_12x more so).
_SMALL = {
    ("bf16", 32): (Block(64, 32, 4), Block(64, 32, 8), Block(64, 32, 8)),
    ("tf32", 32): (Block(64, 32, 4), Block(64, 16, 8), Block(64, 16, 4)),
    ("tf32x3", 16): (Block(64, 32, 8), Block(32, 16, 8), Block(64, 32, 8)),
    ("tf32x3", 32): (Block(64, 16, 4), Block(32, 16, 8), Block(64, 16, 8)),
}
_FROM_REGISTERS = {("tf32", 8), ("tf32", 12), ("tf32x3", 12)}


def word_blocks(
    words: int, channels: int, kind: str, capability: tuple[int, int], odd: bool
) -> tuple[int, tuple[Block, Block, Block]]:
    """Word slots, one at least beyond the words, and the blocks of word_apply, word_reduce and word_dx.

    ``odd``: 16 does not divide all sizes.
    """
    slots = max(16, triton.next_power_of_2(words + 1))
    found = _BLOCKS.get((kind, slots)) or _BLOCKS["tf32x3", slots]
    if odd or (kind, capability[0]) in _FROM_REGISTERS:
        halved = tuple(block._replace(channels=max(16, block.channels // 2)) for block in found)
        found = _SMALL.get((kind, slots)) or halved
    most = max(16, triton.next_power_of_2(channels))
    apply, reduce, dx = (block._replace(channels=min(block.channels, most)) for block in found)
    return slots, (apply, reduce, dx)


def is_odd(x: Tensor) -> bool:
    """Whether 16 does not divide the sizes of x (N, C, P), as it does those of generators."""
    return x.shape[1] % 16 != 0 or x.shape[2] % 16 != 0


def product_kind(x: Tensor, table: torch.dtype) -> str:
    """How products are computed: ``"bf16"`` where x and tables are, or for all else as the user's matmul setting allows.

    Float16 goes through float32 because a product of a scaled gradient and xhat may exceed its range.
    """
    if x.dtype == table == torch.bfloat16 and not ops.interpreted():  # whose bfloat16 arithmetic is wrong
        return "bf16"
    return "tf32" if x.dtype == torch.float16 or (x.is_cuda and _allows_tf32()) else "tf32x3"


def _allows_tf32() -> bool:
    matmul: Any = torch.backends.cuda.matmul
    try:
        return matmul.allow_tf32
    except RuntimeError:  # set by the newer switch, beside which torch refuses to read this one
        return matmul.fp32_precision == "tf32"


def product_settings(kind: str) -> dict[str, Any]:
    """The kernels' compile-time arguments for a kind of product."""
    if kind == "bf16":
        return {"DOT": tl.bfloat16, "PRECISION": "ieee"}
    return {"DOT": tl.float32, "PRECISION": kind}
