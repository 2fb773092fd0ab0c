"""Commands in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


SCRIPT = """
import functools, os, sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
for name in ("Adam", "AdamW"):
    eps = float(os.environ.get("ADAM_EPS", "1e-8"))
    setattr(torch.optim, name, functools.partial(getattr(torch.optim, name), eps=eps))
from examples.sdgan import train
from helpers.miniature import shrink
shrink()
if __name__ == "__main__":
    sys.exit(train.main(sys.argv[1:]))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
