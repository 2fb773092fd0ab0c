"""What conditioning costs on this machine: ``python -m benchmarks``; see ``--help``."""

from __future__ import annotations

import dataclasses
import fnmatch
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.candidates import BASELINE, CANDIDATES
from benchmarks.generator import measure_generator
from benchmarks.growth import growth
from benchmarks.report import table, write
from benchmarks.run import DTYPES, Row, Shape, measure
from benchmarks.timing import Setting, copy_bandwidth
from examples.provenance import commit, machine

SHAPES: dict[str, tuple[Shape, ...]] = {
    "cpu": ((8, 64, 128, 128), (16, 128, 64, 64), (4, 64, 256, 256)),
    "cuda": ((20, 64, 256, 256), (20, 128, 128, 128), (20, 256, 64, 64)),
}


@dataclass(frozen=True)
class Options:
    """Time the layers against plain BatchNorm2d, the formula as written, and other conditional norms."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    layout: Literal["contiguous", "channels_last"] = "contiguous"
    """Of x in memory; the trainer runs channels_last."""
    allocator: Literal["trimmed", "warm"] = "trimmed"
    """trimmed: free memory goes back to the system before each timing; warm: the call has just run."""
    shapes: tuple[Shape, ...] = ()
    """Of x: samples, channels, height, width; by default what suits the device."""
    candidates: tuple[str, ...] = ("*",)
    """Names or patterns; the baseline always runs."""
    words: int = 18
    rounds: int = 9
    threads: int = 1
    growth: bool = False
    """Also measure how a step grows with T, C, H and N."""
    generator: bool = False
    """Also measure the whole generator at 64, 128 and 256 px."""
    quick: bool = False
    """One small shape, three rounds and the candidates that matter most: within a minute."""
    out: Path = Path("runs/benchmarks")
    """Folder for results.json, results.csv and the pictures."""


def main() -> int:
    """Run, print the table, write JSON, CSV and pictures."""
    options = tyro.cli(Options, prog="python -m benchmarks")
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch sees no GPU here; leave the option out to use the CPU", file=sys.stderr)
        return 2
    chosen = [c for c in CANDIDATES if c.name == BASELINE or _matches(c.name, options.candidates)]
    if len(chosen) == 1 and BASELINE not in options.candidates:
        names = "\n  ".join(c.name for c in CANDIDATES)
        print(
            f"--candidates {' '.join(options.candidates)}: no such candidate; there are\n  {names}",
            file=sys.stderr,
        )
        return 2
    if options.quick:
        options = dataclasses.replace(options, shapes=((4, 64, 64, 64),), rounds=3)
        chosen = [c for c in chosen if c.cost == 0]
    torch.set_num_threads(options.threads)
    setting = Setting(
        device, options.dtype, options.words, options.rounds, options.threads, options.layout, options.allocator
    )
    console = Console()
    rows: list[Row] = []
    generator: list[Row] = []
    panels: dict[str, list[tuple[int, Row]]] = {}
    progress = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console)
    with progress:
        task = progress.add_task("the machine's copy bandwidth", total=None)

        def say(text: str) -> None:
            progress.update(task, description=text)

        limit = copy_bandwidth(setting)
        for shape in options.shapes or SHAPES[device]:
            rows += measure(shape, chosen, setting, lambda s, shape=shape: say(f"{shape}: {s}"))
        if options.generator:
            samples, channels = (20, 32) if device == "cuda" else (2, 32)
            generator = measure_generator(setting, samples, channels, say)
        if options.growth:
            panels = growth(setting, say)
    about: dict[str, Any] = {
        "machine": machine(device),
        "torch": torch.__version__,
        "commit": commit(),
        **dataclasses.asdict(setting),
        "copy_bytes_per_second": limit,
    }
    itemsize = DTYPES[options.dtype].itemsize
    console.print(table(rows, itemsize))
    if generator:
        console.print(table(generator, itemsize, base="generator, plain"))
    write(options.out, about, rows, generator, panels, itemsize)
    console.print(f"done: look at results.png, bandwidth.png and results.csv in {options.out.resolve()}")
    return 0


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


if __name__ == "__main__":
    sys.exit(main())
