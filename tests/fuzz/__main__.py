"""The command line: progress on the terminal, counts in a file."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton: its kernels run, interpreted, on the CPU

import torch

from .runner import Tally, one, run

CHUNK = 500


def main() -> int:
    """Run the calls, write the counts; the exit status is 1 where something was found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=sys.modules[__package__ or ""].__doc__
    )
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first call")
    parser.add_argument("--out", type=Path, help="JSON with the counts and the findings")
    parser.add_argument("--only", type=int, help="make this one call, and show it")
    options = parser.parse_args()
    if options.only is not None:
        call, verdict = one(options.seed, options.only)
        print(f"{call.function}: {call.about}\n{verdict.outcome}: {verdict.detail}")
        return int(verdict.finding)
    total, begun, done = Tally(), time.monotonic(), 0
    for first in range(options.start, options.start + options.calls, CHUNK):
        numbers = range(first, min(first + CHUNK, options.start + options.calls))
        total.merge(_in_a_process(numbers, options.seed))
        done += len(numbers)
        seconds = time.monotonic() - begun
        left = seconds / done * (options.calls - done)
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(total.outcomes.items()))
        print(f"{done:,} of {options.calls:,} calls, {seconds:.0f} s, {left:.0f} s left: {counts}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(_report(total, options, done, seconds), indent=1) + "\n")
    for found in total.findings[:20]:
        print(json.dumps(found, indent=1))
    return int(bool(total.findings))


def _in_a_process(numbers: range, seed: int) -> Tally:
    """The calls in a process of their own: one that dies is a finding like any other."""
    context: Any = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    at = context.Value("q", numbers.start)

    def work() -> None:
        there.send(run(numbers, seed, started=lambda number: setattr(at, "value", number)))

    child = context.Process(target=work)
    child.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        child.join()
        finding = {"number": at.value, "outcome": "crash", "detail": f"exit status {child.exitcode}"}
        return Tally(Counter({"crash": 1, "lost with a crash": len(numbers) - 1}), {}, [finding])
    finally:
        child.join()


def _report(tally: Tally, options: argparse.Namespace, done: int, seconds: float) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    command = f"python -m tests.fuzz --calls {options.calls} --seed {options.seed}"
    return {
        "command": command + (f" --start {options.start}" if options.start else ""),
        "commit": commit.stdout.strip(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "calls": done,
        "seconds": round(seconds),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "functions": {name: dict(sorted(counts.items())) for name, counts in sorted(tally.functions.items())},
        "findings": tally.findings,
    }


if __name__ == "__main__":
    sys.exit(main())
