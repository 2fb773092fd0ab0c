"""A run in miniature, and its weights."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.sdgan import train
from examples.sdgan.models import checkpoint

TINY = [
    "--size",
    "32",
    "--batch-size",
    "4",
    "--steps",
    "6",
    "--encoder-steps",
    "7",
    "--encoder.label-share",
    "0.45",
    "--encoder.batch-size",
    "8",
    "--encoder.dim",
    "8",
    "--generator.channels",
    "8",
    "8",
    "8",
    "--discriminator.channels",
    "8",
    "--checkpoint-every",
    "3",
]


def run(out: Path, *arguments: str) -> int:
    return train.main([*TINY, "--out", str(out), *arguments])


def weights(out: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(out / "checkpoint.pt")
    return {f"{part}.{name}": value for part in ("phases", "ema") for name, value in _flat(state[part])}


def _flat(tree, prefix=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}{key}.")
    elif isinstance(tree, list):
        for key, value in enumerate(tree):
            yield from _flat(value, f"{prefix}{key}.")
    elif isinstance(tree, torch.Tensor):
        yield prefix, tree


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
