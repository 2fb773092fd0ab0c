"""Retrofit an AttnGAN and fine-tune it: ``python -m examples.attngan.retrofit``; see ``--help``."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import tyro
from rich.console import Console

from examples.attngan.published.folder import Files, check, find
from examples.attngan.published.models import sizes_of
from examples.attngan.published.sizes import Sizes
from examples.attngan.run import Plan, retrofit
from examples.sdgan.config import Config, Data
from examples.sdgan.data import DataError
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.presets import preset
from examples.sdgan.training.distributed import ProcessStopped, leave
from examples.sdgan.training.loop import NotFinite


@dataclass(frozen=True)
class Options:
    """Retrofit an AttnGAN with SCBN, fine-tune it with the Siamese loss, and show before, step 0 and after.

    OUT gets retrofit.png, samples.png, losses.png, metrics.json, checkpoint.pt, model (for sample and evaluate of
    examples.sdgan), and netG_scbn.pth (for a script of your own: scbn.load_retrofitted).
    """

    data: Data = "toy"
    root: Path | None = None
    """Folder of the data set (cub, coco)."""
    out: Path = Path("runs/attngan")
    attngan: Path | None = None
    """Folder of a published AttnGAN as its README makes it (models/, DAMSMencoders/, data/): where to look for the files
    below. Sizes are read from the weights."""
    checkpoint: Path | None = None
    """Weights of a trained generator, a state dict or a dict that holds one; without it an AttnGAN is trained first."""
    text_encoder: Path | None = None
    """DAMSM's text encoder (text_encoder200.pth); needs --captions."""
    image_encoder: Path | None = None
    """DAMSM's image encoder (image_encoder200.pth)."""
    discriminators: tuple[Path, ...] = ()
    """Of each stage, in the order of their sizes (netD0.pth netD1.pth ...)."""
    captions: Path | None = None
    """captions.pickle, which numbers the words that the text encoder knows."""
    repo: Path | None = None
    """Checkout of taoxugit/AttnGAN whose generator to use, unedited, instead of ours."""
    before_steps: int = 400
    """Steps of the AttnGAN itself, where no checkpoint is given."""
    steps: int = 400
    """Steps of fine-tuning."""
    warm_up: int = 0
    """Of these, steps in which only the discriminators learn; for a generator that comes without its own."""
    pretrained_lr: float | None = None
    """Learning rate of the parameters that the generator came with; new ones have --train.generator.lr. By default a
    quarter of that."""
    control: bool = False
    """Fine-tune the generator without the retrofit too, with the same steps, batches and noise: the fourth column."""
    fix_mask: bool = False
    """Correct AttnGAN's mis-tiled attention mask too; step 0 is then not identical."""
    train: Config = field(default_factory=Config)
    """Everything else about the trainer; data, root, out and steps are taken from above."""


def small(data: Data) -> Config:
    """The trainer's preset for a data set with AttnGAN's own generator: two stages where the preset is small."""
    config = preset(data)
    toy = data in ("toy", "birds-hard", "folder")
    channels = (24, 24) if toy else config.generator.channels
    generator = dataclasses.replace(config.generator, architecture="attngan", channels=channels)
    # The discriminators' Siamese heads know nothing yet.
    siamese = dataclasses.replace(config.siamese, warm_up=100 if toy else 1000)
    return dataclasses.replace(config, generator=generator, siamese=siamese)


def parse(argv: Sequence[str]) -> tuple[Options, Config]:
    """The options of a command line, and the trainer's that follow from them."""
    early = _early(argv)
    data: Data = early.data if early.data in get_args(Data) else "toy"
    files = _files(early)
    # Sizes follow from weights: as defaults, so that an option that differs was meant.
    sizes = sizes_of(files)
    default = Options(data=data, train=_sized(small(data), sizes))
    options = tyro.cli(Options, default=default, args=list(argv), prog="python -m examples.attngan.retrofit")
    for name, value in sizes.items():
        asked = _option(options.train, name)
        if asked != value:
            raise ValueError(f"--train.{name.replace('_', '-')} is {asked}, but the weights given are of {value}")
    options = dataclasses.replace(options, **dataclasses.asdict(files))
    for name in ("before_steps", "warm_up"):
        if getattr(options, name) < 0:
            raise ValueError(f"--{name.replace('_', '-')} must not be negative, got {getattr(options, name)}")
    if options.before_steps < 1 and options.checkpoint is None:
        raise ValueError("--before-steps must be at least 1 without a --checkpoint: there is nothing to retrofit")
    if options.train.check:
        raise ValueError(
            "--train.check is of examples.sdgan.train: python -m examples.sdgan.train --data ... --check"
        )
    if options.train.steps != default.train.steps:
        raise ValueError(f"--train.steps: the steps of fine-tuning are --steps here ({options.steps})")
    given = options.train.generator
    if given.architecture == "tree":
        raise ValueError("--train.generator.architecture must be attngan or attndcgan here, got tree")
    if given.norm == "batch":
        raise ValueError(
            "--train.generator.norm batch is an AttnGAN without a retrofit; to train one beside it, add --control"
        )
    if options.pretrained_lr is None:
        options = dataclasses.replace(options, pretrained_lr=given.lr / 4)
    elif not 0 <= options.pretrained_lr < float("inf"):
        raise ValueError(f"--pretrained-lr must be a finite number from 0, got {options.pretrained_lr}")
    common: dict[str, Any] = {
        "generator": dataclasses.replace(given, fix_mask=given.fix_mask or options.fix_mask),
        "data": options.data,
        "root": options.root,
        "out": options.out,
        "steps": options.steps,
    }
    if files.text_encoder is not None and files.image_encoder is not None:
        common["encoder_steps"] = 0  # both have learnt what they are to know
    return options, dataclasses.replace(options.train, **common)


def _early(argv: Sequence[str]) -> argparse.Namespace:
    """What must be known before the rest: the data set and the files."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data", default="toy")
    for name in ("attngan", "checkpoint", "text-encoder", "image-encoder", "captions", "root"):
        parser.add_argument(f"--{name}", f"--{name.replace('-', '_')}", type=Path)
    parser.add_argument("--discriminators", type=Path, nargs="*", default=[])
    return parser.parse_known_args(argv)[0]


def _files(early: argparse.Namespace) -> Files:
    """The files that the options name, and those of the folder that they name."""
    given = Files(
        early.checkpoint,
        early.text_encoder,
        early.image_encoder,
        tuple(early.discriminators),
        early.captions,
        early.root,
    )
    return check(given if early.attngan is None else find(early.attngan, early.data, given))


def _sized(config: Config, sizes: Sizes) -> Config:
    for name, value in sizes.items():
        group, _, option = name.rpartition(".")
        inner = dataclasses.replace(getattr(config, group), **{option: value}) if group else value
        config = dataclasses.replace(config, **{group or option: inner})
    return config


def _option(config: Config, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _as_spelled_here(message: str) -> str:
    """The trainer's options, which its messages name as its own command does, as this one does: --train.NAME."""
    names = {field.name for field in dataclasses.fields(Config)} - {
        field.name for field in dataclasses.fields(Options)
    }
    pattern = "|".join(name.replace("_", "-") for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])--(?=(?:{pattern})\b(?!-))", "--train.", message)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for bad options, data or weights, 130 after Ctrl-C."""
    console = Console(soft_wrap=True, markup=False)
    try:
        options, config = parse(sys.argv[1:] if argv is None else argv)
        o = options
        files = Files(o.checkpoint, o.text_encoder, o.image_encoder, o.discriminators, o.captions, o.root)
        assert o.pretrained_lr is not None
        retrofit(config, Plan(files, o.repo, o.before_steps, o.warm_up, o.pretrained_lr, o.control), console)
    except (CheckpointError, DataError, NotFinite, ProcessStopped, ValueError, OSError) as error:
        console.print(f"error: {_as_spelled_here(str(error))}", style="red")
        return 2
    except KeyboardInterrupt:
        console.print(
            "stopped; if a step was done, checkpoint.pt holds it: go on with the same command and --train.resume"
        )
        return 130
    finally:
        leave()
    console.print(
        f"done: look at retrofit.png, samples.png and metrics.json in {config.out.resolve()}; netG_scbn.pth there is for "
        "scbn.load_retrofitted"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
