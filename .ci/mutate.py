"""Mutation testing with Cosmic Ray: the library is changed in one place at a time, and the tests must fail.

    pip install -e '.[dev,mutation]'
    python .ci/mutate.py --sample 100       # drawn at random; without --sample all, thousands, which takes days

``.ci/cosmic-ray.toml`` sets what is mutated and which tests run. A line that ends in ``# pragma: no mutate`` is
left as it is.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ".ci/cosmic-ray.toml"
Position = tuple[int, int]


def main() -> None:
    """Draw mutants, try them, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="how many mutants; all by default")
    parser.add_argument("--seed", type=int, default=0, help="another draws other mutants")
    parser.add_argument(
        "--session",
        type=Path,
        default=ROOT / "runs/mutation.sqlite",
        help="Cosmic Ray's database; an existing one is continued",
    )
    options = parser.parse_args()
    session = options.session.resolve()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_project(copy)
        if session.exists():
            print(f"continuing {session}", flush=True)
        else:
            session.parent.mkdir(parents=True, exist_ok=True)
            # Moved only when complete, so that an incomplete one is never continued.
            draft = copy / "draft.sqlite"
            prepare(draft, copy, options.sample, options.seed)
            shutil.move(draft, session)
        run(copy, "cosmic_ray.cli", "exec", CONFIG, session)
    with use_db(session, WorkDB.Mode.open) as db:
        report(db)


def copy_project(copy: Path) -> None:
    """Tracked and new files, as they are now."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)


def run(copy: Path, module: str, *arguments: object) -> None:
    """One of Cosmic Ray's commands, in the copy; the tests import the copy's scbn."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, cwd=copy, env=environment, check=True)


def prepare(session: Path, copy: Path, sample: int | None, seed: int) -> None:
    """Check that the tests pass on the unchanged library, list its mutants, skip what is not to be tried."""
    run(copy, "cosmic_ray.cli", "baseline", CONFIG)
    run(copy, "cosmic_ray.cli", "init", CONFIG, session)
    run(copy, "cosmic_ray.tools.filters.operators_filter", session, CONFIG)
    run(copy, "cosmic_ray.tools.filters.pragma_no_mutate", session)
    with use_db(session, WorkDB.Mode.open) as db:
        pending = {item.job_id: item.mutations[0] for item in db.pending_work_items}
        paths = {mutation.module_path for mutation in pending.values()}
        trees = {path: ast.parse((copy / path).read_text(encoding="utf-8")) for path in paths}
        unseen = {path: list(unseen_spans(tree)) for path, tree in trees.items()}
        seen = [
            job
            for job, mutation in pending.items()
            if not any(begin <= mutation.start_pos < end for begin, end in unseen[mutation.module_path])
        ]
        # Cosmic Ray gives them other identifiers, in another order, each time.
        seen.sort(key=lambda job: where(pending[job]))
        drawn = random.Random(seed).sample(seen, len(seen))
        chosen = list(islice((job for job in drawn if compiles(pending[job], copy)), sample))
        skipped = WorkResult(worker_outcome=WorkerOutcome.SKIPPED, output="not drawn, or not visible to a test")
        db.set_multiple_results(sorted(set(pending) - set(chosen)), skipped)
    print(f"{len(chosen)} mutants of {len(seen)}", flush=True)


def where(mutation: MutationSpec) -> tuple[str, Position, str, int]:
    return str(mutation.module_path), mutation.start_pos, mutation.operator_name, mutation.occurrence


def unseen_spans(tree: ast.AST) -> Iterator[tuple[Position, Position]]:
    """Spans of source whose change no test could see: annotations, messages of errors, assertions."""
    for node in ast.walk(tree):
        part: ast.AST | None = None
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            part = node.returns
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            part = node.annotation
        elif isinstance(node, ast.Raise):
            part = node.exc
        elif isinstance(node, ast.Assert) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            part = node
        if isinstance(part, (ast.expr, ast.stmt)):
            yield (part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)


def compiles(mutation: MutationSpec, copy: Path) -> bool:
    """Whether it is valid Python: another operator for the bare * among parameters, say, is not."""
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    source = mutate_code((copy / mutation.module_path).read_text(encoding="utf-8"), operator, mutation.occurrence)
    try:
        ast.parse(source or "")
    except SyntaxError:
        return False
    return source is not None


def report(db: WorkDB) -> None:
    """The survivors, then how many were killed, by file and in all."""
    told: dict[str, Counter[str]] = {}
    for item, result in sorted(db.completed_work_items, key=lambda pair: where(pair[0].mutations[0])):
        if result.worker_outcome == WorkerOutcome.SKIPPED:
            continue
        (mutation,) = item.mutations
        outcome = (result.test_outcome or TestOutcome.INCOMPETENT).value
        told.setdefault(str(mutation.module_path), Counter())[outcome] += 1
        if result.test_outcome != TestOutcome.KILLED:
            print(f"\n{outcome}: {mutation.module_path}:{mutation.start_pos[0]} {mutation.operator_name}")
            print(result.diff or result.output)
    print("\n| file | killed | of |\n|---|---|---|")
    for name, counts in sorted(told.items()):
        print(f"| {name} | {counts['killed']} | {counts.total()} |")
    killed, tried = sum(counts["killed"] for counts in told.values()), sum(map(Counter.total, told.values()))
    print(f"\n{killed} of {tried} killed ({killed / max(tried, 1):.1%}), {len(db.pending_work_items)} to come")


if __name__ == "__main__":
    main()
