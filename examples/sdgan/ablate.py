"""What SCBN and the Siamese loss each bring: ``python -m examples.sdgan.ablate --out runs/ablation``.

For one seed, variants share encoders, batches and noise, and those that differ in the loss only also initial weights;
another norm draws other weights for what is made after it. Results are appended to OUT/results.jsonl as they come; a
second start goes on from there.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from examples.sdgan import checkpoint, consistency, distribution, fidelity
from examples.sdgan.config import Config, SiameseOptions, preset
from examples.sdgan.data import DataError
from examples.sdgan.diversity import diversity
from examples.sdgan.enough import check_enough
from examples.sdgan.gan import GanTraining
from examples.sdgan.loop import NotFinite
from examples.sdgan.measure import as_dict, novel_captions
from examples.sdgan.pictures import standing_noise
from examples.sdgan.retrieval import matching_features, r_precision
from examples.sdgan.run import Run

Norm = Literal["batch", "sentence", "word", "both"]


@dataclass(frozen=True)
class Variant:
    """One row of the table: the norm, and what of the Siamese options differs from the base's (weight 0 = none)."""

    norm: Norm
    siamese: dict[str, Any]


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

SETS = {"ablation": ABLATION, "study": STUDY}


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

    which: Literal["ablation", "study"] = "ablation"
    """ablation: the paper's two ideas, alone and together; study: what the Siamese loss needs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    measure_every: int = 150
    """Steps between measurements: the curves that runs are compared on at equal time and at equal fidelity."""
    images: int = 500
    """Images a measurement."""
    variants: tuple[str, ...] = ()
    """Names from the set; all of them by default."""
    encoder_steps: int = 900
    data: Literal["toy", "cub"] = "toy"
    root: Path | None = None
    """Folder of the data set (cub)."""
    out: Path = Path("runs/ablation")
    threads: int = 0
    """Threads torch may use; 0 leaves its own choice. Times are process time: compare runs of one setting only."""


class AblationRun(Run):
    """Encoders of one seed, and the variants trained with them."""

    base_config: Config
    again = "start again"

    def measure_variant(self, name: str, variant: Variant, options: Options, tools: Tools) -> dict[str, Any]:
        """Train one variant from the start; returns its record."""
        base = self.base_config
        self.config = dataclasses.replace(
            base,
            generator=dataclasses.replace(base.generator, norm=variant.norm),
            siamese=dataclasses.replace(base.siamese, **variant.siamese),
        )
        torch.manual_seed(self.config.seed)
        self.gan = GanTraining(self.fabric, self.config, self.text, self.image)
        self.gan_step, self.sampler, self.history = 0, None, {}
        points, seconds = [], 0.0
        for stop in range(options.measure_every, options.steps + 1, options.measure_every):
            began = time.process_time()
            self.train_generator("gan", stop)
            seconds += time.process_time() - began
            point = tools.measure(self)
            points.append({"step": stop, "cpu_seconds": round(seconds, 2), **point})
            self.console.print(f"{name}, seed {base.seed}, step {stop}: {_brief(point)}")
        parameters = sum(p.numel() for p in self.gan.generator.parameters())
        curves = {k: v[-1] for k, v in self.history["gan"].items()}
        return {
            "variant": name,
            "seed": base.seed,
            "points": points,
            "generator_parameters": parameters,
            "last_losses": curves,
            "distances": {k: self.history["gan"][k] for k in ("step", "distance_same", "distance_other")},
            "config": json.loads(self.config.to_json()),
        }

    def save(self) -> None:
        """Encoders only: a variant is trained in one go, and its record is what stays."""
        if self.gan is None:
            super().save()

    def _draw(self, phase: str) -> None:
        """The pictures are made of the records' last generators, see ``keep_generator``."""

    def keep_generator(self, path: Path) -> None:
        """The last variant's averaged generator, as a checkpoint that the sampler reads."""
        checkpoint.save({**self.state(), "config": self.config.to_json()}, path)


def _brief(point: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value['value']:.3f}" for key, value in point.items() if "value" in value)


class Tools:
    """What one seed's variants are measured with: the same reader, captions and noise for all."""

    def __init__(self, run: Run, options: Options) -> None:
        self.images, self.seed = options.images, run.config.seed
        self.reader = None
        if run.config.data == "toy":
            self.reader = fidelity.train_reader(run.train, run.config.size, self.seed, lambda step: None)
        else:
            self.real = run.test.load_all(run.config.size)

    def measure(self, run: Run) -> dict[str, Any]:
        """One point of a variant's curve."""
        sampler, data = run.snapshot(), run.test
        triples = consistency.generate_triples(sampler, data, self.images, self.seed)
        if self.reader is None:
            features = matching_features(run.image)
            captions = [data.captions[i][0] for i in data.spread(self.images)]
            noise = standing_noise(len(captions), run.config.generator.noise_dim)
            return {
                "matching_distance": distribution.matching_distance(
                    features, self.real, sampler.images(captions, noise)
                ),
                "r_precision": r_precision(sampler, run.image, data, self.seed, self.images),
                "distance_ratio": consistency.distance_ratio(triples, features),
                "diversity": diversity(sampler, data, features),
            }
        assert data.labels is not None and data.named is not None
        count = min(self.images, len(data))
        noise = standing_noise(count, run.config.generator.noise_dim)
        read = self.reader.read(sampler.images([c[0] for c in data.captions[:count]], noise))
        named = [n[0] for n in data.named[:count]]
        captions, strangers, stranger_named = novel_captions(count, self.seed)
        novel = self.reader.read(sampler.images(captions, noise))
        return {
            "fidelity": as_dict(fidelity.fidelity(read, data.labels[:count], named)),
            "novel_fidelity": as_dict(fidelity.fidelity(novel, strangers, stranger_named)),
            "distance_ratio": consistency.distance_ratio(triples, self.reader.features),
            **{
                f"agreement_{k}": v
                for k, v in consistency.attribute_agreement(triples, data, self.reader.read).items()
            },
            **{f"likeliest_{k}": v for k, v in consistency.likeliest_agreement(triples, data).items()},
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
        run = open_run(options, seed, console)
        tools = Tools(run, options)
        for name in left:
            record = run.measure_variant(name, variants[name], options, tools)
            run.keep_generator(options.out / f"seed-{seed}" / f"{name.replace(' ', '_')}.pt")
            record |= {
                "images": options.images,
                "commit": commit(),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
            }
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=True) + "\n")
    console.print(f"done: {results}")


def _same_options(records: list[dict[str, Any]], options: Options, path: Path) -> None:
    """A table is of one recipe: rows of other steps or data are refused, not mixed in or taken for done."""
    wanted = list(range(options.measure_every, options.steps + 1, options.measure_every))
    for number, record in enumerate(records, 1):
        had = [point["step"] for point in record["points"]]
        data, images = record["config"]["data"], record.get("images", options.images)
        encoder_steps = record["config"]["encoder_steps"]
        asked = (wanted, options.data, options.images, options.encoder_steps)
        if (had, data, images, encoder_steps) != asked:
            raise ValueError(
                f"{path}, line {number}: measured at steps {had} of {data}, {images} images, {encoder_steps} encoder "
                f"steps, but asked are {asked[0]} of {asked[1]}, {asked[2]}, {asked[3]}; take another --out"
            )


def open_run(options: Options, seed: int, console: Console) -> AblationRun:
    """A run whose encoders are trained, or loaded where an earlier start trained them."""
    out = options.out / f"seed-{seed}"
    config = base_config()
    if options.data == "cub":
        config = dataclasses.replace(config, data="cub", root=options.root, size=64, encoder=_PHOTOGRAPHS)
    config = dataclasses.replace(
        config, seed=seed, steps=options.steps, encoder_steps=options.encoder_steps, out=out
    )
    if (out / "checkpoint.pt").is_file():
        config = dataclasses.replace(config, resume=True)
    out.mkdir(parents=True, exist_ok=True)
    run = AblationRun(config, console)
    run.base_config = config
    # Before anything is trained that cannot be measured.
    check_enough(run.test, options.images)
    run.train_encoders()
    return run


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


def commit() -> str:
    """The commit that ran, with ``-dirty`` where files differed from it; ``unknown`` outside a checkout."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
