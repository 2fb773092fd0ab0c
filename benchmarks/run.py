"""Correctness check first, then interleaved timing: a candidate that does not agree with the oracle in this very run gets no time."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.alternatives import Call, Layer
from benchmarks.candidates import Candidate
from benchmarks.timing import Setting, seconds
from scbn import SentenceSCBN, TextFeatures, WordSCBN, reference

Shape = tuple[int, int, int, int]
DIM = 256
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Of what rounding of the dtype explains, for an output or gradient against its largest value.
TOLERANCE = {"float32": 1e-3, "bfloat16": 6e-2, "float16": 1e-2}


@dataclass
class Row:
    """A candidate at a shape: seconds of each round, bytes kept for the backward, and on a GPU the peak of a step."""

    candidate: str
    shape: Shape
    words: int = 18
    error: float | None = None
    step: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    kept: int = 0
    peak: int | None = None


def layers(channels: int, device: str = "cpu") -> dict[str, Layer]:
    """One layer for each oracle, away from its initial values."""
    built: dict[str, Layer] = {"word": WordSCBN(channels, DIM), "sentence": SentenceSCBN(channels, DIM)}
    with torch.no_grad():
        for layer in built.values():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return {name: layer.to(device) for name, layer in built.items()}


def text_of(samples: int, words: int, device: str = "cpu") -> TextFeatures:
    """Captions of random features."""
    text = TextFeatures(torch.randn(samples, DIM), torch.randn(samples, words, DIM))
    return TextFeatures(*(None if t is None else t.to(device) for t in text))


def check_correctness(candidate: Candidate, setting: Setting) -> float:
    """The largest relative error of output and gradients against the float64 oracle, on a small map.

    Raises:
        ValueError: it is more than rounding explains.
    """
    assert candidate.same_as is not None
    torch.manual_seed(1)
    device, words, kind = setting.device, setting.words, DTYPES[setting.dtype]
    layer = layers(16)[candidate.same_as]
    x, text = (torch.randn(3, 16, 24, 20) * 1.5 + 0.5).to(kind), text_of(3, words)
    weight = torch.randn(x.shape).to(kind)
    memory = LAYOUTS[setting.layout]

    exact = copy.deepcopy(layer).double()
    exact_text = TextFeatures(*(None if t is None else t.double() for t in text))
    want = _gradients(_oracle(exact), x.double(), exact_text, weight.double(), list(exact.parameters()))
    layer = layer.to(device)
    call = _compiled(candidate.make(layer)) if candidate.compiled else candidate.make(layer)
    text = TextFeatures(*(None if t is None else t.to(device) for t in text))
    got = _gradients(call, x.to(device, memory_format=memory), text, weight.to(device), list(layer.parameters()))
    # float32's tolerance is for relative errors; half precision has cancelling sums that are small by chance.
    floor = 1e-3 if kind == torch.float32 else 1.0
    errors = [
        float((a.cpu().double() - b).abs().max() / b.abs().max().clamp(min=floor))
        for a, b in zip(got, want, strict=True)
    ]
    if not max(errors) < TOLERANCE[setting.dtype]:
        raise ValueError(f"{candidate.name} disagrees with the oracle: relative errors {errors}")
    return max(errors)


def _oracle(layer: Layer) -> Call:
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


def measure(
    shape: Shape, candidates: Sequence[Candidate], setting: Setting, report: Callable[[str], None]
) -> list[Row]:
    """Rows of the candidates at a shape; the rounds alternate between them, the first is thrown away.

    A rival that torch.compile cannot compile has no row.
    """
    torch.manual_seed(0)
    n, c = shape[:2]
    device, kind = setting.device, DTYPES[setting.dtype]
    memory = LAYOUTS[setting.layout]
    x = torch.randn(shape, device=device).to(kind, memory_format=memory).requires_grad_()
    dy = torch.randn(shape, device=device).to(kind, memory_format=memory)
    text = text_of(n, setting.words, device)
    rows: list[Row] = []
    calls: list[tuple[Callable[[], object], Callable[[], object]]] = []
    for candidate in candidates:
        report(f"checking {candidate.name}")
        try:
            error = check_correctness(candidate, setting) if candidate.same_as else None
        except RuntimeError as failure:
            # Of a rival's formulation; what fails of ours ends the run.
            if not candidate.compiled or candidate.name.startswith(("WordSCBN", "SentenceSCBN")):
                raise
            told = f"{candidate.name}: left out, torch.compile fails on it here ({type(failure).__name__})"
            print(told, file=sys.stderr)
            continue
        row = Row(candidate.name, shape, setting.words, error)
        layer = layers(c, device)[candidate.same_as or "word"]
        train, still = candidate.make(layer), candidate.make(copy.deepcopy(layer).eval())
        if candidate.compiled:
            train, still = _compiled(train), _compiled(still)
        row.kept = _kept(train, x, text)
        rows.append(row)
        calls.append(_runs(train, still, x, text, dy))
        if device == "cuda":
            row.peak = _peak(calls[-1][0])
    for number in range(setting.rounds + 1):
        for row, (step, inference) in zip(rows, calls, strict=True):
            report(f"round {number}/{setting.rounds} {row.candidate}")
            times = seconds(step, setting), seconds(inference, setting)
            x.grad = None
            if number:
                row.step.append(times[0])
                row.inference.append(times[1])
    return rows


def _runs(
    train: Call, still: Call, x: Tensor, text: TextFeatures, dy: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    def step() -> None:
        x.grad = None
        train(x, text).backward(dy)

    def inference() -> None:
        with torch.no_grad():
            still(x, text)

    return step, inference


def _peak(step: Callable[[], object]) -> int:
    """Bytes allocated at most during a step, beyond what was there before."""
    step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


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
