"""The trainer: takes phases to their end, with callbacks, curves and a checkpoint to resume from."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.plots.samples import History
from examples.sdgan.training.callbacks import Callback, call_together
from examples.sdgan.training.distributed import leaving_is_told, together
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.logger import open_logger
from examples.sdgan.training.loop import Loop, NotFinite
from examples.sdgan.training.phase import Phase
from examples.sdgan.training.resume import broken_part, restoring
from examples.sdgan.training.snapshot import snapshot
from examples.sdgan.training.workspace import Workspace


class Trainer:
    """Takes phases one after the other, and writes what a resumed run needs.

    A context: leaving it closes the logger, after an error too, and says so where another process has gone.

    Args:
        workspace: what the phases share.
        callbacks: called in their order.
    """

    def __init__(self, workspace: Workspace, callbacks: Sequence[Callback] = ()) -> None:
        self.workspace, self.callbacks = workspace, list(callbacks)
        self.steps: dict[str, int] = dict(workspace.resumed.get("steps", {}))
        self.history: History = workspace.resumed.get("history", {})
        self._begun: list[Phase] = []
        self._sampled: tuple[GanTraining, int, Sampler] | None = None
        fabric, config = workspace.fabric, workspace.config
        logger = together(fabric, lambda: open_logger(config, self.steps, fabric.is_global_zero))
        assert logger is not None
        self.logger = logger
        self._leaving = leaving_is_told(fabric)

    def __enter__(self) -> Trainer:
        self._leaving.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is None:
            try:
                together(self.workspace.fabric, self.logger.close)
            except BaseException as late:
                self._leaving.__exit__(type(late), late, late.__traceback__)
                raise
        else:
            with contextlib.suppress(Exception):  # what went wrong first is the reason
                self.logger.close()
        return self._leaving.__exit__(kind, error, trace)

    def fit(self, phase: Phase, until: int | None = None) -> None:
        """Take a phase to step ``until``, or its end, as far as that is not done.

        Raises:
            NotFinite: a loss or weight is NaN or infinite.
            checkpoint.CheckpointError: what the checkpoint has of it is damaged, or does not fit the options.
            KeyboardInterrupt: on Ctrl-C, once the step under way is done and the callbacks were called.
        """
        if phase not in self._begun:
            self._begun.append(phase)
            self._resume(phase)
        stop = phase.steps if until is None else until
        if phase.done < stop:
            Loop(self, phase, stop).run()

    def checkpoint(self, phase: Phase) -> None:
        """Call the callbacks, in the first process, while the others wait."""
        self.steps[phase.name] = phase.done
        call_together(self, phase)

    def sampler(self, gan: GanTraining) -> Sampler:
        """The averaged generator as it is now; made once a step."""
        if self._sampled is None or self._sampled[:2] != (gan, gan.done):
            self._sampled = gan, gan.done, snapshot(self.workspace, gan)
        return self._sampled[2]

    def save(self, phase: Phase) -> None:
        """Write the checkpoint, unless weights are broken.

        Raises:
            NotFinite: a weight is NaN or infinite; the previous checkpoint stays.
            checkpoint.CheckpointError: it could not be written; the previous one stays.
        """
        run, state = self.workspace, self.state(phase)
        # All that a resumed run would go on with, optimisers' averages too.
        for part in ("text", "image", "ema", "phases"):
            for name, value in checkpoint.tensors_within("", state.get(part)):
                if not checkpoint.is_finite(value):
                    raise NotFinite(f"weights are not finite ({part}: {name[1:]}); {run.path} stays as it was")
        checkpoint.save(state, run.path, run.again)

    def state(self, phase: Phase) -> dict[str, Any]:
        """All that a resumed run or a sampler needs."""
        run = self.workspace
        state: dict[str, Any] = {
            "config": run.config.to_json(),
            "vocabulary": list(run.vocabulary.known),
            "published_vocabulary": run.vocabulary.published,
            "text": run.text.state_dict(),
            "image": run.image.state_dict(),
            "history": self.history,
            "seconds": run.seconds,
            "steps": self.steps,
            "phases": {phase.name: phase.state_dict()},
            **run.fingerprints,
        }
        if isinstance(phase, GanTraining):
            state["ema"] = self.sampler(phase).generator.state_dict()
            if phase.config != run.config:
                state["ema_config"] = phase.config.to_json()
        return state

    def _resume(self, phase: Phase) -> None:
        """Give a phase the steps and weights that the checkpoint has of it."""
        run = self.workspace
        phase.done = self.steps.setdefault(phase.name, 0)
        state = run.resumed.get("phases", {}).pop(phase.name, None)
        if state is None:
            return
        broken = broken_part({phase.name: state})
        if broken:
            raise checkpoint.CheckpointError(
                f"{run.path}: damaged: {broken} is no plain tensor of finite numbers; go on from an earlier copy, or "
                "start again without --resume, in another --out"
            )
        with restoring(run.path):
            phase.load_state_dict(state)
