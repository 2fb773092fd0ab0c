"""The loop every phase of training runs in: progress, curves, checkpoints, Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
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

from examples.sdgan.devices import anyone, average_losses, together
from examples.sdgan.journal import Journal
from examples.sdgan.pictures import History

_EVERY = 10
# Between the seeds of processes; below 2**32, of which the CPU's generator sees no more.
_APART = 2_654_435_761


class NotFinite(RuntimeError):
    """A loss is NaN or infinite."""


def progress_bar(console: Console) -> Progress:
    """A bar with steps, images per second, the time left and losses."""
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


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Args:
        name: for the bar and the curves.
        start, stop: step numbers.
        images: of a step, in all processes together.
        batches: one for each of these steps.
        step: called with the number and the batch; returns losses.
        checkpoint: called with the number of steps done.
        every: steps between these calls; Ctrl-C calls it too.
        seed: with the step number it seeds torch's global generator, so a resumed run goes on as the first would.
        again: how to go on after an error, for its message.
    """

    name: str
    start: int
    stop: int
    images: int
    batches: Iterable[Any]
    step: Callable[[int, Any], dict[str, Tensor]]
    checkpoint: Callable[[int], None]
    every: int
    seed: int
    again: str = "--resume"


def run_phase(
    phase: Phase, fabric: Fabric, history: History, journal: Journal, console: Console, path: Path
) -> None:
    """Take the steps of a phase.

    Args:
        phase: what to do.
        fabric: the processes, which stop together.
        history: gets the curves, a point every 10 steps.
        journal: gets the same, and images per second.
        console: where progress goes.
        path: of the checkpoint, for messages.

    Raises:
        NotFinite: a loss is NaN or infinite; names the step, the losses and the last checkpoint.
        KeyboardInterrupt: on Ctrl-C, once the step under way is done and the checkpoint written.
    """
    curves = history.setdefault(phase.name, {"step": []})
    saved = phase.start
    began, rate, busy, counted = time.monotonic(), 0.0, time.monotonic(), phase.start
    with progress_bar(console) as bar, _interrupts() as interrupted:
        task = bar.add_task(phase.name, total=phase.stop, completed=phase.start, note="")
        for number, batch in zip(range(phase.start, phase.stop), phase.batches, strict=True):
            # Each process draws on its own: the same dropout everywhere would be one mask for several samples.
            torch.manual_seed(phase.seed * 1_000_003 + number + fabric.global_rank * _APART)
            losses = phase.step(number, batch)
            done = number + 1
            recorded = number % _EVERY == 0
            # Several processes ask each other only now and then, for it makes the host wait.
            asked = (recorded or fabric.world_size == 1) and anyone(fabric, interrupted())
            leaving = asked or done == phase.stop
            saving = leaving or done % phase.every == 0
            if saving or recorded:
                values = average_losses(fabric, losses)
                if not all(math.isfinite(value) for value in values.values()):
                    good = (
                        f"the last good checkpoint is {path}, of step {saved}"
                        if path.is_file()
                        else ("no checkpoint was written yet")
                    )
                    raise NotFinite(
                        f"{phase.name}, step {number}: a loss is not finite: {values}; {good}; try a lower learning "
                        f"rate, or {phase.again} to see whether it happens again"
                    )
                now = time.monotonic()
                if done > counted:
                    rate = phase.images * (done - counted) / max(now - busy, 1e-9)
                    busy, counted = now, done
                note = f"{rate:.0f} images/s " + " ".join(f"{key} {value:.2f}" for key, value in values.items())
                keeping = recorded or done == phase.stop
                if keeping:
                    _record(curves, number, values)
                shown = {**values, "images_per_second": rate} if keeping else None
                # The first process writes, and others wait for it: a disk that is full must stop all.
                tell = partial(_tell, phase, number, shown, note, now - began, journal, console)
                together(fabric, tell)
                bar.update(task, completed=done, note=note)
            if saving:
                phase.checkpoint(done)
                saved, busy = done, time.monotonic()
            if asked:
                raise KeyboardInterrupt
        if anyone(fabric, interrupted()):  # while the last checkpoint was written
            raise KeyboardInterrupt


def _tell(
    phase: Phase,
    number: int,
    shown: dict[str, float] | None,
    note: str,
    seconds: float,
    journal: Journal,
    console: Console,
) -> None:
    done = number + 1
    if shown is not None:
        journal.scalars(phase.name, number, shown)
    if not console.is_terminal and (number - phase.start) % max((phase.stop - phase.start) // 10, 1) < _EVERY:
        left = seconds / (done - phase.start) * (phase.stop - done)
        console.print(f"{phase.name} {done}/{phase.stop}, {left:.0f} s left: {note}")


def ignore_interrupts(worker: int) -> None:
    """For workers that load data: Ctrl-C reaches every process of a terminal, and the step under way needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
