"""The Triton kernels prove themselves on a GPU before anything relies on them there.

No list of cards can say where they are right: compilers and drivers differ. So a process compares each kind of kernel with
PyTorch's own operations once, on a small map of the same blocks and divisibility as the one it is asked for, so that what
is compiled for it is what runs afterwards.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from scbn.ops import eager
from scbn.ops.values import WordTables

_TIMES, _MOST = 4, 1024
_LEAST = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
_answers: dict[tuple[torch.device, Kind], bool] = {}
_distrusted: set[torch.device] = set()


class Kind(NamedTuple):
    """What decides which binaries run."""

    dtype: torch.dtype
    channels: int
    positions: int
    words: int
    channels_last: bool


_USUAL = {"channels": 64, "positions": _MOST, "words": 18, "channels_last": False}


def trusted(x: Tensor, words: int) -> bool:
    """Whether the kernels that x (N, C, *spatial) and so many words take compute what they should on its device.

    The first question of a kind is answered by a comparison. The first "no" is the device's answer from then on, and a
    warning says why.
    """
    if torch.compiler.is_compiling():  # sizes may be symbols
        return _usually_trusted(x.device, x.dtype)
    channels = x.shape[1]
    return _trusted(
        x.device, kind_of(x.dtype, channels, x.numel() // (len(x) * channels), words, x.stride(1) == 1 < channels)
    )


def _usually_trusted(device: torch.device, dtype: torch.dtype) -> bool:
    return _trusted(device, Kind(dtype, **_USUAL))


# For torch.compile: asked while it compiles, so before a graph is recorded.
_usually_trusted._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def kind_of(dtype: torch.dtype, channels: int, positions: int, words: int, channels_last: bool) -> Kind:
    """The smallest sizes whose kernels are those of the given ones: the same blocks, and 16 divides what it did."""
    even = positions % 16 == 0
    if positions > _MOST:
        positions = _MOST if even else _MOST + 7
    elif positions > 16:
        block = 1 << (positions - 1).bit_length()
        positions = block if even else block - 7
    slots = max(16, 1 << words.bit_length())
    return Kind(dtype, channels, positions, slots - 2, channels_last)


def _trusted(device: torch.device, kind: Kind) -> bool:
    if device in _distrusted:
        return False
    if (device, kind) not in _answers:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return True  # nothing can be compared while a graph is recorded; what warmed up before it was
        trouble = _find_trouble(device, kind)
        _answers[device, kind] = not trouble
        if trouble:
            _distrusted.add(device)
            warnings.warn(
                f"scbn's Triton kernels do not compute on {device} what they should ({trouble}), so its layers use "
                "PyTorch's own operations in this process, which are slower and take more memory; please report it with the "
                "table of python -m scbn.testing",
                stacklevel=2,
            )
    return _answers[device, kind]


def _find_trouble(device: torch.device, kind: Kind) -> str:
    """What is wrong; nothing if all is well."""
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.inference_mode(False):
            torch.manual_seed(0)
            # bfloat16 tables where x is: the kind of products that a model in that dtype takes.
            for tables in dict.fromkeys((torch.float32, kind.dtype)):
                if wrong := _compare(device, kind, tables):
                    return wrong
    except Exception as error:  # compilation, resources, a driver: of any type
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]:.200}"
    return ""


def _compare(device: torch.device, kind: Kind, tables: torch.dtype) -> str:
    """Outputs and all gradients of both cues, with those of plain operations in float64 and in this dtype."""
    from scbn.ops.sentence import sentence_norm
    from scbn.ops.word import word_norm

    dtype, channels, positions, words, inner = kind

    def leaf(*shape: int, dtype: torch.dtype, factor: float = 1.0) -> Tensor:
        return (torch.randn(shape, device=device) * factor).to(dtype).requires_grad_()

    shape = (2, positions, channels) if inner else (2, channels, positions)
    x = leaf(*shape, dtype=dtype)
    keys, gamma, beta = (leaf(2, words, channels, dtype=tables, factor=channels**-0.5) for _ in range(3))
    own = [leaf(2, channels, dtype=tables) for _ in range(2)]
    padding = torch.zeros(2, words, dtype=torch.bool, device=device)
    padding[1, (words + 1) // 2 :] = True
    leaves = [x, keys, gamma, beta, *own]
    dy = torch.randn(shape, device=device).to(dtype)

    def run(exact: bool, fused: bool) -> list[Tensor]:
        given = [t.detach().double().requires_grad_() if exact else t for t in leaves]
        map_, *rest = given
        map_, grad = (t.mT if inner else t for t in (map_, dy.double() if exact else dy))
        values = WordTables._make((*rest, padding))
        with torch.enable_grad():
            if fused:
                y = word_norm(map_, values, None, eps=1e-5, scale=1.0, backend="triton")[0]
                z = sentence_norm(map_, rest[3], rest[4], None, eps=1e-5, backend="triton")[0]
            else:
                y = eager.word_norm(map_, values, None, eps=1e-5, scale=1.0)
                z = eager.sentence_norm(map_, rest[3], rest[4], None, eps=1e-5)
            found = torch.autograd.grad((y, z), given, (grad, grad))
        return [t.detach().double() for t in (y, z, *found)]

    exact, usual, fused = run(True, False), run(False, False), run(False, True)
    names = ("word output", "sentence output", "dx", "dkeys", "dgamma", "dbeta", "dweight", "dbias")
    for name, a, b, want in zip(names, fused, usual, exact, strict=True):
        size = want.abs().max().clamp(min=1e-6)
        error, plain = ((t - want).abs().max() / size for t in (a, b))
        allowed = torch.clamp(_TIMES * plain, min=_LEAST[dtype])
        if not bool(error <= allowed):
            return f"{name} in {dtype} is off by {float(error):.1e}, {float(allowed):.1e} is allowed"
    return ""
