"""R-precision by matching networks that a model was not trained with: ``python -m examples.sdgan.judge --help``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from torch import Tensor

from examples.sdgan.data import CaptionedImages, DataError, open_data
from examples.sdgan.data.dataset import to_float
from examples.sdgan.inference.export import load_fingerprints, load_image_encoder, load_sampler
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.held_out import held_out_of
from examples.sdgan.metrics.r_precision import r_precision
from examples.sdgan.metrics.sample_size import check_enough
from examples.sdgan.models.checkpoint import CheckpointError
from scbn import TextFeatures

REAL = "real images"


@dataclass(frozen=True)
class Options:
    """Measure models with the matching networks (DAMSM's encoders) of other runs, so that the judge is not the teacher.

    A generator learns to please the network it is trained with; and networks differ, so that only numbers of one judge
    can be compared. The real images' R-precision is the judge's own: how often it finds the caption of a photograph.
    """

    models: tuple[Path, ...]
    """Checkpoints, or folders of runs, whose generators to measure."""
    judges: tuple[Path, ...]
    """Checkpoints, or folders of runs, whose encoders to measure with."""
    root: Path | None = None
    """Folder of the data set; by default where the first judge's run read it."""
    images: int = 500
    seed: int = 0
    out: Path | None = None
    """A .jsonl to add records to."""


class Judged:
    """The images of one model, or of the data set, to be matched by the text encoder of another."""

    def __init__(self, judge: Sampler, images: Sampler | CaptionedImages, which: Sequence[int] = ()) -> None:
        self.judge, self.source, self.left = judge, images, list(which)
        self.config = (
            judge.config if isinstance(images, CaptionedImages) else images.config
        )  # whose noise it needs

    def encode(self, captions: list[str]) -> TextFeatures:
        """By the judge."""
        return self.judge.encode(captions)

    def images(self, captions: list[str], noise: Tensor) -> Tensor:
        """By the model; of the data set those of ``which`` that are next."""
        if isinstance(self.source, CaptionedImages):
            next_ones, self.left = self.left[: len(captions)], self.left[len(captions) :]
            return to_float(self.source.images.load(next_ones, self.config.size, None))
        return self.source.images(captions, noise)


def judge(options: Options, console: Console) -> Iterator[dict[str, Any]]:
    """A record for each model and judge, as soon as it is measured; the real images first.

    Raises:
        ValueError: models and judges are of different sizes or data.
        CheckpointError, DataError: a file or the data set is broken.
    """
    if not options.judges or not options.models:
        raise ValueError("--models and --judges need at least one checkpoint each")
    judges = {path: load_sampler(path) for path in options.judges}
    models: dict[str, Sampler | None] = {REAL: None, **{str(path): load_sampler(path) for path in options.models}}
    first = next(iter(judges.values())).config
    for path, sampler in [*judges.items(), *((name, s) for name, s in models.items() if s is not None)]:
        if (sampler.config.size, sampler.config.data) != (first.size, first.data):
            raise ValueError(
                f"{path}: of {sampler.config.data} at {sampler.config.size} px, but the first judge is of {first.data} at "
                f"{first.size} px"
            )
    root = options.root or first.root
    train, test = open_data(dataclasses.replace(first, root=root))
    check_enough(test, options.images)
    for path in (*options.judges, *options.models):
        held_out, note = held_out_of(train, test, load_fingerprints(path))
        if not held_out:
            console.print(f"{path}: {note}", highlight=False)
    for path, sampler in judges.items():
        encoder = load_image_encoder(path)
        for name, model in models.items():
            judged: Any = Judged(sampler, test if model is None else model, test.spread(options.images))
            value = r_precision(judged, encoder, test, options.seed, options.images)
            low, high = value["interval_95"]
            console.print(f"{name} by {path}: {value['value']:.3f} [{low:.3f}, {high:.3f}]", highlight=False)
            yield {"model": name, "judge": str(path), "r_precision": value}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for models, judges or data that cannot be used."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.sdgan.judge")
    try:
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.nullcontext() if options.out is None else options.out.open("a", encoding="utf-8") as file:
            for record in judge(options, console):
                if file is not None:
                    file.write(json.dumps(record) + "\n")
                    file.flush()
    except (CheckpointError, DataError, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
