"""What happens beside the steps of a phase: checkpoints, pictures, a generator that waits for its discriminators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.plots import samples
from examples.sdgan.training.distributed import together
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.phase import Phase

if TYPE_CHECKING:
    from examples.sdgan.training.trainer import Trainer

_GRID, _SHEET = 24, 5


class Callback:
    """What a trainer calls; each does nothing unless it is overridden."""

    def on_step_start(self, phase: Phase, step: int) -> None:
        """Before a step, in every process."""

    def on_checkpoint(self, trainer: Trainer, phase: Phase) -> None:
        """After every ``checkpoint_every`` steps, at the end of a phase and on Ctrl-C, in the first process only."""


class SaveCheckpoint(Callback):
    """Write OUT/checkpoint.pt."""

    def on_checkpoint(self, trainer: Trainer, phase: Phase) -> None:
        """Replace the previous one."""
        trainer.save(phase)


class DrawSamples(Callback):
    """Draw OUT/samples.png and OUT/attention.png: the same captions and noise each time."""

    def on_checkpoint(self, trainer: Trainer, phase: Phase) -> None:
        """Where the phase has a generator."""
        if isinstance(phase, GanTraining):
            draw_samples(trainer, phase)


class WarmUp(Callback):
    """For so many steps of a phase the discriminators alone learn: those of a loaded generator know nothing yet."""

    def __init__(self, steps: int, *phases: str) -> None:
        self.steps, self.phases = steps, phases

    def on_step_start(self, phase: Phase, step: int) -> None:
        """A learning rate of zero for the generator, until they do."""
        if not isinstance(phase, GanTraining) or phase.name not in self.phases or not self.steps:
            return
        for group in phase.optimizer_g.param_groups:
            # Beside the rate, so that a resumed run has it too.
            wanted = group.setdefault("after_warm_up", group["lr"])
            group["lr"] = wanted if step >= self.steps else 0.0


def draw_samples(trainer: Trainer, phase: GanTraining) -> None:
    """Sample grid and word maps of the averaged generator, into the run's folder and the logger."""
    run, sampler = trainer.workspace, trainer.sampler(phase)
    config, test = run.config, run.test
    captions = [test.captions[i % len(test)][0] for i in range(_GRID)]
    noise = fixed_noise(_GRID, config.generator.noise_dim)
    images = sampler.images(captions, noise)
    held_out = "captions it was trained on" if test is run.train else "held-out captions"
    drawn = [config.out / "samples.png"]
    samples.sample_grid(images, captions, drawn[0], title=f"{test.name}: {held_out}, step {phase.done}")
    images, maps, words = sampler.attention(captions[:_SHEET], noise[:_SHEET])
    layer = samples.finest(maps)
    if layer is not None:
        title = f"attention to each word, layer {layer[0]}; the number is the map's highest weight"
        drawn.append(config.out / "attention.png")
        samples.attention_sheet(images, layer[1], words, drawn[1], title=title)
    for path in drawn:
        trainer.logger.picture(phase.name, phase.done, path)


def call_together(trainer: Trainer, phase: Phase) -> None:
    """All callbacks of a checkpoint, in the first process; where one fails, all processes stop."""

    def call() -> None:
        for callback in trainer.callbacks:
            callback.on_checkpoint(trainer, phase)

    together(trainer.workspace.fabric, call, first_only=True)
