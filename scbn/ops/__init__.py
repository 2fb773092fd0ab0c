"""Implementations of the modulated batch norm behind :mod:`scbn.functional`, and the switch between them.

| path | runs | backward | for |
|---|---|---|---|
| ``"composed"`` | plain PyTorch operations | autograd, any number of times | every device, export, vmap, double backward |
| ``"tiled"`` | a tile of positions at a time, in cache | by hand, attention recomputed; x is all it keeps | CPU, float32 and float64 |

``"auto"``, the default, takes ``"tiled"`` where it applies and is worth it, else ``"composed"``. All paths compute the same function and
are tested against :mod:`scbn.reference`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

Path = Literal["auto", "composed", "tiled"]

# Below this many values the overhead of a tile's operations outweighs the memory they save.
WORTHWHILE = 1 << 17

_path: Path = "auto"


def get_path() -> Path:
    """The path in force."""
    return _path


def set_path(path: Path) -> None:
    """Choose the implementation for the whole process: ``"auto"``, ``"composed"`` or ``"tiled"``.

    ``"tiled"`` is taken wherever it can run, however small the input; elsewhere ``"composed"`` runs.

    Raises:
        ValueError: another name.
    """
    global _path
    if path not in get_args(Path):
        raise ValueError(f"path must be one of {get_args(Path)}, got {path!r}")
    _path = path


@contextlib.contextmanager
def use(path: Path) -> Iterator[None]:
    """Choose the implementation within a ``with`` block; see :func:`set_path`."""
    before = get_path()
    set_path(path)
    try:
        yield
    finally:
        set_path(before)


def runs_tiled(x: Tensor) -> bool:
    """Whether the tiled path takes ``x`` (N, C, *spatial)."""
    if _path == "composed" or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    if x.dim() < 3 or not x.is_contiguous() or x.numel() == 0:
        return False
    if torch.compiler.is_exporting() or _transformed():
        return False
    return _path == "tiled" or x.numel() >= WORTHWHILE


def _transformed() -> bool:
    """Within vmap, grad, jvp and their like, which know the composed operations only."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
