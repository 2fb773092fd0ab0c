"""Do the layers compute what they should on this machine? ``python -m scbn.testing``, whose table belongs into every report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from scbn.testing import selftest


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if a backend computes something else, 2 for bad options."""
    parser = argparse.ArgumentParser(prog="python -m scbn.testing", description=__doc__)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1"
    )
    parser.add_argument("--out", type=Path, help="write everything as JSON into this file too")
    parser.add_argument("--no-times", action="store_true", help="check only")
    options = parser.parse_args(argv)
    try:
        device = torch.device(options.device)
        torch.empty(1, device=device).cpu()  # which a meta device has not
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA asserts
        parser.error(f"--device {options.device}: {str(error).splitlines()[0]}")
    if options.out is not None:  # before a minute's work
        try:
            options.out.open("x").close()
        except OSError as error:
            parser.error(f"--out {options.out}: {error.strerror or error}; name a file that is not there yet")
    machine = selftest.machine(device)
    for name, value in machine.items():
        print(f"{name:12} {value}")
    print(f"\n{selftest.Row.HEAD}")
    rows = []
    for row in selftest.rows(device, timed=not options.no_times):
        print(row.line(), flush=True)
        rows.append(row)
    wrong = [row for row in rows if not row.passed]
    print(f"\n{len(rows) - len(wrong)} of {len(rows)} passed" + ("; please report this table" if wrong else ""))
    if options.out is not None:
        content = {"machine": machine, "rows": [row.as_dict() for row in rows]}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
