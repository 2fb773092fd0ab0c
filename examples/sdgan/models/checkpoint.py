"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from examples.sdgan.config import from_json
from examples.sdgan.data.pickles import largest_tuple
from examples.sdgan.data.vocabulary import Vocabulary

FORMAT = "scbn.examples.sdgan/2"
_TUPLE = 10_000  # Hashing one of many more ends the process or never ends; a tensor's has about twenty.
PARTS = ("config", "vocabulary", "text", "image", "history", "seconds", "steps", "phases")


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message names it, the reason and what to do."""


def save(state: dict[str, Any], path: Path, again: str = "--resume") -> None:
    """Write ``state`` beside ``path`` and then put it in its place, so that a crash leaves the previous one whole.

    Args:
        state: what to write.
        path: of the checkpoint.
        again: how to go on once there is room, for the message.

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
            f"{path} could not be written ({reason}); {kept}: make room, or choose another --out, and {again}"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """What :func:`save` wrote.

    Raises:
        CheckpointError: the file is missing, broken, another program's, holds code, or parts that no run has.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint; train first, or point to OUT/checkpoint.pt of a run")
    if not path.is_file():
        raise CheckpointError(f"{path}: a folder or device, no checkpoint; point to OUT/checkpoint.pt of a run")
    try:
        reason = _foreign(path)
        state = None if reason else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file may raise anything
        raise CheckpointError(f"{path}: broken, or no checkpoint of this trainer ({reason_of(error)})") from error
    if reason:
        raise CheckpointError(f"{path}: broken, or no checkpoint of this trainer ({reason})")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: no checkpoint of this trainer (its format is not {FORMAT!r})")
    missing = [name for name in PARTS if name not in state]
    if missing:
        raise CheckpointError(f"{path}: incomplete, it lacks {', '.join(missing)}")
    try:
        _check(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged, or changed by hand: {error}") from error
    return state


def _foreign(path: Path) -> str:
    """Why a file cannot be what :func:`save` wrote, as far as its outside tells."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return "it looks like safetensors, which holds weights alone; what a run needs is in checkpoint.pt"
    if not zipfile.is_zipfile(path):
        return "not the archive that torch.save writes"
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # torch.save compresses nothing; what is compressed could unpack to any size.
        declared, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if declared > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            return f"its archive declares {declared:,} bytes in a file of {size:,}, or compresses them"
        for entry in entries:
            if entry.filename.endswith(".pkl") and largest_tuple(archive.read(entry)) > _TUPLE:
                return f"{entry.filename} nests tuples as no run does"
    return ""


def reason_of(error: Exception) -> str:
    """Why ``torch.load`` refused a file, without its advice to load code and all."""
    # Torch's own words advise to load the file with code and all; what went wrong is in the error behind.
    text = str(error.__context__ if isinstance(error, pickle.UnpicklingError) and error.__context__ else error)
    name = re.search(r"GLOBAL (\S+)", text)
    if name:
        return f"it asks for {name[1]}, and only tensors, numbers and text are read"
    if "TorchScript" in text:
        return "it is a TorchScript archive, which holds code; save the module's state_dict() with torch.save"
    if "legacy .tar" in text:
        return "it is in the tar format of the first PyTorch, which is not read; save it anew with torch.save"
    text = text.partition("\n")[0]
    if re.search(r"weights[_ ]only", text, re.IGNORECASE):
        return "it holds more than tensors, numbers and text, which alone are read"
    return text or type(error).__name__


def _check(state: dict[str, Any]) -> None:
    """Raise ``ValueError`` for a part of the wrong type, naming it."""
    for part in ("config", "ema_config"):
        if not isinstance(state.get(part, "{}"), str):
            raise ValueError(f"{part} must be JSON text, got {type(state[part]).__name__}")
        from_json(state.get(part, "{}"))
    if not isinstance(state["vocabulary"], list):
        raise ValueError(f"vocabulary must be a list of words, got {type(state['vocabulary']).__name__}")
    if not isinstance(state.get("published_vocabulary", False), bool):
        raise ValueError("published_vocabulary must be true or false")
    Vocabulary(state["vocabulary"], state.get("published_vocabulary", False))
    for part in ("text", "image", "ema", "steps", "phases", "data", "held_out"):
        if part in state and not isinstance(state[part], dict):
            raise ValueError(f"{part} must be a dict, got {type(state[part]).__name__}")
    for part in ("text", "image", "ema"):
        for name, value in state.get(part, {}).items():
            check_weights(f"{part}, {name!r}", value)
    for name, done in state["steps"].items():
        if not isinstance(name, str) or type(done) is not int or done < 0:
            raise ValueError(f"steps of {name!r:.80}: must be a number of steps, got {done!r:.80}")
    for name, phase in state["phases"].items():
        if name not in state["steps"] or not isinstance(phase, dict):
            raise ValueError(f"phase {name!r:.80}: must be a dict with steps, got {type(phase).__name__}")
    if type(state["seconds"]) not in (int, float) or not 0 <= state["seconds"] < math.inf:
        raise ValueError(f"seconds must be a finite number, got {state['seconds']!r:.80}")
    if not isinstance(state["history"], dict):
        raise ValueError(f"history must be a dict of curves, got {type(state['history']).__name__}")
    for phase, curves in state["history"].items():
        if not _are_curves(curves):
            raise ValueError(f"history of {phase!r}: must hold 'step' and curves of as many numbers")


def check_weights(name: str, value: Any, instead: str = "use an earlier checkpoint") -> None:
    """Raise ``ValueError`` for a weight that is no plain, finite tensor; the message ends with what to do instead."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise ValueError(f"{name} must be a plain tensor, got {value.layout} on {value.device}")
    # A few stored numbers can be spread over any shape.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} claims {value.numel():,} numbers and does not hold as many")
    if not is_finite(value):
        raise ValueError(f"{name} is not finite (NaN or infinite); {instead}")


def is_finite(value: torch.Tensor) -> bool:
    """Whether a tensor of any type holds neither NaN nor infinity."""
    # Types of eight bits have no isfinite of their own.
    eight = value.is_floating_point() and value.element_size() == 1
    return bool((value.float() if eight else value).isfinite().all())


def tensors_within(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of nested dicts and lists, by the way to it."""
    seen: set[int] = set()
    left = [(name, value)]
    while left:
        name, value = left.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # a list may hold itself
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{name}.{key}", part) for key, part in inner]


def _are_curves(curves: Any) -> bool:
    if not isinstance(curves, dict) or not all(isinstance(curve, list) for curve in curves.values()):
        return False
    return "step" in curves and all(
        len(curve) == len(curves["step"]) and all(type(value) in (int, float) for value in curve)
        for curve in curves.values()
    )
