"""Measure a trained model: ``python -m examples.sdgan.evaluate --checkpoint runs/toy/checkpoint.pt``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from examples.sdgan.data import CaptionedImages, DataError, open_data
from examples.sdgan.data.dataset import to_bytes
from examples.sdgan.data.drawn import DRAWN
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.export import load_fingerprints, load_image_encoder, load_sampler
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics import caption_fidelity, consistency, fid
from examples.sdgan.metrics.birds import measure
from examples.sdgan.metrics.diversity import diversity
from examples.sdgan.metrics.held_out import held_out_of
from examples.sdgan.metrics.r_precision import matching_features, r_precision
from examples.sdgan.metrics.sample_size import check_enough
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.plots.comparisons import measures_chart, paraphrase_sheet
from examples.sdgan.training.loop import progress_bar

_ROWS = 6
# Three pictures each, which are in memory together: 12 GB at 256 px.
_PARAPHRASES = 5000


@dataclass(frozen=True)
class Options:
    """Measure a trained model on the held-out images and captions of its data set."""

    checkpoint: Path
    """checkpoint.pt of a run, or its folder."""
    root: Path | None = None
    """Folder of the data set; by default where the run found it."""
    images: int = 1000
    """Generated images; captions are gone through again, the next of each image, where there are fewer images. Paraphrases
    and R-precision use up to so many held-out images, once each (paraphrases no more than 5,000)."""
    inception: str | None = None
    """Weights for FID, KID and IS: a path, download, or none. By default none for the drawn birds, else download."""
    seed: int = 0
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    out: Path | None = None
    """Folder for evaluation.json and the pictures; by default evaluation beside the checkpoint."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for bad options, checkpoints or data."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.sdgan.evaluate")
    try:
        out = evaluate(options, console)
    except (CheckpointError, DataError, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    console.print(f"done: look at evaluation.json, evaluation.png and paraphrases.png in {out.resolve()}")
    return 0


def evaluate(options: Options, console: Console) -> Path:
    """Measure, and write table, JSON and pictures; returns their folder.

    Raises:
        CheckpointError: the model cannot be loaded.
        DataError: its data set is missing.
        ValueError: Inception's weights cannot be had, or too few images are asked for.
    """
    model = _load(options)
    out = _folder(options)
    for note in (*model.test.notes, *([model.held_out_note] if model.held_out_note else [])):
        console.print(note, highlight=False)
    with progress_bar(console) as bar:
        fake = _generate(model, options, bar)
        found = _measure(model, fake, options, bar)
    record = _record(model, found, options)
    # The numbers first: a picture that cannot be drawn must not cost them.
    (out / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(_table(found, record))
    paraphrase_sheet({"": model.sampler}, model.test, out / "paraphrases.png", _ROWS)
    measures_chart(found, out / "evaluation.png", f"{model.test.name}, {options.images} generated images")
    return out


@dataclass(frozen=True)
class _Model:
    """What is measured, with what, and on which data."""

    sampler: Sampler
    encoder: Any
    network: Any
    """Inception, or ``None``."""
    weights: str
    """Where Inception's are from."""
    device: torch.device
    train: CaptionedImages
    test: CaptionedImages
    held_out: bool | None
    held_out_note: str


def _load(options: Options) -> _Model:
    """Everything that can fail, before anything is generated: an hour later is too late to find it out."""
    if options.images < 20:
        raise ValueError(f"--images must be at least 20, got {options.images}")
    sampler, encoder = load_sampler(options.checkpoint), load_image_encoder(options.checkpoint)
    config = sampler.config
    weights = options.inception or ("none" if config.data in DRAWN else "download")
    network = None if weights == "none" else fid.inception(weights)
    device = _device(options.accelerator)
    for module in (sampler.generator, sampler.text, encoder, network):
        if module is not None:
            module.to(device)
    train, test = open_data(dataclasses.replace(config, root=options.root or config.root))
    check_enough(test, options.images)
    held_out, note = held_out_of(train, test, load_fingerprints(options.checkpoint))
    return _Model(sampler, encoder, network, weights, device, train, test, held_out, note)


def _folder(options: Options) -> Path:
    folder = options.checkpoint if options.checkpoint.is_dir() else options.checkpoint.parent
    out = options.out or folder / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    return out


def _generate(model: _Model, options: Options, bar: Progress) -> Tensor:
    """The images to measure, uint8 (N, 3, S, S)."""
    config, count = model.sampler.config, options.images
    task = bar.add_task("generating", total=count, note="")
    captions = _captions(model.test, count)
    noise = fixed_noise(count, config.generator.noise_dim, options.seed + 3)
    # Bytes from the start: in float32, 30,000 images at 256 px take 24 GB.
    fake = torch.empty(count, 3, config.size, config.size, dtype=torch.uint8)
    for start in range(0, count, 100):
        part = slice(start, start + 100)
        images = model.sampler.images(captions[part], noise[part])
        if not images.isfinite().all():
            raise ValueError(
                f"{options.checkpoint}: its generator makes images that are not finite (NaN or infinite)"
            )
        fake[part] = to_bytes(images)
        bar.update(task, completed=min(start + 100, count))
    return fake


def _measure(model: _Model, fake: Tensor, options: Options, bar: Progress) -> dict[str, Any]:
    """Every measure by its name, in the order of the table."""
    sampler, test, seed = model.sampler, model.test, options.seed
    features, real = matching_features(model.encoder), test.load_all(sampler.config.size)
    found: dict[str, Any] = {}
    if model.network is not None:
        task = bar.add_task("Inception", total=len(real) + len(fake), note="")
        found |= fid.inception_metrics(model.network, real, fake, lambda done: bar.update(task, completed=done))
    task = bar.add_task("measuring", total=4, note="distances")
    found["matching_distance"] = fid.matching_distance(features, real, fake)
    bar.update(task, completed=1, note="R-precision")
    found["r_precision"] = r_precision(sampler, model.encoder, test, seed, options.images)
    bar.update(task, completed=2, note="paraphrases")
    triples = consistency.generate_triples(sampler, test, min(options.images, _PARAPHRASES), seed)
    found["paraphrase_distance_ratio"] = consistency.distance_ratio(triples, features)
    found["diversity"] = diversity(sampler, test, features)
    bar.update(task, completed=3, note="")
    if test.drawn is not None:
        found |= _attributes(sampler, model.train, test, triples, seed, bar)
    bar.update(task, completed=4)
    return found


def _record(model: _Model, found: dict[str, Any], options: Options) -> dict[str, Any]:
    return {
        "checkpoint": options.checkpoint.name,
        "data": model.test.name,
        "held_out": model.held_out,
        "generated_images": options.images,
        "real_images": len(model.test),
        "weights": "moving average (EMA), with batch norm statistics of its own (standing statistics)",
        "seed": options.seed,
        "inception": model.weights,
        "torch": torch.__version__,
        "device": str(model.device),
        "measures": found,
        "config": json.loads(model.sampler.config.to_share()),
    }


def _attributes(
    sampler: Sampler,
    train: CaptionedImages,
    test: CaptionedImages,
    triples: consistency.Triples,
    seed: int,
    bar: Progress,
) -> dict[str, Any]:
    task = bar.add_task("attribute reader", total=test.drawn.reader_steps if test.drawn else None, note="")
    reader = caption_fidelity.train_reader(
        train, sampler.config.size, seed, lambda s: bar.update(task, completed=s + 1)
    )
    found = measure(sampler, train, test, seed, lambda step: None, reader)
    keep = ("caption_fidelity", "novel_caption_fidelity", "unseen_caption_fidelity", "chance")
    agreement = consistency.attribute_agreement(triples, test, reader.read)
    measured = {name: found[name] for name in keep if name in found}
    measured |= {f"agreement_{name}": value for name, value in agreement.items()}
    if test.drawn is not None and test.drawn.likeliest is not None:
        common = consistency.likeliest_agreement(triples, test)
        measured |= {f"likeliest_agreement_{name}": common[name] for name in ("all", "one", "neither")}
    return measured


def _captions(data: CaptionedImages, count: int) -> list[str]:
    n = len(data)
    if count <= n:
        return [data.captions[i][0] for i in data.spread(count)]
    return [data.captions[i % n][(i // n) % len(data.captions[i % n])] for i in range(count)]


def _device(accelerator: str) -> torch.device:
    if accelerator == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("--accelerator cuda: this machine has no CUDA device; take auto or cpu")
    return torch.device(accelerator)


def _table(found: dict[str, Any], record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['data']}: {record['weights']}", title_justify="left")
    for column in ("measure", "value", "95 % interval", "remarks"):
        table.add_column(column)
    for name, value in found.items():
        interval = value.get("interval_95")
        if interval:
            shown = f"{interval[0]:.4g} to {interval[1]:.4g}"
        else:
            shown = f"std {value['std']:.3g}" if "std" in value else ""
        remarks = {k: v for k, v in value.items() if k not in ("value", "interval_95", "each", "std")}
        table.add_row(
            name.replace("_", " "),
            f"{value['value']:.4g}",
            shown,
            ", ".join(f"{k} {v}" for k, v in remarks.items()),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
