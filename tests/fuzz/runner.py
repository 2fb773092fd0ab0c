"""Many calls, counted."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

from scbn import ops

from . import construction, functions, layers, losses, models
from .call import Call, Verdict, judge

# How often each kind of call is drawn.
KINDS: dict[Callable[[Random], Call], int] = {
    layers.layer: 60,
    functions.function: 12,
    losses.loss: 10,
    construction.constructor: 7,
    construction.from_batch_norm: 4,
    construction.switch: 1,
    models.tree: 4,
    models.retrofit: 4,
    models.unretrofit: 1,
}


@dataclass
class Tally:
    """Outcomes by function, and the findings themselves."""

    outcomes: Counter[str] = field(default_factory=Counter)
    functions: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, number: int, call: Call, verdict: Verdict) -> None:
        self.outcomes[verdict.outcome] += 1
        self.functions.setdefault(call.function, Counter())[verdict.outcome] += 1
        if verdict.finding:
            told = {"number": number, "function": call.function, "outcome": verdict.outcome}
            self.findings.append(told | {"detail": verdict.detail, "call": call.about})

    def merge(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        for name, counts in other.functions.items():
            self.functions[name] = self.functions.get(name, Counter()) + counts
        self.findings += other.findings


def one(seed: int, number: int) -> tuple[Call, Verdict]:
    """The call of this seed and number, made and judged."""
    rng = Random(f"{seed}/{number}")
    torch.manual_seed(rng.randrange(2**31))
    random.seed(0)
    call = rng.choices(list(KINDS), list(KINDS.values()))[0](rng)
    try:
        return call, judge(call)
    finally:
        ops.set_backend("auto")


def run(
    numbers: range, seed: int, *, until: float = float("inf"), started: Callable[[int], None] = lambda number: None
) -> Tally:
    """Make these calls, or as many as there is time for."""
    tally = Tally()
    for number in numbers:
        if time.monotonic() > until:
            break
        started(number)
        tally.add(number, *one(seed, number))
    return tally
