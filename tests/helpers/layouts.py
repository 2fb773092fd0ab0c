"""Small data sets in the layouts people have."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from helpers.files import picture

from examples.sdgan.data import CaptionedImages

NAMES = ("001.A/a1", "001.A/a2", "002.B/b1", "002.B/b2")


def write(root: Path, names: Sequence[str], split: str = "train", ending: str = ".jpg") -> Path:
    """Images and captions, and the list that names them."""
    for name in names:
        picture(root / "images" / f"{name}{ending}")
        text = root / "text" / f"{name}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"a bird called {Path(name).name}\nit is red\n", encoding="utf-8")
    (root / split).mkdir(exist_ok=True)
    (root / split / "filenames.txt").write_text("\n".join(names), encoding="utf-8")
    return root


def pickled(
    root: Path, names: Sequence[str], captions: list, words: dict, split: str = "train", protocol: int = 2
) -> Path:
    """AttnGAN's layout: no texts, names and captions pickled."""
    for name in names:
        picture(root / "images" / f"{name}.jpg")
    (root / split).mkdir(exist_ok=True)
    (root / split / "filenames.pickle").write_bytes(pickle.dumps(list(names), protocol))
    content = [captions, [], words, {}] if split == "train" else [[], captions, words, {}]
    (root / "captions.pickle").write_bytes(pickle.dumps(content, protocol))
    return root


WORDS = {0: "<end>", 1: "a", 2: "red", 3: "bird", **{10 + i: f"word{i}" for i in range(90)}}


def numbered(images: int, each: int) -> list[list[int]]:
    return [[1, 10 + i, 3] for i in range(images) for _ in range(each)]


def described(count: int, per: int = 4, classes: int | None = None) -> CaptionedImages:
    captions = [[f"image{i} caption{k}" for k in range(per)] for i in range(count)]
    labels = None if classes is None else torch.arange(count) % classes
    return CaptionedImages("test", cast(Any, None), captions, classes=labels)
