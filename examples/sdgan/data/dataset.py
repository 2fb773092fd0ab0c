"""What every data set offers, whatever its files look like."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class DataError(ValueError):
    """The data is not as it must be; the message names the file and the reason."""

    def __init__(self, message: str) -> None:
        # A terminal obeys control characters, and file names may hold them.
        super().__init__(_UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], message))


class ImageSource(Protocol):
    """Images by index."""

    def __len__(self) -> int: ...

    def load(self, indices: list[int], size: int, rng: torch.Generator | None) -> Tensor:
        """uint8 (N, 3, size, size); with ``rng`` randomly cropped and flipped."""
        ...


@dataclass(frozen=True)
class CaptionedImages:
    """Images and their captions.

    Args:
        name: for messages.
        images: where the pictures come from.
        captions: of each image, at least one.
        classes: (N,) int64, or ``None``.
        labels: (N, A) int64, attribute labels where they are known exactly, or ``None``.
        named: of each caption, the attributes that it names, where labels are known.
    """

    name: str
    images: ImageSource
    captions: list[list[str]]
    classes: Tensor | None = None
    labels: Tensor | None = None
    named: list[list[list[str]]] | None = None

    def __len__(self) -> int:
        return len(self.captions)


def to_float(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1
