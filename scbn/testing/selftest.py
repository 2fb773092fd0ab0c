"""Every backend that this machine has, in every dtype and memory layout, against plain operations in float64."""

from __future__ import annotations

import copy
import itertools
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import scbn
from scbn import SentenceSCBN, TextFeatures, WordSCBN, ops

_DIM = 20
# Shape, words, and whether parameters have x's dtype as in a model of bfloat16, or single precision: sizes that 16 divides
# and that it does not, of one block and of several.
_CASES = (((3, 24, 12, 17), 9, False), ((4, 80, 16, 16), 18, True))
_TIMED, _STEPS = (8, 64, 64, 64), 5
_TIMES = 4
_LEAST = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
_DTYPES = {
    "cpu": (torch.float64, torch.float32, torch.bfloat16),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}


@dataclass(frozen=True)
class Row:
    """One backend, cue, dtype and layout: outputs and all gradients of a training step, the worst of two sizes.

    Attributes:
        backend, cue, dtype, layout: what was tried.
        ran: the backend that took it; the one asked for leaves what it cannot do to plain operations.
        forward: the largest error of output and running statistics, each relative to its largest value.
        backward: of all gradients.
        allowed: four times the error of plain operations in this dtype.
        times: how often the time of ``BatchNorm2d`` a step takes; ``None`` where it was not timed.
        trouble: what was raised instead.
    """

    backend: str
    cue: str
    dtype: str
    layout: str
    ran: str = ""
    forward: float = float("nan")
    backward: float = float("nan")
    allowed: float = 0.0
    times: float | None = None
    trouble: str = ""

    HEAD: ClassVar[str] = (
        f"{'backend':8} {'cue':9} {'dtype':9} {'layout':13} {'forward':>8} {'backward':>8} {'allowed':>8} {'x BN':>5}"
    )

    @property
    def passed(self) -> bool:
        """Whether every result is as near to the formula as plain operations are."""
        return not self.trouble and max(self.forward, self.backward) <= self.allowed

    def line(self) -> str:
        """For a terminal."""
        head = f"{self.backend:8} {self.cue:9} {self.dtype:9} {self.layout:13} "
        if self.trouble:
            return f"{head}FAILED: {self.trouble}"
        took = "" if self.times is None else f"{self.times:.1f}"
        told = "" if self.ran == self.backend else f"  ({self.ran} ran)"
        return f"{head}{self.forward:8.1e} {self.backward:8.1e} {self.allowed:8.1e} {took:>5} {'' if self.passed else ' FAILED'}{told}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no number that is none."""
        values = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(self).items()}
        return {**values, "passed": self.passed}


def machine(device: torch.device) -> dict[str, str]:
    """What a report has to say about the machine."""
    found = {"scbn": scbn.__version__, "torch": torch.__version__, "python": platform.python_version()}
    try:
        import triton

        found["triton"] = triton.__version__ + (", interpreted" if ops.interpreted() else "")
    except ImportError:
        found["triton"] = "none"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device"] = f"{properties.name}, sm_{properties.major}{properties.minor}, CUDA {torch.version.cuda}"
    else:
        found["device"] = f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
    return found


def rows(device: torch.device, timed: bool = True) -> Iterator[Row]:
    """A row for each combination, as it is done."""
    backends: list[ops.Backend] = ["eager"]
    if device.type == "cpu":
        backends.append("cpu")
    if device.type == "cuda" or ops.interpreted():
        backends.append("triton")
    dtypes = _DTYPES.get(device.type, (torch.float32,))
    layouts = ("contiguous", "channels last")
    for backend, cue, dtype, layout in itertools.product(backends, ("sentence", "word", "both"), dtypes, layouts):
        if backend == "triton" and dtype == torch.float64:
            continue
        yield _row(backend, cue, dtype, layout, device, timed)


def _row(
    backend: ops.Backend, cue: str, dtype: torch.dtype, layout: str, device: torch.device, timed: bool
) -> Row:
    asked: Any = {"backend": backend, "cue": cue, "dtype": str(dtype).removeprefix("torch."), "layout": layout}
    try:
        worst, allowed, ran = [0.0, 0.0], _LEAST[dtype], ""
        for case in _CASES:
            layer, x, text, weight = _case(cue, dtype, layout, *case)
            double = copy.deepcopy(layer).double()
            exact = _results(double, x.double(), text.to(torch.float64), weight.double(), "eager")
            usual = _results(layer, x, text, weight, "eager")
            layer, x, text, weight = layer.to(device), x.to(device), text.to(device), weight.to(device)
            with ops.use_backend(backend):
                ran = ops.choose(x, 0 if cue == "sentence" else case[1])
            found = _results(layer, x, text, weight, backend)
            errors = [_error(a, b) for a, b in zip(found, exact, strict=True)]
            worst = [max(pair) for pair in zip(worst, errors, strict=True)]
            allowed = max(allowed, *(_TIMES * _error(a, b) for a, b in zip(usual, exact, strict=True)))
        times = _times(cue, dtype, layout, device, backend) if timed and not ops.interpreted() else None
        return Row(**asked, ran=ran, forward=worst[0], backward=worst[1], allowed=allowed, times=times)
    except Exception as error:  # a report is wanted of whatever goes wrong
        return Row(**asked, trouble=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]:.200}")


def _case(
    cue: str, dtype: torch.dtype, layout: str, shape: tuple[int, ...], words: int, same: bool
) -> tuple[nn.Module, Tensor, TextFeatures, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    samples, channels = shape[:2]
    layer = _layer(cue, channels)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(*parameter.shape) * 0.3 + (parameter.dim() == 1))
    mask = torch.zeros(samples, words, dtype=torch.bool)
    mask[1, 4:] = True
    mask[2] = True
    text = TextFeatures(draw(samples, _DIM).to(dtype), draw(samples, words, _DIM).to(dtype), mask)
    memory = torch.channels_last if layout == "channels last" else torch.contiguous_format
    x, weight = ((draw(*shape) * 2 + 1).to(dtype).contiguous(memory_format=memory) for _ in range(2))
    return layer.to(dtype if same or dtype.itemsize >= 4 else torch.float32), x, text, weight


def _layer(cue: str, channels: int) -> nn.Module:
    if cue == "sentence":
        return SentenceSCBN(channels, _DIM)
    return WordSCBN(channels, _DIM, sentence_dim=_DIM if cue == "both" else None)


def _results(
    layer: nn.Module, x: Tensor, text: TextFeatures, weight: Tensor, backend: ops.Backend
) -> tuple[list[Tensor], list[Tensor]]:
    """Output and running statistics, and all gradients, of a training step of a copy."""
    layer = copy.deepcopy(layer).train()
    assert text.sentence is not None and text.words is not None
    leaves = [leaf.detach().clone().requires_grad_() for leaf in (x, text.sentence, text.words)]
    with ops.use_backend(backend):
        y = layer(leaves[0], TextFeatures(leaves[1], leaves[2], text.padding_mask))
        (y * weight).sum().backward()
    gradients = [leaf.grad for leaf in (*leaves, *layer.parameters())]
    buffers = [value for value in layer.buffers() if value.is_floating_point()]
    return _exactly((y, *buffers)), _exactly(gradients)


def _exactly(values: Sequence[Tensor | None]) -> list[Tensor]:
    return [value.detach().double().cpu() for value in values if value is not None]


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    worst = 0.0
    for a, b in zip(found, exact, strict=True):
        error = float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))
        worst = max(worst, error) if error == error else error
        if worst != worst:
            return float("inf")  # a NaN where there is none
    return worst


def _times(cue: str, dtype: torch.dtype, layout: str, device: torch.device, backend: ops.Backend) -> float:
    """A training step's time over that of ``BatchNorm2d``, medians of alternating runs."""
    kept = dtype if dtype.itemsize >= 4 else torch.float32
    layer, plain = (m.to(device, kept) for m in (_layer(cue, _TIMED[1]), nn.BatchNorm2d(_TIMED[1])))
    memory = torch.channels_last if layout == "channels last" else torch.contiguous_format
    x = torch.randn(_TIMED, device=device, dtype=dtype).contiguous(memory_format=memory).requires_grad_()
    text = TextFeatures(
        *(torch.randn(s, device=device, dtype=dtype) for s in ((_TIMED[0], _DIM), (_TIMED[0], 18, _DIM)))
    )

    def step(call: Callable[[Tensor], Tensor]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        call(x).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    with ops.use_backend(backend):
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(_STEPS + 2):
            ours.append(step(lambda x: layer(x, text)))
            theirs.append(step(plain))
    return median(ours[2:]) / median(theirs[2:])
