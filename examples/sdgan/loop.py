"""The loop every phase of training runs in: progress, curves, checkpoints, Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from torch import Tensor

from examples.sdgan.pictures import History

_EVERY = 10


class NotFinite(RuntimeError):
    """A loss is NaN or infinite."""


def progress_bar(console: Console) -> Progress:
    """A bar with steps, losses and the time left."""
    # In a narrow window the losses give way, never the bar and the time left.
    losses = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("left", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=losses),
        console=console,
        expand=True,
        speed_estimate_period=60,
    )


def run_phase(
    name: str,
    start: int,
    stop: int,
    batches: Iterable[Any],
    step: Callable[[int, Any], dict[str, Tensor]],
    history: History,
    checkpoint: Callable[[int], None],
    checkpoint_every: int,
    seed: int,
    console: Console,
) -> None:
    """Take the steps from ``start`` to ``stop``.

    Args:
        name: of the phase, for the bar and the curves.
        start, stop: step numbers.
        batches: one for each of these steps.
        step: called with the number and the batch; returns losses.
        history: gets the curves, a point every 10 steps.
        checkpoint: called with the number of steps done.
        checkpoint_every: steps between these calls; Ctrl-C calls it too.
        seed: with the step number it seeds torch's global generator, so a resumed run goes on as the first would.
        console: where progress goes.

    Raises:
        NotFinite: a loss is NaN or infinite; names the step, the losses and the last checkpoint.
        KeyboardInterrupt: on Ctrl-C, once the step under way is done and the checkpoint written.
    """
    curves = history.setdefault(name, {"step": []})
    saved = start
    began = time.monotonic()
    with progress_bar(console) as bar, _interrupts() as interrupted:
        task = bar.add_task(name, total=stop, completed=start, note="")
        for number, batch in zip(range(start, stop), batches, strict=True):
            torch.manual_seed(seed * 1_000_003 + number)
            losses = step(number, batch)
            done = number + 1
            leaving = interrupted() or done == stop
            saving = leaving or done % checkpoint_every == 0
            if saving or number % _EVERY == 0:
                values = {key: float(value) for key, value in losses.items()}
                if not all(math.isfinite(value) for value in values.values()):
                    raise NotFinite(
                        f"{name}, step {number}: a loss is not finite: {values}; the last checkpoint is of step "
                        f"{saved}; try a lower learning rate, or --resume to see whether it happens again"
                    )
                note = " ".join(f"{key} {value:.2f}" for key, value in values.items())
                bar.update(task, completed=done, note=note)
                if number % _EVERY == 0 or done == stop:
                    _record(curves, number, values)
                if not console.is_terminal and (number - start) % max((stop - start) // 10, 1) < _EVERY:
                    left = (time.monotonic() - began) / (done - start) * (stop - done)
                    console.print(f"{name} {done}/{stop}, {left:.0f} s left: {note}")
            if saving:
                checkpoint(done)
                saved = done
            if interrupted():
                raise KeyboardInterrupt


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: a step cut short could not be repeated, so it is let finish. A second one raises."""
    pressed = False

    def press(signum: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _record(curves: dict[str, list[float]], step: int, values: dict[str, float]) -> None:
    length = len(curves["step"])
    curves["step"].append(step)
    for name in sorted({*curves, *values} - {"step"}):
        curve = curves.setdefault(name, [math.nan] * length)
        curve.append(values.get(name, math.nan))
