"""Curves and pictures to look at while a run is under way: TensorBoard, or Weights & Biases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from examples.sdgan.config import Config


class Journal(Protocol):
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


class NoJournal:
    """For ``--log none``, and for every process but the first."""

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def picture(self, phase: str, step: int, path: Path) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoardJournal:
    """Event files in OUT/tensorboard; a resumed run replaces what its dead predecessor wrote past the checkpoint."""

    def __init__(self, config: Config, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(config.out / "tensorboard"), purge_step=step or None)
        self.writer.add_text("config", f"```\n{config.to_json()}\n```", step)

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """One curve a loss, grouped by phase."""
        for name, value in values.items():
            self.writer.add_scalar(f"{phase}/{name}", value, step)

    def picture(self, phase: str, step: int, path: Path) -> None:
        """The picture under its file's name."""
        with Image.open(path) as image:
            self.writer.add_image(
                f"{phase}/{path.stem}", np.asarray(image.convert("RGB")), step, dataformats="HWC"
            )

    def close(self) -> None:
        """Flush."""
        self.writer.close()


class WandbJournal:
    """Weights & Biases, where it is installed."""

    def __init__(self, config: Config, step: int) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError("--log wandb needs wandb: pip install wandb, or take --log tensorboard") from error
        self.wandb: Any = wandb
        self.run = wandb.init(project="scbn", dir=str(config.out), config=json.loads(config.to_json()))

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """One curve a loss; the phase's own step is the axis."""
        self.run.log({f"{phase}/{name}": value for name, value in values.items()} | {f"{phase}/step": step})

    def picture(self, phase: str, step: int, path: Path) -> None:
        """The picture under its file's name."""
        self.run.log({f"{phase}/{path.stem}": self.wandb.Image(str(path)), f"{phase}/step": step})

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


def open_journal(config: Config, step: int, first: bool) -> Journal:
    """The journal that the options name; only the first process keeps one.

    Raises:
        ValueError: what it needs is not installed.
    """
    if not first or config.log == "none":
        return NoJournal()
    return TensorBoardJournal(config, step) if config.log == "tensorboard" else WandbJournal(config, step)
