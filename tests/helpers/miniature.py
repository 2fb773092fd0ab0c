"""Everything that a run does, on little: few birds, a short measure, small pictures (which take most of a short run)."""

from __future__ import annotations

from collections.abc import Callable

from examples.attngan.comparison import Shown
from examples.sdgan.data import toy
from examples.sdgan.metrics import caption_fidelity
from examples.sdgan.training import callbacks


def shrink(setattr: Callable[..., None] = setattr, *, train: int = 60, test: int = 30, measured: int = 3) -> None:
    """Set the sizes, for good or with a monkeypatch's ``setattr``."""
    setattr(toy, "COUNTS", {"train": train, "test": test})
    setattr(caption_fidelity, "STEPS", measured)
    setattr(callbacks, "_GRID", 4)
    setattr(callbacks, "_SHEET", 1)
    setattr(Shown, "rows", 1)
