"""Train SD-GAN: ``python -m examples.sdgan.train`` draws birds and trains on them in minutes; see ``--help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

import torch
import tyro
from rich.console import Console

from examples.sdgan.check import check
from examples.sdgan.config import Config, Data
from examples.sdgan.data import DataError
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.presets import preset
from examples.sdgan.training.callbacks import DrawSamples, SaveCheckpoint
from examples.sdgan.training.distributed import ProcessStopped, leave, together
from examples.sdgan.training.encoders import train_encoders
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.loop import NotFinite
from examples.sdgan.training.results import write_results
from examples.sdgan.training.trainer import Trainer
from examples.sdgan.training.workspace import open_workspace


def parse(argv: Sequence[str]) -> Config:
    """The options of a command line; what it leaves open comes from the preset of its ``--data`` and ``--size``."""
    # A first reader of these two: tyro must know the defaults before it reads the line.
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--data", default="toy")
    early.add_argument("--size", default="")
    chosen = early.parse_known_args(argv)[0]
    data: Data = chosen.data if chosen.data in get_args(Data) else "toy"
    size = int(chosen.size) if chosen.size.isdecimal() else None
    return tyro.cli(Config, default=preset(data, size), args=list(argv), prog="python -m examples.sdgan.train")


def train(config: Config, console: Console) -> None:
    """Match the encoders, train generator and discriminators, measure and draw; goes on where a checkpoint says."""
    run = open_workspace(config, console)
    with Trainer(run, [SaveCheckpoint(), DrawSamples()]) as trainer:
        train_encoders(trainer)
        # The same weights, whether the encoders were trained just now or before a --resume.
        torch.manual_seed(config.seed)
        gan = GanTraining(run.fabric, run.config, run.text, run.image)
        trainer.fit(gan)
        together(run.fabric, lambda: write_results(trainer, gan), first_only=True)
    run.console.print(
        f"done: look at samples.png, attention.png, losses.png and metrics.json in {config.out.resolve()}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for bad options or data, 130 after Ctrl-C."""
    console = Console(soft_wrap=True, markup=False)
    config = None
    try:
        config = parse(sys.argv[1:] if argv is None else argv)
        (check if config.check else train)(config, console)
    except (CheckpointError, DataError, NotFinite, ProcessStopped, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    except KeyboardInterrupt:
        saved = config is not None and (config.out / "checkpoint.pt").is_file()
        hint = "what was trained is in checkpoint.pt, continue with the same command and --resume"
        console.print(f"stopped; {hint if saved else 'nothing was trained yet'}")
        return 130
    finally:
        leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
