"""Disentangling of an ablation's kept models: ``python -m examples.sdgan.edits --runs runs/arms``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from examples.sdgan.ablate import read_results
from examples.sdgan.data import open_data
from examples.sdgan.data.drawn import DRAWN
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.metrics.caption_fidelity import AttributeReader, train_reader
from examples.sdgan.metrics.edits import edits, of_drawings
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.report import last_table

MEASURES = ("edit_success", "edit_leakage", "edit_outside", "binding")


@dataclass(frozen=True)
class Options:
    """Swap one word of captions of the drawn birds, and measure what changes.

    Writes RUNS/edits.jsonl and, as a table over seeds, RUNS/edits.md.
    """

    runs: Path
    """Folder of an ablation on the drawn birds, with its models."""
    images: int = 500
    """Birds; each is generated four times."""


def measure(options: Options, console: Console) -> Iterator[dict[str, Any]]:
    """A record for each model that was kept, with its last point, and one of the drawings for each seed.

    Raises:
        ValueError: there are no results, no models, or they are not of the drawn birds.
        CheckpointError: a model is broken.
    """
    if options.images < 20:
        raise ValueError(f"--images must be at least 20 for an interval to mean anything, got {options.images}")
    records = read_results(options.runs / "results.jsonl")
    if not records:
        raise ValueError(f"{options.runs}: no results; run python -m examples.sdgan.ablate first")
    if not {record["config"]["data"] for record in records} <= DRAWN.keys():
        raise ValueError(f"{options.runs}: only of the drawn birds does a classifier know every part")
    kept, readers = False, {}
    for record in sorted(records, key=lambda r: (r["seed"], r["variant"])):
        seed, name = record["seed"], record["variant"]
        path = options.runs / f"seed-{seed}" / f"{name.replace(' ', '_')}.pt"
        if not path.is_file():
            console.print(f"{path}: not kept, left out")
            continue
        sampler = load_sampler(path)
        drawn = DRAWN[sampler.config.data]
        if seed not in readers:
            readers[seed] = _reader(sampler.config, seed)
            real = of_drawings(readers[seed], options.images, seed, sampler.config.size, drawn)
            yield {**_last(record, real), "variant": "the drawings", "generator_parameters": 0}
        found = edits(sampler, readers[seed], options.images, seed, drawn)
        console.print(f"{name}, seed {seed}: " + ", ".join(f"{key} {found[key]['value']:.3f}" for key in MEASURES))
        kept = True
        yield _last(record, found)
    if not kept:
        raise ValueError(f"{options.runs}: none of its models was kept")


def _reader(config: Any, seed: int) -> AttributeReader:
    train, _ = open_data(config)
    return train_reader(train, config.size, seed, lambda step: None)


def _last(record: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    point = record["points"][-1]
    kept = {key: record[key] for key in ("seed", "commit", "torch", "threads") if key in record}
    # Older records have folders of the machine in their options.
    kept["config"] = {**record["config"], "root": None, "out": Path(record["config"].get("out", "")).name}
    parameters = record.get("generator_parameters", 0)
    times = {key: point[key] for key in ("step", "cpu_seconds")}
    return {
        "variant": record["variant"],
        **kept,
        "generator_parameters": parameters,
        "points": [{**times, **found}],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 where there is nothing to measure."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.sdgan.edits")
    try:
        found = []
        draft = options.runs / "edits.jsonl.part"
        for record in measure(options, console):
            found.append(record)
            draft.write_text("".join(json.dumps(each) + "\n" for each in found), encoding="utf-8")
        draft.replace(options.runs / "edits.jsonl")
        table = last_table(found, MEASURES)
        (options.runs / "edits.md").write_text(table + "\n", encoding="utf-8")
        console.print(table)
    except (CheckpointError, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    console.print(f"done: {options.runs / 'edits.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
