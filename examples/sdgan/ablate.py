"""What SCBN and the Siamese loss each bring: ``python -m examples.sdgan.ablate --out runs/ablation``.

For one seed, variants share encoders, batches and noise, and those that differ in the loss only also initial weights;
another norm draws other weights for what is made after it. Results are appended to OUT/results.jsonl as they come; a
second start goes on from there.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from examples.provenance import commit
from examples.sdgan.config import Config, Norm, SiameseOptions
from examples.sdgan.data import DataError
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics import consistency, fid
from examples.sdgan.metrics.birds import as_dict, novel_captions, reworded_captions, unseen_fidelity
from examples.sdgan.metrics.caption_fidelity import caption_fidelity, train_reader
from examples.sdgan.metrics.diversity import diversity
from examples.sdgan.metrics.r_precision import matching_features, r_precision
from examples.sdgan.metrics.sample_size import check_enough
from examples.sdgan.models import checkpoint
from examples.sdgan.presets import preset
from examples.sdgan.training.callbacks import SaveCheckpoint
from examples.sdgan.training.encoders import train_encoders
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.loop import NotFinite
from examples.sdgan.training.trainer import Trainer
from examples.sdgan.training.workspace import Workspace, open_workspace

Record = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One row of the table: the norm, what of the Siamese options differs from the base's (weight 0 = none), attention."""

    norm: Norm
    siamese: dict[str, Any]
    attention: bool = False


OFF: dict[str, Any] = {"weight": 0.0}
ABLATION: dict[str, Variant] = {
    "BN": Variant("batch", OFF),
    "BN + Siamese": Variant("batch", {}),
    "SCBN sentence": Variant("sentence", OFF),
    "SCBN word": Variant("word", OFF),
    "SCBN both": Variant("both", OFF),
    "SCBN both + Siamese": Variant("both", {}),
}
"""The paper's two ideas, alone and together."""

STUDY: dict[str, Variant] = {
    "none": Variant("both", OFF),
    "G and D": Variant("both", {}),
    "G only": Variant("both", {"train_discriminator": False}),
    "D only": Variant("both", {"train_generator": False}),
    "weight 5": Variant("both", {"weight": 5.0}),
    "weight 20": Variant("both", {"weight": 20.0}),
    "G only, weight 20": Variant("both", {"train_discriminator": False, "weight": 20.0}),
    "raw features, weight 5": Variant("both", {"normalize": False, "weight": 5.0}),
    "alpha 0, margin 1.4, weight 5": Variant("both", {"alpha": 0.0, "margin": 1.4, "weight": 5.0}),
    "own noise, none": Variant("both", {"share_noise": False, "weight": 0.0}),
    "own noise, weight 5": Variant("both", {"share_noise": False, "weight": 5.0}),
    "own noise, weight 20": Variant("both", {"share_noise": False, "weight": 20.0}),
}
"""What the Siamese loss needs. "G and D" has weight 1, unit-length features, margin 1, alpha 0.1, one noise a pair."""

ARMS: dict[str, Variant] = {
    "BN": Variant("batch", OFF),
    "BN + attention": Variant("batch", OFF, attention=True),
    "affine": Variant("affine", OFF),
    "CBN": Variant("cbn", OFF),
    "SCBN sentence": Variant("sentence", OFF),
    "SCBN word": Variant("word", OFF),
    "SCBN both": Variant("both", OFF),
    "SCBN both + attention": Variant("both", OFF, attention=True),
}
"""What people use to bring the text in: AttnGAN's attention, DF-GAN's affine, conditional batch norm, and SCBN."""

SETS = {"ablation": ABLATION, "study": STUDY, "arms": ARMS}


def base_config() -> Config:
    """The default run's recipe at 32 px and two stages: what fits a table of many runs on two cores."""
    toy = preset("toy")
    return dataclasses.replace(
        toy,
        size=32,
        batch_size=16,
        steps=600,
        log="none",
        generator=dataclasses.replace(toy.generator, channels=(64, 32)),
        discriminator=dataclasses.replace(toy.discriminator, channels=32),
        siamese=SiameseOptions(weight=1.0),
    )


_PHOTOGRAPHS = dataclasses.replace(
    preset("toy").encoder, words=18, embedding_dim=128, dim=128, dropout=0.2, min_count=2, image="small"
)
"""Encoders for the CUB comparison at 64 px on two cores."""


@dataclass(frozen=True)
class Options:
    """Train every variant of a set with every seed and measure them at equal steps."""

    which: Literal["ablation", "study", "arms"] = "ablation"
    """ablation: the paper's two ideas, alone and together; study: what the Siamese loss needs; arms: SCBN beside what
    people use instead."""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    measure_every: int = 150
    """Steps between measurements: the curves that runs are compared on at equal time and at equal caption fidelity."""
    images: int = 500
    """Images a measurement."""
    variants: tuple[str, ...] = ()
    """Names from the set; all of them by default."""
    encoder_steps: int = 900
    data: Literal["toy", "birds-hard", "cub"] = "toy"
    root: Path | None = None
    """Folder of the data set (cub)."""
    text: str = ""
    """Folder or hub name of a text model of transformers, in the place of the LSTM; a folder of results is of one."""
    out: Path = Path("runs/ablation")
    threads: int = 0
    """Threads torch may use; 0 leaves its own choice. Times are process time: compare runs of one setting only."""


def measure_variant(name: str, variant: Variant, options: Options, trainer: Trainer, tools: Tools) -> Record:
    """Train one variant from the start; returns its record, and leaves its averaged generator beside the results."""
    run = trainer.workspace
    base = run.config
    config = dataclasses.replace(
        base,
        generator=dataclasses.replace(base.generator, norm=variant.norm, attention=variant.attention),
        siamese=dataclasses.replace(base.siamese, **variant.siamese),
    )
    torch.manual_seed(config.seed)
    variant_trainer = Trainer(run.with_config(config))
    gan = GanTraining(run.fabric, config, run.text, run.image)
    points, seconds = [], 0.0
    for stop in range(options.measure_every, options.steps + 1, options.measure_every):
        began = time.process_time()
        variant_trainer.fit(gan, until=stop)
        seconds += time.process_time() - began
        point = tools.measure(run, variant_trainer.sampler(gan))
        points.append({"step": stop, "cpu_seconds": round(seconds, 2), **point})
        run.console.print(f"{name}, seed {base.seed}, step {stop}: {_brief(point)}")
    path = options.out / f"seed-{base.seed}" / f"{name.replace(' ', '_')}.pt"
    checkpoint.save(variant_trainer.state(gan), path, again="start again")
    curves = variant_trainer.history["gan"]
    return {
        "variant": name,
        "seed": base.seed,
        "points": points,
        "generator_parameters": sum(p.numel() for p in gan.generator.parameters()),
        "last_losses": {k: v[-1] for k, v in curves.items()},
        "distances": {k: curves[k] for k in ("step", "distance_same", "distance_other")},
        "config": json.loads(config.to_share()),
        "images": options.images,
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _brief(point: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value['value']:.3f}" for key, value in point.items() if "value" in value)


class Tools:
    """What one seed's variants are measured with: the same reader, captions and noise for all."""

    def __init__(self, run: Workspace, options: Options) -> None:
        self.images, self.seed = options.images, run.config.seed
        self.reader = None
        if run.test.drawn is not None:
            self.reader = train_reader(run.train, run.config.size, self.seed, lambda step: None)
        else:
            self.real = run.test.load_all(run.config.size)

    def measure(self, run: Workspace, sampler: Sampler) -> dict[str, Any]:
        """One point of a variant's curve."""
        data = run.test
        triples = consistency.generate_triples(sampler, data, self.images, self.seed)
        if self.reader is None:
            features = matching_features(run.image)
            captions = [data.captions[i][0] for i in data.spread(self.images)]
            noise = fixed_noise(len(captions), run.config.generator.noise_dim)
            return {
                "matching_distance": fid.matching_distance(features, self.real, sampler.images(captions, noise)),
                "r_precision": r_precision(sampler, run.image, data, self.seed, self.images),
                "distance_ratio": consistency.distance_ratio(triples, features),
                "diversity": diversity(sampler, data, features),
            }
        assert data.labels is not None and data.named is not None and data.drawn is not None
        drawn, names = data.drawn, data.drawn.names
        count = min(self.images, len(data))
        noise = fixed_noise(count, run.config.generator.noise_dim)
        read = self.reader.read(sampler.images([c[0] for c in data.captions[:count]], noise))
        named = [n[0] for n in data.named[:count]]
        captions, strangers, stranger_named = novel_captions(count, self.seed, drawn)
        novel = self.reader.read(sampler.images(captions, noise))
        more: dict[str, Any] = {}
        if drawn.reworded is not None:
            for name, synonyms in (("reworded", False), ("synonym", True)):
                said, strange, what = reworded_captions(count, self.seed, synonyms, drawn)
                found = self.reader.read(sampler.images(said, noise))
                more[f"{name}_caption_fidelity"] = as_dict(caption_fidelity(found, strange, what, names))
        if drawn.likeliest is not None:
            likeliest = consistency.likeliest_agreement(triples, data)
            more |= {f"likeliest_{k}": v for k, v in likeliest.items()}
        if drawn.held_out is not None:
            unseen = unseen_fidelity(sampler, self.reader, count, self.seed, drawn)
            more["unseen_caption_fidelity"] = as_dict(unseen)
        return {
            "caption_fidelity": as_dict(caption_fidelity(read, data.labels[:count], named, names)),
            "novel_caption_fidelity": as_dict(caption_fidelity(novel, strangers, stranger_named, names)),
            **more,
            "distance_ratio": consistency.distance_ratio(triples, self.reader.features),
            **{
                f"agreement_{k}": v
                for k, v in consistency.attribute_agreement(triples, data, self.reader.read).items()
            },
            "diversity": diversity(sampler, data, self.reader.features),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for bad options or data."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.sdgan.ablate")
    try:
        go(options, console)
    except (DataError, NotFinite, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    return 0


def go(options: Options, console: Console) -> None:
    """Train and measure what results.jsonl does not hold yet."""
    variants = SETS[options.which]
    unknown = set(options.variants) - variants.keys()
    if unknown:
        raise ValueError(f"--variants {sorted(unknown)}: the set {options.which} has {list(variants)}")
    if options.measure_every < 1 or options.steps % options.measure_every:
        raise ValueError(
            f"--steps must be a multiple of --measure-every, got {options.steps} and {options.measure_every}"
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    records = read_results(results)
    _same_options(records, options, results)
    done = {(r["variant"], r["seed"]) for r in records}
    # Seeds outside: an unfinished table then holds whole seeds.
    for seed in options.seeds:
        left = [name for name in options.variants or variants if (name, seed) not in done]
        if not left:
            continue
        with open_trainer(options, seed, console) as trainer:
            tools = Tools(trainer.workspace, options)
            for name in left:
                record = measure_variant(name, variants[name], options, trainer, tools)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record, allow_nan=True) + "\n")
    console.print(f"done: {results}")


def _same_options(records: list[dict[str, Any]], options: Options, path: Path) -> None:
    """A table is of one recipe: rows of other steps or data are refused, not mixed in or taken for done."""
    # A record has no folder of this machine: of a text model's the name.
    named = Path(options.text).name if options.text and Path(options.text).is_dir() else options.text
    wanted = list(range(options.measure_every, options.steps + 1, options.measure_every))
    for number, record in enumerate(records, 1):
        had = [point["step"] for point in record["points"]]
        data, images = record["config"]["data"], record.get("images", options.images)
        encoder_steps, text = record["config"]["encoder_steps"], record["config"]["encoder"].get("text", "")
        asked = (wanted, options.data, options.images, options.encoder_steps, named)
        if (had, data, images, encoder_steps, text) != asked:
            raise ValueError(
                f"{path}, line {number}: measured at steps {had} of {data}, {images} images, {encoder_steps} encoder "
                f"steps, --text {text!r}, but asked are {asked[0]} of {asked[1]}, {asked[2]}, {asked[3]}, {asked[4]!r}; "
                "take another --out"
            )


def open_trainer(options: Options, seed: int, console: Console) -> Trainer:
    """A trainer whose encoders are trained, or loaded where an earlier start trained them."""
    out = options.out / f"seed-{seed}"
    config = base_config()
    if options.data == "cub":
        config = dataclasses.replace(config, data="cub", root=options.root, size=64, encoder=_PHOTOGRAPHS)
    if options.data == "birds-hard":
        config = dataclasses.replace(config, data="birds-hard", size=64)
    config = dataclasses.replace(
        config,
        encoder=dataclasses.replace(config.encoder, text=options.text),
        seed=seed,
        steps=options.steps,
        encoder_steps=options.encoder_steps,
        out=out,
        resume=(out / "checkpoint.pt").is_file(),
    )
    trainer = Trainer(open_workspace(config, console, again="start again"), [SaveCheckpoint()])
    # Before anything is trained that cannot be measured.
    check_enough(trainer.workspace.test, options.images)
    train_encoders(trainer)
    return trainer


def read_results(path: Path) -> list[dict[str, Any]]:
    """The records of results.jsonl; none where there is no such file."""
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            needed = {key: record[key] for key in ("variant", "seed", "points", "config")}
            records.append({**record, **needed})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}: no record of a run; remove the line to run it again"
            ) from error
    return records


if __name__ == "__main__":
    sys.exit(main())
