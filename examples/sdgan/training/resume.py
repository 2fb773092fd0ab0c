"""What a run to resume and its continuation must have in common, and what of them differs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples.sdgan.config import Config, from_json
from examples.sdgan.models.checkpoint import CheckpointError, check_weights, tensors_within

# What may differ; of the data set, the content is compared instead.
_FREE = (
    "root",
    "captions_per_image",
    "encoder.inception_weights",
    "steps",
    "out",
    "resume",
    "check",
    "checkpoint_every",
    "workers",
    "accelerator",
    "devices",
    "nodes",
    "compile",
    "log",
)


def changed_options(stored: str, config: Config) -> str:
    """The options that differ from the stored ones, each by its own name; nothing where all are equal."""
    # Rebuilt, so that options that came later than the checkpoint have their defaults.
    before, now = (_flat(json.loads(text)) for text in (from_json(stored).to_json(), config.to_json()))
    changed = [name for name in now if name not in _FREE and before.get(name) != now[name]]
    return "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def changed_data(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two fingerprints of data; nothing where they are equal."""
    changed = [part for part in now if before.get(part) != now[part]]
    if "images" in changed:
        return f"{now['images']:,} images, were {before.get('images')}"
    return f"other {', '.join(changed)}" if changed else ""


def same_images(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two fingerprints are of the same images; of drawn ones the captions tell."""
    part = "files" if "files" in a and "files" in b else "captions"
    return part in a and a[part] == b.get(part)


def broken_part(state: dict[str, Any]) -> str:
    """The first tensor of what only a resumed run reads that is not plain and finite; nothing where all are."""
    for part, value in state.items():
        for name, tensor in tensors_within(part, value):
            try:
                check_weights(name, tensor)
            except ValueError:
                return name
    return ""


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Within: modules load what a checkpoint holds; what does not fit is an error of the checkpoint.

    Raises:
        CheckpointError: entries are missing, or of other shapes or types.
    """
    try:
        yield
    except CheckpointError:  # says already what is wrong
        raise
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its weights do not fit its options ({type(error).__name__}: {error}); start again without --resume, "
            "in another --out"
        ) from error
