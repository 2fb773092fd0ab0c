"""Make images of any sentence: ``python -m examples.sdgan.sample --checkpoint FILE --caption "..."``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.inference.scenes import notes
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.plots import samples


@dataclass(frozen=True)
class Options:
    """Make images of sentences with a trained checkpoint."""

    checkpoint: Path
    """checkpoint.pt of a run, its folder model, or the run's folder."""
    caption: tuple[str, ...]
    """One sentence or several, each in quotes."""
    count: int = 6
    """Images of each caption."""
    seed: int = 0
    same_noise: bool = False
    """Draw every caption from the same noises, so that only its words differ from the others'."""
    columns: int = 0
    """Images in a row of the picture; 0: as many as of each caption."""
    out: Path | None = None
    """Picture to write; by default sample.png beside the checkpoint. Word maps go to NAME-attention.png."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for bad options."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.sdgan.sample")
    try:
        out = make(options, console)
    except (CheckpointError, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    console.print(f"done: look at {out.resolve()}")
    return 0


def make(options: Options, console: Console) -> Path:
    """Write the pictures; returns the path of the images' one.

    Raises:
        ValueError: no caption, a count below 1, or a caption of which the encoder knows no word.
    """
    if options.count < 1 or not options.caption:
        raise ValueError(f"needs at least one caption and --count of at least 1, got count={options.count}")
    if options.columns < 0:
        raise ValueError(f"--columns must not be negative, got {options.columns}")
    sampler = load_sampler(options.checkpoint)
    if note := notes(sampler, list(options.caption)):
        console.print(note)
    captions = [caption for caption in options.caption for _ in range(options.count)]
    different = options.count if options.same_noise else len(captions)
    noise = fixed_noise(different, sampler.config.generator.noise_dim, options.seed)
    noise = noise.repeat(len(captions) // different, 1)
    run = options.checkpoint.resolve()
    run = run if run.is_dir() and run.name != "model" else run.parent
    out = options.out or run / "sample.png"
    if out.is_dir():
        raise ValueError(f"--out must be a picture, {out} is a folder")
    out = out if out.suffix else out.with_suffix(".png")
    drawn = sampler.images(captions, noise)
    if not drawn.isfinite().all():
        # As a picture they would be white, as if the model had learnt that.
        raise ValueError(
            f"{options.checkpoint}: its generator makes images that are not finite (NaN or infinite), though "
            "its weights "
            "are; use an earlier checkpoint"
        )
    samples.sample_grid(drawn, captions, out, columns=options.columns or options.count)
    images, maps, words = sampler.attention(list(options.caption), noise[:: options.count])
    layer = samples.finest(maps)
    if layer is not None:
        sheet = out.with_name(f"{out.stem}-attention.png")
        samples.attention_sheet(images, layer[1], words, sheet)
    return out


if __name__ == "__main__":
    sys.exit(main())
