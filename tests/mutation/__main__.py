"""The command line: a sample of all faults, each against the tests that should see it."""

from __future__ import annotations

import argparse
import json
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

ROOT = Path(__file__).resolve().parents[2]
# What takes seconds and sees no more than the others do.
# Hypothesis is imported by now, which pytest would warn of.
QUICK = [
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
    "-k",
    "(called_after or not compile) and not exports and not broken and not reach and not sparse_ and not gradgradcheck",
]
MATHS = ["errors", "corners", "more_corners", "oracle", "behaviour", "fuzz"]
OPS = ["errors", "corners", "more_corners", "oracle", "ops", "fuzz"]
MODEL = ["errors", "corners", "more_corners", "tree", "fuzz"]
RETROFIT = ["corners", "more_corners", "retrofit_errors", "retrofit", "fuzz"]
FILES = {
    **dict.fromkeys(("functional", "attention", "word", "sentence", "norm", "text"), MATHS),
    **dict.fromkeys(("ops/__init__", "ops/composed", "ops/tiles", "ops/tiled_word", "ops/tiled_sentence"), OPS),
    **dict.fromkeys(("ops/fused_word", "ops/fused_sentence"), OPS),
    "checks": ["errors", "corners", "more_corners", "fuzz", "loss", "oracle"],
    "loss": ["loss", "errors", "corners", "more_corners", "fuzz"],
    **dict.fromkeys(("tree", "stages"), MODEL),
    **dict.fromkeys(("retrofit", "binding", "attngan", "retrofit_report"), RETROFIT),
}
SECONDS = 240
OUTPUT = "output.txt"
PLACE = ("file", "line", "before", "after")


def main() -> None:
    """Draw a sample, try each fault in a process of its own, write down which were seen."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description=sys.modules[__package__ or ""].__doc__
    )
    parser.add_argument("--sample", type=int, help="how many faults; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="*", default=sorted(FILES), help="as in scbn/, without .py")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after, with what is done by then"
    )
    parser.add_argument("--again", type=Path, help="an earlier --out: try its survivors, then go on")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = [m for name in options.files for m in mutants(name, (ROOT / f"scbn/{name}.py").read_text())]
    chosen = random.Random(options.seed).sample(found, min(options.sample or len(found), len(found)))
    results: list[dict[str, Any]] = []
    if options.again:
        earlier = json.loads(options.again.read_text())
        survived = {tuple(s[part] for part in PLACE) for s in earlier["survivors"]}
        for name, counts in earlier["files"].items():
            results += [{"file": name, "outcome": "killed"}] * counts.get("killed", 0)
        rest = chosen[earlier["tried"] :]
        chosen = [m for m in chosen if (f"scbn/{m.path}.py", m.line, m.before, m.after) in survived] + rest
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "scbn-mutated"
        tracked = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
        )
        for name in tracked.stdout.splitlines():
            if not name.startswith("docs/") and (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        for tests in {tuple(FILES[name]) for name in options.files}:
            if not _passes(copy, list(tests)):
                sys.exit(f"{(copy.parent / OUTPUT).read_text()}\nthe tests fail without a fault: {tests}")
        begun = time.monotonic()
        for done, mutant in enumerate(chosen, 1):
            results.append(_try(copy, mutant))
            seconds = time.monotonic() - begun
            told = Counter(result["outcome"] for result in results)
            print(
                f"{done} of {len(chosen)} faults, {seconds:.0f} s: {dict(told)}; {_line(results[-1])}", flush=True
            )
            if options.out:
                report = _report(options, len(found), results, seconds)
                options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
            if seconds > 60 * options.minutes:
                break


def _try(copy: Path, mutant: Mutant) -> dict[str, Any]:
    told = {"file": f"scbn/{mutant.path}.py", "line": mutant.line, "before": mutant.before, "after": mutant.after}
    if why := why_equal(told["file"], mutant.before, mutant.after):
        return {**told, "outcome": "explained", "why": why}
    target = copy / f"scbn/{mutant.path}.py"
    kept = target.read_text()
    target.write_text(mutant.source)
    try:
        survived = _passes(copy, FILES[mutant.path])
    finally:
        target.write_text(kept)
    return {**told, "outcome": "survived" if survived else "killed"}


def _passes(copy: Path, tests: list[str]) -> bool:
    """Whether the tests pass in the copy; a run without an end is a failure."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os._exit(_child(copy, tests))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _child(copy: Path, tests: list[str]) -> int:
    os.chdir(copy)
    sys.dont_write_bytecode = True  # a file changed twice within a second would keep its bytecode
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "scbn")]:
        del sys.modules[name]
    told = os.open(copy.parent / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    files = [f"tests/test_{name}.py" for name in tests if (copy / f"tests/test_{name}.py").exists()]
    torch.set_num_threads(1)
    try:
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *QUICK, *files]))
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
        "survivors": [result for result in results if result["outcome"] != "killed"],
    }


if __name__ == "__main__":
    main()
