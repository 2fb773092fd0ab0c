"""The loop every phase of training runs in: progress, curves, checkpoints, Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

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

from examples.sdgan.training.distributed import anyone, average_losses, together
from examples.sdgan.training.phase import Phase

if TYPE_CHECKING:
    from examples.sdgan.training.trainer import Trainer

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


class Loop:
    """The steps of a phase.

    Raises, from :meth:`run`:
        NotFinite: a loss is NaN or infinite; names the step, the losses and the last checkpoint.
        KeyboardInterrupt: on Ctrl-C, once the step under way is done and the checkpoint written.
    """

    def __init__(self, trainer: Trainer, phase: Phase, stop: int) -> None:
        self.trainer, self.phase, self.start, self.stop = trainer, phase, phase.done, stop
        self.workspace, self.fabric = trainer.workspace, trainer.workspace.fabric
        self.saved = self.start
        self.curves = trainer.history.setdefault(phase.name, {"step": []})
        self.speed = _Speed(2 * phase.batches.pairs, self.start)

    def run(self) -> None:
        """Take them, stopping where all processes agree to."""
        batches = self.workspace.loader(self.phase, self.start, self.stop)
        with progress_bar(self.workspace.console) as bar, _interrupts() as interrupted:
            task = bar.add_task(self.phase.name, total=self.stop, completed=self.start, note="")
            for number, batch in zip(range(self.start, self.stop), batches, strict=True):
                losses = self._step(number, batch)
                recorded = number % _EVERY == 0
                # Several processes ask each other only now and then, for it makes the host wait.
                asked = (recorded or self.fabric.world_size == 1) and anyone(self.fabric, interrupted())
                last = asked or number + 1 == self.stop
                saving = last or (number + 1) % self.workspace.config.checkpoint_every == 0
                if saving or recorded:
                    note = self._record(number, losses, keep=recorded or number + 1 == self.stop)
                    bar.update(task, completed=number + 1, note=note)
                if saving:
                    self._save(number + 1)
                if asked:
                    raise KeyboardInterrupt
            if anyone(self.fabric, interrupted()):  # while the last checkpoint was written
                raise KeyboardInterrupt

    def _step(self, number: int, batch: Any) -> dict[str, Tensor]:
        # With the step's number, so a resumed run goes on as the first would. Each process draws on its own: the same
        # dropout everywhere would be one mask for several samples.
        torch.manual_seed(self.workspace.config.seed * 1_000_003 + number + self.fabric.global_rank * _APART)
        for callback in self.trainer.callbacks:
            callback.on_step_start(self.phase, number)
        losses = self.phase.step(number, self.fabric.to_device(batch))
        self.phase.done = number + 1
        return losses

    def _record(self, number: int, losses: dict[str, Tensor], keep: bool) -> str:
        """Check the losses, write them down where they are to be kept; returns what the bar shows."""
        values = average_losses(self.fabric, losses)
        if not all(math.isfinite(value) for value in values.values()):
            raise NotFinite(self._not_finite(number, values))
        self.speed.update(number + 1)
        note = f"{self.speed.rate:.0f} images/s " + " ".join(f"{key} {value:.2f}" for key, value in values.items())
        if keep:
            _append(self.curves, number, values)
        # The first process writes, and others wait for it: a disk that is full must stop all.
        together(self.fabric, partial(self._log, number, values if keep else None, note))
        return note

    def _log(self, number: int, values: dict[str, float] | None, note: str) -> None:
        name, done, console = self.phase.name, number + 1, self.workspace.console
        if values is not None:
            rate = {"images_per_second": self.speed.rate}
            self.trainer.logger.scalars(name, number, {**values, **rate})
        if not console.is_terminal and (number - self.start) % max((self.stop - self.start) // 10, 1) < _EVERY:
            left = (time.monotonic() - self.speed.began) / (done - self.start) * (self.stop - done)
            console.print(f"{name} {done}/{self.stop}, {left:.0f} s left: {note}")

    def _save(self, done: int) -> None:
        self.trainer.checkpoint(self.phase)
        self.saved = done
        self.speed.pause()

    def _not_finite(self, number: int, values: dict[str, float]) -> str:
        path = self.workspace.path
        good = f"the last good checkpoint is {path}, of step {self.saved}"
        if not path.is_file():
            good = "no checkpoint was written yet"
        return (
            f"{self.phase.name}, step {number}: a loss is not finite: {values}; {good}; try a lower learning rate, or "
            f"{self.workspace.again} to see whether it happens again"
        )


class _Speed:
    """Images per second, without the time that checkpoints take."""

    def __init__(self, images: int, start: int) -> None:
        self.images, self.counted, self.rate = images, start, 0.0
        self.began = self.since = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if done > self.counted:
            self.rate = self.images * (done - self.counted) / max(now - self.since, 1e-9)
            self.since, self.counted = now, done

    def pause(self) -> None:
        self.since = time.monotonic()


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


def _append(curves: dict[str, list[float]], step: int, values: dict[str, float]) -> None:
    length = len(curves["step"])
    curves["step"].append(step)
    for name in sorted({*curves, *values} - {"step"}):
        curve = curves.setdefault(name, [math.nan] * length)
        curve.append(values.get(name, math.nan))
