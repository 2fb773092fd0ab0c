"""What conditioning costs on this machine: ``python -m benchmarks``; see ``--help``."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.plot import plot, ratios
from benchmarks.run import Row, Shape, measure


@dataclass(frozen=True)
class Options:
    """Time the layers on the CPU against plain BatchNorm2d and against the formula as written."""

    shapes: tuple[Shape, ...] = ((8, 64, 128, 128), (16, 128, 64, 64), (4, 64, 256, 256))
    """Of x: samples, channels, height, width."""
    words: int = 18
    rounds: int = 9
    threads: int = 1
    quick: bool = False
    """One small shape and three rounds: within a minute."""
    out: Path = Path("runs/benchmarks")
    """Folder for results.json and results.png."""


def main() -> int:
    """Run, print the table, write JSON and picture."""
    options = tyro.cli(Options, prog="python -m benchmarks")
    if options.quick:
        options = dataclasses.replace(options, shapes=((4, 64, 64, 64),), rounds=3)
    torch.set_num_threads(options.threads)
    console = Console()
    rows: list[Row] = []
    with console.status("starting") as status:
        for shape in options.shapes:
            rows += measure(
                shape, options.words, options.rounds, lambda s, shape=shape: status.update(f"{shape}: {s}")
            )
    console.print(table(rows))
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "machine": machine(),
        "torch": torch.__version__,
        "commit": commit(),
        "threads": options.threads,
        "words": options.words,
        "rounds": options.rounds,
        "dtype": "float32",
        "allocator": "default",
    }
    content = {**about, "rows": [dataclasses.asdict(row) for row in rows]}
    (options.out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    title = (
        f"{about['machine']}, {options.threads} thread(s), torch {torch.__version__}, T = {options.words}, float32"
    )
    plot(rows, options.out / "results.png", title)
    console.print(f"done: look at results.png and results.json in {options.out.resolve()}")
    return 0


def table(rows: list[Row]) -> Table:
    """Medians over rounds of the ratio to BatchNorm2d in the same round, with the range."""
    result = Table("shape", "contender", "step / BN", "inference / BN", "kept / |x|", "error to oracle")
    for row in rows:
        base = next(r for r in rows if r.shape == row.shape and r.contender == "BatchNorm2d")
        size = 4 * torch.Size(row.shape).numel()
        cells = [_spread(ratios(row, base, what)) for what in ("step", "inference")]
        error = "" if row.error is None else f"{row.error:.0e}"
        result.add_row("x".join(map(str, row.shape)), row.contender, *cells, f"{row.kept / size:.2f}", error)
    return result


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def machine() -> str:
    """The processor's name, where the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        if names:
            return f"{names[0]} ({len(names)} cores)"
    return platform.processor() or platform.machine()


def commit() -> str:
    """The commit of this checkout, if it is one."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
