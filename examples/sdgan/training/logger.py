"""Curves and pictures to look at while a run is under way: TensorBoard, or Weights & Biases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from examples.sdgan.config import Config


class Logger(Protocol):
    """Where a run's curves and pictures go."""

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Losses and rates of a step."""
        ...

    def picture(self, phase: str, step: int, path: Path) -> None:
        """A picture that the run has just drawn."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class NoLogger:
    """For ``--log none``, and for every process but the first."""

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def picture(self, phase: str, step: int, path: Path) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoardLogger:
    """Event files in OUT/tensorboard/PHASE; a resumed run replaces what its dead predecessor wrote past the checkpoint."""

    def __init__(self, config: Config, steps: dict[str, int]) -> None:
        # A folder for each phase: what is dropped past the checkpoint is counted in steps, which each counts anew.
        self.config, self.steps = config, steps
        self.writers: dict[str, Any] = {}

    def _writer(self, phase: str) -> Any:
        if phase not in self.writers:
            from torch.utils.tensorboard import SummaryWriter

            step = self.steps.get(phase, 0)
            writer = SummaryWriter(str(self.config.out / "tensorboard" / phase), purge_step=step)
            writer.add_text("config", f"```\n{self.config.to_share()}\n```", step)
            self.writers[phase] = writer
        return self.writers[phase]

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """One curve a loss, grouped by phase."""
        for name, value in values.items():
            self._writer(phase).add_scalar(f"{phase}/{name}", value, step)

    def picture(self, phase: str, step: int, path: Path) -> None:
        """The picture under its file's name."""
        with Image.open(path) as image:
            self._writer(phase).add_image(
                f"{phase}/{path.stem}", np.asarray(image.convert("RGB")), step, dataformats="HWC"
            )

    def close(self) -> None:
        """Flush."""
        for writer in self.writers.values():
            writer.close()


class WandbLogger:
    """Weights & Biases, where it is installed."""

    def __init__(self, config: Config) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError("--log wandb needs wandb: pip install wandb, or take --log tensorboard") from error
        self.wandb: Any = wandb
        self.run = wandb.init(project="scbn", dir=str(config.out), config=json.loads(config.to_share()))

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """One curve a loss; the phase's own step is the axis."""
        self.run.log({f"{phase}/{name}": value for name, value in values.items()} | {f"{phase}/step": step})

    def picture(self, phase: str, step: int, path: Path) -> None:
        """The picture under its file's name."""
        self.run.log({f"{phase}/{path.stem}": self.wandb.Image(str(path)), f"{phase}/step": step})

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


def open_logger(config: Config, steps: dict[str, int], first: bool) -> Logger:
    """The logger that the options name, going on at these steps of each phase; only the first process keeps one.

    Raises:
        ValueError: what it needs is not installed.
    """
    if not first or config.log == "none":
        return NoLogger()
    return TensorBoardLogger(config, steps) if config.log == "tensorboard" else WandbLogger(config)
