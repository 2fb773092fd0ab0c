"""The command line: a sample of all faults, each against the tests that should see it."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

# Before the fork, so that no mutant pays for it.
import einops  # noqa: F401
import hypothesis  # noqa: F401
import pytest
import torch
import torch._dynamo

from .explained import why_equal
from .mutants import Mutant, mutants
from .tests import FILES, quick, slower

ROOT = Path(__file__).resolve().parents[2]
# Hypothesis is imported by now, which pytest would warn of.
PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
SECONDS = 900
OUTPUT = "output.txt"
KILLED = ("killed", "killed by a slower test")
COPY = Path()
PLACE = ("file", "line", "before", "after")


def main() -> None:
    """Draw a sample, try each fault in a process of its own, write down which were seen."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description=sys.modules[__package__ or ""].__doc__
    )
    parser.add_argument("--sample", type=int, help="how many faults; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="*", default=sorted(FILES), help="as in scbn/, without .py")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after, with what is done by then"
    )
    parser.add_argument("--again", type=Path, help="an earlier --out: try what was not killed there, then go on")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = [m for name in options.files for m in mutants(name, (ROOT / f"scbn/{name}.py").read_text())]
    chosen = random.Random(options.seed).sample(found, min(options.sample or len(found), len(found)))
    results: list[dict[str, Any]] = []
    if options.again:
        earlier = json.loads(options.again.read_text())
        left = {tuple(s[part] for part in PLACE) for s in earlier["survivors"]}
        for name, counts in earlier["files"].items():
            results += [{"file": name, "outcome": told} for told in KILLED for _ in range(counts.get(told, 0))]
        rest = chosen[earlier["tried"] :]
        chosen = [m for m in chosen if (f"scbn/{m.path}.py", m.line, m.before, m.after) in left] + rest
    paths = sorted({mutant.path for mutant in chosen})
    with tempfile.TemporaryDirectory() as folder:
        _copy(folder)
        _must_pass(sorted({argument for path in paths for argument in slower(path)}))
        begun = time.monotonic()
        # Its workers may have children of their own, which the tests of distributed training start.
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(options.jobs, fork, _begin, (folder, paths)) as pool:
            for done, result in enumerate(pool.map(_try, chosen), 1):
                results.append(result)
                seconds = time.monotonic() - begun
                told = dict(Counter(result["outcome"] for result in results))
                print(f"{done} of {len(chosen)} faults, {seconds:.0f} s: {told}; {_line(result)}", flush=True)
                if options.out:
                    report = _report(options, len(found), results, seconds)
                    options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
                if seconds > 60 * options.minutes:
                    pool.shutdown(cancel_futures=True)
                    break


def _begin(folder: str, paths: list[str]) -> None:
    _copy(folder)
    for tests in {tuple(quick(path)) for path in paths}:
        _must_pass(list(tests))


def _copy(folder: str) -> None:
    """The project once more, for this process alone."""
    global COPY
    COPY = Path(folder) / str(os.getpid()) / "scbn-mutated"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in tracked.stdout.splitlines():
        if not name.startswith("docs/images/") and (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, COPY / name)


def _must_pass(tests: list[str]) -> None:
    if not _passes(tests):
        print((COPY.parent / OUTPUT).read_text(), flush=True)
        raise RuntimeError(f"the tests fail without a fault: pytest {' '.join(tests)}")


def _try(mutant: Mutant) -> dict[str, Any]:
    told = {
        "file": f"scbn/{mutant.path}.py",
        "line": mutant.line,
        "within": mutant.within,
        "before": mutant.before,
        "after": mutant.after,
    }
    target = COPY / told["file"]
    kept = target.read_text()
    target.write_text(mutant.source)
    try:
        for outcome, tests in zip(KILLED, (quick(mutant.path), slower(mutant.path)), strict=True):
            if not _passes(tests):
                return {**told, "outcome": outcome}
    finally:
        target.write_text(kept)
    why = why_equal(told["file"], mutant.within, mutant.before, mutant.after)
    return {**told, "outcome": "explained", "why": why} if why else {**told, "outcome": "survived"}


def _passes(tests: list[str]) -> bool:
    """Whether the tests pass in the copy; a run without an end is a failure."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os._exit(_child(tests))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _child(tests: list[str]) -> int:
    os.chdir(COPY)
    sys.dont_write_bytecode = True  # a file changed twice within a second would keep its bytecode
    sys.path[:] = [str(COPY), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "scbn")]:
        del sys.modules[name]
    told = os.open(COPY.parent / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    torch.set_num_threads(1)
    try:
        return int(pytest.main([*PYTEST, *tests]))
    except BaseException:
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _line(result: dict[str, Any]) -> str:
    return f"{result['outcome']} {result['file']}:{result['line']} {result['before']!r} -> {result['after']!r}"[
        :200
    ]


def _report(
    options: argparse.Namespace, count: int, results: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    files: dict[str, Counter[str]] = {}
    for result in results:
        files.setdefault(result["file"], Counter())[result["outcome"]] += 1
    told = Counter(result["outcome"] for result in results)
    return {
        "command": f"python -m tests.mutation --sample {options.sample or count} --seed {options.seed}",
        "commit": commit.stdout.strip(),
        "faults": count,
        "tried": len(results),
        "outcomes": dict(told),
        "seconds": round(seconds),
        "files": {name: dict(counts) for name, counts in sorted(files.items())},
        "survivors": [result for result in results if result["outcome"] not in KILLED],
    }


if __name__ == "__main__":
    main()
