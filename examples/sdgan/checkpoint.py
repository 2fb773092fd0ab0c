"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

FORMAT = "scbn.examples.sdgan/1"
PARTS = ("config", "vocabulary", "text", "image", "history", "seconds", "encoder_step", "gan_step")


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message names it, the reason and what to do."""


def save(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` beside ``path`` and then put it in its place, so that a crash leaves the previous one whole.

    Raises:
        CheckpointError: it could not be written, for example because the disk is full; the previous one stays.
    """
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError about positions in the file; the OSError is what caused it.
        reason = next((e for e in (error, error.__context__) if isinstance(e, OSError)), error)
        kept = "the previous checkpoint is untouched" if path.exists() else "there is no earlier one"
        raise CheckpointError(
            f"{path} could not be written ({reason}); {kept}: make room, or choose another --out, and --resume"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """What :func:`save` wrote.

    Raises:
        CheckpointError: the file is missing, broken, another program's, or holds code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; train first, or point to OUT/checkpoint.pt of a run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        ValueError,
        KeyError,
    ) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: broken, or no checkpoint of this trainer ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: no checkpoint of this trainer (its format is not {FORMAT!r})")
    missing = [name for name in PARTS if name not in state]
    if missing:
        raise CheckpointError(f"{path}: incomplete, it lacks {', '.join(missing)}")
    return state
