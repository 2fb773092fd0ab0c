"""Everything that a run does, on little: few birds, a short measure, small pictures (which take most of a short run)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from examples.attngan.comparison import Shown
from examples.sdgan.data import toy
from examples.sdgan.data.drawn import DRAWN
from examples.sdgan.training import callbacks


def shrink(setattr: Callable[..., None] = setattr, *, train: int = 60, test: int = 30, measured: int = 3) -> None:
    """Set the sizes, for good or with a monkeypatch's ``setattr``."""
    setattr(toy, "COUNTS", {"train": train, "test": test})
    quick = {name: dataclasses.replace(kind, reader_steps=measured) for name, kind in DRAWN.items()}
    setattr(toy, "DRAWN", quick)
    setattr(callbacks, "_GRID", 4)
    setattr(callbacks, "_SHEET", 1)
    setattr(Shown, "rows", 1)
