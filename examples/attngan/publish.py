"""Write a run's AttnGAN as the published code has it: ``python -m examples.attngan.publish --checkpoint OUT --out DIR``."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from examples.attngan.published.names import PublishedError
from examples.attngan.published.writing import check_publishable, write_published
from examples.sdgan.config import Config
from examples.sdgan.data import DataError, open_data
from examples.sdgan.inference.export import load_image_encoder, load_sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.models.discriminator import Discriminators


@dataclass(frozen=True)
class Options:
    """A trained AttnGAN for the published code, and for ``examples.attngan.retrofit --attngan DIR``.

    DIR gets models/ (generator and discriminators), DAMSMencoders/ and data/ (captions.pickle, filenames.pickle, class_info.pickle), with
    the names of AttnGAN's README. Images are not copied.
    """

    checkpoint: Path
    """checkpoint.pt of a run of an AttnGAN without a retrofit (--generator.architecture attngan --generator.norm batch),
    or its folder."""
    out: Path
    """Folder to make; it must not exist."""
    root: Path | None = None
    """Folder of the data set; by default where the run read it."""


def publish(options: Options, console: Console) -> Path:
    """Read, write beside, and put in place; returns the folder.

    Raises:
        PublishedError: the published classes cannot hold the model, or there is such a folder.
        CheckpointError: there is no model.
        DataError: there is no data set.
    """
    if options.out.exists():
        raise PublishedError(f"--out {options.out}: exists; nothing is overwritten")
    sampler = load_sampler(options.checkpoint)
    config = sampler.config
    check_publishable(config, sampler)
    discriminators, root = _rest(options.checkpoint, config)
    config = dataclasses.replace(config, root=options.root or root)
    with console.status("reading the data set ..."):
        splits = open_data(config)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{options.out.name}-", dir=options.out.parent) as unfinished:
        folder = Path(unfinished) / options.out.name
        image = load_image_encoder(options.checkpoint)
        missing = write_published(folder, config, sampler, image, discriminators, splits)
        folder.rename(options.out)
    for line in missing:
        console.print(f"not written: {line}", highlight=False)
    return options.out


def _rest(path: Path, config: Config) -> tuple[Discriminators | None, Path | None]:
    """The discriminators, which only a checkpoint holds, and where the run read its data."""
    file = path / "checkpoint.pt" if path.is_dir() else path
    if not file.is_file():
        return None, config.root
    state = checkpoint.load(file)
    phases = [phase for phase in state["phases"].values() if "discriminators" in phase]
    root = checkpoint.from_json(state["config"]).root
    if not phases:
        return None, root
    found = Discriminators(config.sizes, config.encoder.dim, config.discriminator, config.siamese)
    try:
        found.load_state_dict(phases[-1]["discriminators"])
    except RuntimeError as error:
        raise checkpoint.CheckpointError(f"{file}: its discriminators do not fit its options ({error})") from error
    return found, root


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for bad options, data, or a model that cannot be published."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.attngan.publish")
    try:
        out = publish(options, console)
    except (checkpoint.CheckpointError, DataError, PublishedError, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    except KeyboardInterrupt:
        console.print("stopped; nothing was written")
        return 130
    console.print(f"done: {out.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
