"""The Triton kernels prove themselves on a GPU before anything relies on them there.

No list of cards can say where they are right: compilers and drivers differ. So a process compares each kind of kernel once
with the CPU backend in float64, on a small map of the same blocks: forward and backward in training mode, with padding.
What is compiled for that is mostly what runs afterwards; variants without a mask or with given statistics are compiled when
they are met, and not compared.

Nothing of the caller takes part: no autograd, no hooks, modes or autocast, no generator of its random numbers.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from scbn.ops.cpu import sentence as exact_sentence
from scbn.ops.cpu import word as exact_word
from scbn.ops.values import Statistics, WordTables

_MOST, _SAMPLES = 1024, 3
# Of results relative to their largest value, by how products are computed: several times what operands that are rounded
# (tf32: truncated) lose. A kernel that forgets a term is off by more.
_PRODUCTS = {"tf32x3": 1e-4, "tf32": 8e-3, "bf16": 3e-2, "none": 1e-4}
_RESULTS = {torch.float32: 0.0, torch.bfloat16: 1e-2, torch.float16: 2e-3}


class Kind(NamedTuple):
    """What decides which binaries run."""

    products: str
    dtype: torch.dtype
    table: torch.dtype
    channels: int
    positions: int
    words: int
    channels_last: bool


_known: dict[tuple[object, ...], bool] = {}
_answers: dict[tuple[torch.device, Kind], bool] = {}
_distrusted: set[torch.device] = set()


def trusted(x: Tensor, words: int, table: torch.dtype) -> bool:
    """Whether the kernels that x (N, C, *spatial) and so many words (none: the sentence cue's) take are right on its device.

    The first question of a kind is answered by a comparison, with a warning where it fails. Wrong values are the device's
    answer from then on, what cannot be compiled or launched only that kind's; memory that is short, nobody's.
    """
    if torch.compiler.is_compiling():  # sizes may be symbols
        return _usually_trusted(x.device, x.dtype, words if isinstance(words, int) and words == 0 else 18, table)
    if isinstance(x, FakeTensor):
        return x.device not in _distrusted
    products = _products(x, words, table)
    key = (x.device, x.dtype, x.shape[1:], x.stride(1), words, table, products)
    found = _known.get(key)
    if found is None:
        channels, positions = x.shape[1], math.prod(x.shape[2:])
        last = x.stride(1) == 1 and channels > 1 and positions > 1
        kind = kind_of(products, x.dtype, channels, positions, words, table, last)
        found = _trusted(x.device, kind)
        if (x.device, kind) in _answers:
            _known[key] = found
    return found


def _usually_trusted(device: torch.device, dtype: torch.dtype, words: int, table: torch.dtype) -> bool:
    like = torch.empty(0, dtype=dtype, device=device)
    return _trusted(device, kind_of(_products(like, words, table), dtype, 64, _MOST, words, table, False))


# For torch.compile: asked while it compiles, so before a graph is recorded.
_usually_trusted._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _products(x: Tensor, words: int, table: torch.dtype) -> str:
    if words == 0:
        return "none"
    from scbn.ops.triton.launch import product_kind

    return product_kind(x, table)


def kind_of(
    products: str,
    dtype: torch.dtype,
    channels: int,
    positions: int,
    words: int,
    table: torch.dtype,
    channels_last: bool,
) -> Kind:
    """The smallest sizes whose kernels are those of the given ones: the same blocks, and 16 divides what it did."""
    even = positions % 16 == 0
    if positions > _MOST:
        positions = _MOST if even else _MOST + 7
    elif positions > 16:
        block = 1 << (positions - 1).bit_length()
        positions = block if even else block - 7
    # Products depend on the table's dtype in bfloat16 alone; the sentence cue has none.
    table = table if words and dtype == torch.bfloat16 else torch.float32
    slots = max(16, 1 << words.bit_length()) - 2 if words else 0
    return Kind(products, dtype, table, channels, positions, slots, channels_last)


def _trusted(device: torch.device, kind: Kind) -> bool:
    if device in _distrusted:
        return False
    if (device, kind) not in _answers:
        if device.type == "cuda":
            with torch.cuda.device(device):
                if torch.cuda.is_current_stream_capturing():
                    # Nothing can be compared while a graph is recorded; what warmed up before it was.
                    return any(good and on == device for (on, _), good in _answers.items())
        try:
            wrong, which = _find_fault(device, kind), "its layers use"
            if wrong:
                _distrusted.add(device)
        except torch.OutOfMemoryError:
            return False  # this time
        except Exception as error:  # compilation, resources, a driver: of any type
            wrong = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]:.200}"
            which = "layers of this kind use"
        _answers[device, kind] = not wrong
        if wrong:
            warnings.warn(
                f"scbn's Triton kernels do not compute on {device} what they should ({wrong}), so {which} PyTorch's own "
                "operations in this process, which are slower and take more memory; please report it with the table of "
                "python -m scbn.testing",
                stacklevel=2,
            )
    return _answers[device, kind]


def _find_fault(device: torch.device, kind: Kind) -> str:
    """The first result that is off, and by how much; nothing if all is well."""
    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        found, wanted = (_sentence if kind.words == 0 else _word)(device, kind)
        allowed = _PRODUCTS[kind.products] + _RESULTS[kind.dtype]
        for name, want in wanted.items():
            got = found[name].detach().cpu().double()
            error = float((got - want).abs().max() / want.abs().max().clamp(min=1e-6))
            if not error <= allowed:
                return f"{name} in {kind.dtype} is off by {error:.1e}, {allowed:.1e} is allowed"
    return ""


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    # Whatever the caller's default device and dtype are.
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def _maps(kind: Kind, device: torch.device) -> tuple[torch.Generator, Tensor, Tensor]:
    """x and dy, whose means matter; both of the layout."""
    generator = torch.Generator().manual_seed(0)
    shape = (_SAMPLES, kind.positions, kind.channels)
    offset = torch.linspace(-2, 2, kind.channels, device="cpu", dtype=torch.float32)
    x, dy = 2 * _draw(generator, *shape) + 1 + offset, _draw(generator, *shape) + 1
    x, dy = (t.to(kind.dtype).to(device).mT for t in (x, dy))
    return (generator, x, dy) if kind.channels_last else (generator, x.contiguous(), dy.contiguous())


def _results(names: tuple[str, ...], values: tuple[Tensor, ...], stats: Statistics) -> dict[str, Tensor]:
    return dict(zip(names, values, strict=True)) | {"mean": stats.mean, "variance": stats.var}


def _joint(means: Tensor) -> Tensor:
    return means


def _sentence(device: torch.device, kind: Kind) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    from scbn.ops.triton import sentence

    generator, x, dy = _maps(kind, device)
    gamma, beta = (_draw(generator, _SAMPLES, kind.channels) + 1 for _ in range(2))
    names = ("output", "dx", "dgamma", "dbeta")
    stats = sentence.statistics(x)
    one = sentence.forward(x, gamma.to(device), beta.to(device), stats, 1e-5)
    found = (one, *sentence.backward(dy, x, gamma.to(device), stats, 1e-5, _joint))
    x, dy, gamma, beta = (t.cpu().double().contiguous() for t in (x, dy, gamma, beta))
    exact = exact_sentence.statistics(x)
    want = (
        exact_sentence.forward(x, gamma, beta, exact, 1e-5),
        *exact_sentence.backward(dy, x, gamma, exact, 1e-5, _joint),
    )
    return _results(names, found, stats), _results(names, want, exact)


def _word(device: torch.device, kind: Kind) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    from scbn.ops.triton import word

    generator, x, dy = _maps(kind, device)
    tables = [_draw(generator, _SAMPLES, kind.words, kind.channels) * kind.channels**-0.5 for _ in range(3)]
    tables = [t.to(kind.table) for t in (*tables, *(_draw(generator, _SAMPLES, kind.channels) for _ in range(2)))]
    padding = torch.zeros(_SAMPLES, kind.words, dtype=torch.bool, device="cpu")
    padding[1, (kind.words + 1) // 2 :] = True
    names = ("output", "dx", "dkeys", "dgamma", "dbeta", "dweight and dbias")
    given = WordTables._make(t.to(device) for t in (*tables, padding))
    stats = word.statistics(x)
    found = (word.forward(x, given, stats, 1e-5, 0.5), *word.backward(dy, x, given, stats, 1e-5, 0.5, _joint))
    x, dy = (t.cpu().double().contiguous() for t in (x, dy))
    given = WordTables._make((*(t.double() for t in tables), padding))
    exact = exact_word.statistics(x)
    want = (
        exact_word.forward(x, given, exact, 1e-5, 0.5),
        *exact_word.backward(dy, x, given, exact, 1e-5, 0.5, _joint),
    )
    return _results(names, found, stats), _results(names, want, exact)
