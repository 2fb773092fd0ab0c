"""Which implementation of the modulated norm runs: chosen by name, or by what x is."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from scbn.ops import probe, selfcheck
from scbn.ops.eager import is_channels_last

Backend = Literal["auto", "reference", "eager", "cpu", "triton"]

# Below this many values the overhead of a tile's operations outweighs the memory they save. Measured on one and two
# threads, in float32 and bfloat16; see docs/benchmark.md.
WORTHWHILE = 1 << 20
# The same for the sentence cue where channels are innermost: PyTorch's own batch norm is fastest there.
WORTHWHILE_SENTENCE_LAST = 1 << 21
# On a GPU: below, the launches of a fused layer (their preparation, about 120 us a step more than that of PyTorch's own
# operations) take longer than the memory traffic they save. Counted with launches stubbed, not timed on a GPU.
WORTHWHILE_GPU = 1 << 20
# One more than the words, and a power of two: the kernels keep a region's logits in registers.
WORD_SLOTS = 128

_backend: Backend = "auto"
_TRITON = importlib.util.find_spec("triton") is not None
# Torch 2.11 takes is_exporting for true in whatever Dynamo traces.
_DYNAMO_TELLS_EXPORT = tuple(int(part) for part in torch.__version__.split(".")[:2]) > (2, 11)


def get_backend() -> Backend:
    """The backend in force."""
    return _backend


def set_backend(backend: Backend) -> None:
    """Choose the implementation for the whole process: ``"auto"`` or one of the table above.

    Raises:
        ValueError: another name.
    """
    global _backend
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    _backend = backend


@contextlib.contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """Choose the implementation within a ``with`` block; see :func:`set_backend`: for the process, so not in several threads."""
    before = get_backend()
    set_backend(backend)
    try:
        yield
    finally:
        set_backend(before)


def choose(x: Tensor, words: int = 0, shared: bool = False, table: torch.dtype = torch.float32) -> Backend:
    """The backend that ``x`` (N, C, *spatial) with this many words, of tables of this dtype, takes: never ``"auto"``.

    No words: the sentence cue's.

    ``shared``: statistics are those of a group of processes, which all have to make the same collective calls. Then
    nothing that one process alone sees (sizes, layout, the number of words, what its GPU is) may decide between backends
    whose calls differ: the fused ones, whose calls do not, take every size.
    """
    if _backend == "reference" and x.numel() > 0:
        return "reference"
    fused = x.dim() >= 3 and (x.numel() > 0 or shared) and not recorded()
    if fused and _backend in ("auto", "triton") and _has_triton(x) and (shared or _gains_triton(x)):
        if _fits_triton(x, words, table):
            return "triton"
        if shared:
            return "cpu"
    if fused and _backend in ("auto", "cpu") and _runs_cpu(x) and (shared or _gains_cpu(x, words)):
        return "cpu"
    return "eager"


def _runs_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.is_floating_point()


def _gains_cpu(x: Tensor, words: int) -> bool:
    if x.is_contiguous():
        return _backend == "cpu" or x.numel() >= WORTHWHILE
    enough = WORTHWHILE if words else WORTHWHILE_SENTENCE_LAST
    return is_channels_last(x) and (_backend == "cpu" or x.numel() >= enough)


def _gains_triton(x: Tensor) -> bool:
    return _backend == "triton" or x.numel() >= WORTHWHILE_GPU


def _has_triton(x: Tensor) -> bool:
    if not _TRITON or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if x.device.type == "cuda":
        return torch.version.cuda is not None
    return x.device.type == "cpu" and _backend == "triton" and interpreted()


def _fits_triton(x: Tensor, words: int, table: torch.dtype) -> bool:
    if x.numel() == 0 or words >= WORD_SLOTS or x.shape[0] > 65_535:  # a grid's limit
        return False
    if max(x[0].numel(), x[0, 0].numel() * 2 * WORD_SLOTS) >= 2**31:  # offsets within a sample are 32-bit
        return False
    if x.device.type != "cuda":
        return True
    new_enough = torch.cuda.get_device_properties(x.device).major >= 8
    return new_enough and probe.usable() and selfcheck.trusted(x, words, table)


def interpreted() -> bool:
    """Whether Triton was told to interpret its kernels, which lets them run, slowly, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def recorded() -> bool:
    """Whether a graph is recorded or a transform active, which know PyTorch's own operations only.

    ``torch.compile`` is none of these: it takes the fused operations as they are.
    """
    return _exporting() or _transformed()


def _exporting() -> bool:
    """Within torch.export, whose graphs hold PyTorch's own operations only."""
    return torch.compiler.is_exporting() and (_DYNAMO_TELLS_EXPORT or not torch.compiler.is_dynamo_compiling())


def _transformed() -> bool:
    """Within vmap, grad, jvp and their like, forward-mode AD, jit.trace, make_fx.

    A constant for torch.compile, which enters the transforms of the function it compiles while it traces them.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or (not torch.compiler.is_compiling() and _proxy_mode() is not None)
    )


# What torch.compiler.assume_constant_result sets; to call it would import the compiler.
_transformed._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _proxy_mode() -> object:
    key = torch._C._TorchDispatchModeKey.PROXY  # pyright: ignore[reportAttributeAccessIssue]
    return torch._C._get_dispatch_mode(key)  # pyright: ignore[reportAttributeAccessIssue]
