"""A call and its judge."""

from __future__ import annotations

import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import scbn

PACKAGE = str(Path(scbn.__file__).parent)
SECONDS = 60
# Batch normalisation's own error, which our layers raise in its words; inside a generator PyTorch raises it.
SINGLE_VALUE = "Expected more than 1 value per channel"


@dataclass
class Call:
    """What to call, what must come of it, and what it must leave alone.

    Args:
        function: the public name.
        about: the arguments, in words.
        run: makes the call, gives its results by name.
        want: the results by the oracle; ``None`` where the call must raise our error.
        mistake: what is wrong with the arguments, where something is.
        tolerance: relative to the largest value of each result.
        values: whether results are compared, and not only their names, shapes and dtypes.
        strict: whether a warning is an error.
        modules: whose state an error must not change, and a call without an error only where ``want`` says so.
        inputs: tensors that no call may change.
    """

    function: str
    about: str
    run: Callable[[], dict[str, Tensor]]
    want: Callable[[], dict[str, Tensor]] | None = None
    mistake: str = ""
    tolerance: float = 1e-7
    values: bool = True
    strict: bool = True
    modules: tuple[nn.Module, ...] = ()
    inputs: list[Tensor] = field(default_factory=list)


@dataclass
class Verdict:
    """``outcome`` is ``"equal"``, ``"ran"`` (values not compared), ``"error"`` (ours, as it must), or a finding."""

    outcome: str
    detail: str = ""

    @property
    def finding(self) -> bool:
        return self.outcome not in ("equal", "ran", "error")


def judge(call: Call) -> Verdict:
    """Make the call and compare."""
    before = [{name: t.clone() for name, t in m.state_dict().items()} for m in call.modules]
    versions = [None if t.is_inference() else t._version for t in call.inputs]
    want = call.want() if call.want is not None else None
    try:
        with _limit(), warnings.catch_warnings():
            warnings.simplefilter("error" if call.strict else "ignore")
            got = call.run()
    except Exception as error:
        verdict = _judge_error(call, error)
        if verdict.finding:
            return verdict
        for module, state in zip(call.modules, before, strict=True):
            now = module.state_dict()
            changed = [n for n in state if n not in now or not _identical(now[n], state[n])]
            if changed or len(now) != len(state):
                return Verdict("state changed by an error", f"{changed}; {error}")
        return verdict
    if any(v is not None and t._version != v for t, v in zip(call.inputs, versions, strict=True)):
        return Verdict("input changed")
    if want is None:
        return Verdict("accepted", call.mistake)
    return _compare(call, got, want)


def _judge_error(call: Call, error: Exception) -> Verdict:
    told = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, TimeoutError):
        return Verdict("hang", told)
    ours = type(error) is ValueError and frames[-1].filename.startswith(PACKAGE)
    if type(error) is ValueError and SINGLE_VALUE in told:
        ours = True
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    if not ours:
        return Verdict("foreign error", f"{call.mistake or 'no mistake'}: {told[:500]} ({where})")
    if call.want is not None:
        return Verdict("refused", told)
    return Verdict("error", told)


def _compare(call: Call, got: dict[str, Tensor], want: dict[str, Tensor]) -> Verdict:
    if got.keys() != want.keys():
        return Verdict("different", f"results {sorted(got)} and not {sorted(want)}")
    for name, expected in want.items():
        actual = got[name]
        if actual.shape != expected.shape:
            return Verdict("different", f"{name} has shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
        if actual.is_meta or not call.values or not expected.numel():
            continue
        actual, expected = actual.detach().double(), expected.detach().double()
        finite = expected.isfinite()
        # Where the formula gives NaN or infinity, which of the two depends on the order of operations.
        if not torch.equal(actual.isfinite(), finite):
            return Verdict(
                "different", f"{name} is not finite at {int((actual.isfinite() != finite).sum())} places alone"
            )
        if finite.any():
            scale = expected[finite].abs().max().clamp(min=1)
            error = float((actual[finite] - expected[finite]).abs().max() / scale)
            # A gradient is as precise as the tensor it is of.
            tolerance = max(
                call.tolerance, 8 * torch.finfo(got[name].dtype).eps if got[name].is_floating_point() else 0
            )
            if error > tolerance:
                return Verdict("different", f"{name} is off by {error:.3g} of its largest value ({tolerance:.3g})")
    return Verdict("equal" if call.values and not any(t.is_meta for t in got.values()) else "ran")


def _identical(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(a.is_meta or torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))


@contextmanager
def _limit() -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TimeoutError(f"no result after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
