"""Time and memory of a training step against batch, size and caption length: ``python -m benchmarks.scale``.

Each setting is a process of its own, so that its peak of memory is its own; two processes share statistics and gradients
over gloo, with one thread each.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
import tyro
from rich.console import Console
from rich.table import Table

from examples.provenance import commit, machine
from examples.sdgan.config import Config
from examples.sdgan.data.pairs import PairBatch
from examples.sdgan.models.encoders import SmallImageEncoder, TextEncoder
from examples.sdgan.presets import preset
from examples.sdgan.training.distributed import leave, make_fabric
from examples.sdgan.training.gan import GanTraining

START = {"pairs": 8, "size": 64, "words": 18}
VALUES = {"pairs": (2, 4, 8, 16, 32), "size": (32, 64, 128), "words": (4, 18, 36, 72)}
_WARM, _VOCABULARY = 2, 500


@dataclass(frozen=True)
class Options:
    """Step time and peak memory of the default run's recipe, one axis at a time, and two processes beside one."""

    steps: int = 7
    """Timed steps of a setting."""
    out: Path = Path("runs/benchmarks")
    """Folder for scale.json and scale.png."""
    one: str = ""
    """A setting as JSON: measure it in this process and print the result. The command calls itself so."""


def setting_config(setting: dict[str, int], processes: int = 1) -> Config:
    """The default run's recipe; pairs are each process's."""
    toy = preset("toy")
    return dataclasses.replace(
        toy,
        size=setting["size"],
        batch_size=setting["pairs"] * processes,
        devices=processes,
        accelerator="cpu",
        sync_batch_norm=processes > 1,
        encoder=dataclasses.replace(toy.encoder, words=setting["words"]),
    )


def measure_here(setting: dict[str, int], steps: int) -> dict[str, Any]:
    """Seconds of each step, and the process's peak of resident memory in MiB."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    config = setting_config(setting, processes)
    fabric = make_fabric(config)
    torch.manual_seed(0)
    text, image = TextEncoder(_VOCABULARY, config.encoder), SmallImageEncoder(config.encoder.dim)
    gan = GanTraining(fabric, config, text, image)
    n = 2 * setting["pairs"]
    tokens = torch.randint(2, _VOCABULARY, (n, setting["words"]))
    which, same = torch.arange(n), torch.arange(setting["pairs"]) % 2 == 0
    pixels = torch.randint(256, (n, 3, config.size, config.size), dtype=torch.uint8)
    batch = PairBatch(pixels, tokens, same, which, which, tokens.numpy())
    times = []
    for step in range(_WARM + steps):
        began = time.perf_counter()
        gan.step(step, batch)
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": times[_WARM:], "peak_mib": round(peak), "processes": processes, **setting}


def run_apart(setting: dict[str, int], steps: int, processes: int = 1) -> dict[str, Any]:
    """The same in a process of its own, or in several."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    call = ["-m", *(launcher if processes > 1 else []), *(["-m"] if processes > 1 else []), "benchmarks.scale"]
    command = [sys.executable, *call, "--one", json.dumps(setting), "--steps", str(steps)]
    told = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    lines = [line for line in told.stdout.splitlines() if line.startswith("{")]
    if told.returncode or not lines:
        raise ValueError(f"{setting}, {processes} processes: {told.stderr.strip()[-500:]}")
    return json.loads(lines[0])


def main() -> int:
    """Measure, print, write JSON and picture."""
    options = tyro.cli(Options, prog="python -m benchmarks.scale")
    console = Console(soft_wrap=True)
    if options.one:
        found = measure_here(json.loads(options.one), options.steps)
        if int(os.environ.get("RANK", "0")) == 0:
            print(json.dumps(found))
        leave()
        return 0
    try:
        record = _everything(options, console)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scale.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot(record, options.out / "scale.png")
    console.print(f"done: look at scale.png and scale.json in {options.out.resolve()}")
    return 0


def _everything(options: Options, console: Console) -> dict[str, Any]:
    axes: dict[str, list[dict[str, Any]]] = {}
    for axis, values in VALUES.items():
        axes[axis] = []
        for value in values:
            axes[axis].append(run_apart({**START, axis: value}, options.steps))
            console.print(_line(axes[axis][-1]), highlight=False)
    several = [run_apart(START, options.steps, processes) for processes in (1, 2)]
    table = Table("processes", "pairs each", "s a step", "images/s", "efficiency")
    rate = [2 * START["pairs"] * r["processes"] / median(r["seconds"]) for r in several]
    for r, images in zip(several, rate, strict=True):
        share = images / (rate[0] * r["processes"])
        table.add_row(
            str(r["processes"]), str(r["pairs"]), f"{median(r['seconds']):.3f}", f"{images:.1f}", f"{share:.0%}"
        )
    console.print(table)
    about = {"machine": machine("cpu"), "torch": torch.__version__, "commit": commit(), "threads": 1}
    return {**about, "axes": axes, "processes": several}


def _line(r: dict[str, Any]) -> str:
    low, high = min(r["seconds"]), max(r["seconds"])
    return (
        f"{r['pairs']} pairs, {r['size']} px, {r['words']} words: {median(r['seconds']):.3f} s ({low:.3f} to {high:.3f}), "
        f"{r['peak_mib']:,} MiB"
    )


def plot(record: dict[str, Any], path: Path) -> None:
    """Time and memory along each axis, and images a second of one and two processes."""
    figure, panels = plt.subplots(1, 4, figsize=(13, 3.2))
    for panel, (axis, points) in zip(panels, record["axes"].items(), strict=False):
        at = [p[axis] for p in points]
        panel.plot(at, [median(p["seconds"]) for p in points], "o-", color="C0")
        panel.fill_between(
            at, *([pick(p["seconds"]) for p in points] for pick in (min, max)), color="C0", alpha=0.2
        )
        panel.set_ylabel("s a step", color="C0", fontsize=8)
        panel.set(xlabel=axis, xscale="log", ylim=(0, None))
        panel.set_xticks(at, list(map(str, at)))
        panel.minorticks_off()
        other = panel.twinx()
        other.plot(at, [p["peak_mib"] / 1024 for p in points], "s--", color="C1")
        other.set_ylabel("peak GiB", color="C1", fontsize=8)
        other.set_ylim(0, None)
    rates = [[2 * r["pairs"] * r["processes"] / s for s in r["seconds"]] for r in record["processes"]]
    names = [str(r["processes"]) for r in record["processes"]]
    panels[3].bar(names, [median(r) for r in rates], color="C0")
    panels[3].plot(names, [median(rates[0]) * r["processes"] for r in record["processes"]], "k_", markersize=30)
    panels[3].set(xlabel="processes (line: ideal)", ylabel="images/s")
    told = f"{START['pairs']} pairs, {START['size']} px, {START['words']} words"
    figure.suptitle(
        f"A training step from {told}; {record['machine']}, one thread, commit {record['commit']}", fontsize=9
    )
    figure.tight_layout(pad=0.7)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
