"""Gate first, then interleaved timing: a contender that does not agree with the oracle in this very run gets no time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.contenders import CONTENDERS, Call, Contender
from scbn import SentenceSCBN, TextFeatures, WordSCBN, reference

Shape = tuple[int, int, int, int]
DIM = 256


@dataclass
class Row:
    """A contender at a shape: seconds of each round, and bytes kept for the backward."""

    contender: str
    shape: Shape
    error: float | None = None
    step: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    kept: int = 0


def layers(channels: int) -> dict[str, WordSCBN | SentenceSCBN]:
    """One layer for each oracle, away from its initial values."""
    built: dict[str, WordSCBN | SentenceSCBN] = {
        "word": WordSCBN(channels, DIM),
        "sentence": SentenceSCBN(channels, DIM),
    }
    with torch.no_grad():
        for layer in built.values():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return built


def text_of(samples: int, words: int) -> TextFeatures:
    """Captions of random features."""
    return TextFeatures(torch.randn(samples, DIM), torch.randn(samples, words, DIM))


def gate(contender: Contender, words: int) -> float:
    """The largest relative error of output and gradients against the float64 oracle, on a small map.

    Raises:
        ValueError: it is more than float32 rounding explains.
    """
    assert contender.same_as is not None
    torch.manual_seed(1)
    layer = layers(16)[contender.same_as]
    x, text = torch.randn(3, 16, 24, 20) * 1.5 + 0.5, text_of(3, words)
    weight = torch.randn_like(x)

    exact = copy.deepcopy(layer).double()
    call = _compiled(contender.make(layer)) if contender.compiled else contender.make(layer)
    got = _gradients(call, x, text, weight, list(layer.parameters()))
    exact_text = TextFeatures(*(None if t is None else t.double() for t in text))
    want = _gradients(_oracle(exact), x.double(), exact_text, weight.double(), list(exact.parameters()))
    errors = [
        float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in zip(got, want, strict=True)
    ]
    if not max(errors) < 1e-3:
        raise ValueError(f"{contender.name} disagrees with the oracle: relative errors {errors}")
    return max(errors)


def _oracle(layer: WordSCBN | SentenceSCBN) -> Call:
    parameters = dict(layer.named_parameters())

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        mean, var = reference.batch_statistics(x)
        if isinstance(layer, WordSCBN):
            return reference.word_scbn(x, text, parameters, mean, var, layer.bn.eps, layer.scale)
        return reference.sentence_scbn(x, text, parameters, mean, var, layer.bn.eps)

    return call


def _gradients(
    call: Call, x: Tensor, text: TextFeatures, weight: Tensor, parameters: list[Tensor]
) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = call(x, text)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), [x, *parameters])]


def measure(shape: Shape, words: int, rounds: int, report: Callable[[str], None]) -> list[Row]:
    """Rows of all contenders at a shape; the rounds alternate between them, the first is thrown away."""
    torch.manual_seed(0)
    n, c = shape[:2]
    x, dy, text = torch.randn(shape).requires_grad_(), torch.randn(shape), text_of(n, words)
    rows, calls = [], []
    for contender in CONTENDERS:
        report(f"checking {contender.name}")
        error = gate(contender, words) if contender.same_as else None
        rows.append(Row(contender.name, shape, error))
        layer = layers(c)[contender.same_as or "word"]
        train, still = layer, copy.deepcopy(layer).eval()
        both = [contender.make(train), contender.make(still)]
        calls.append([_compiled(call) for call in both] if contender.compiled else both)
    for row, (call, _) in zip(rows, calls, strict=True):
        row.kept = _kept(call, x, text)
    for number in range(rounds + 1):
        for row, (call, still) in zip(rows, calls, strict=True):
            report(f"round {number}/{rounds} {row.contender}")
            began = time.perf_counter()
            call(x, text).backward(dy)
            middle = time.perf_counter()
            x.grad = None
            with torch.no_grad():
                paused = time.perf_counter()
                still(x, text)
                ended = time.perf_counter()
            if number:
                row.step.append(middle - began)
                row.inference.append(ended - paused)
    return rows


def _kept(call: Call, x: Tensor, text: TextFeatures) -> int:
    """Bytes kept for the backward, of tensors beyond a hundredth of x: parameters and tables are another matter."""
    seen: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = call(x, text)
    del y
    return sum(size for size in seen.values() if size > x.numel() * x.element_size() / 100)


def _compiled(call: Call) -> Call:
    return torch.compile(call, fullgraph=True)
