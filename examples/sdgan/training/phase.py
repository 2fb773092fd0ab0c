"""A stretch of training, as an object that the trainer takes to its end and a checkpoint carries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from examples.sdgan.data.pairs import PairBatch


@dataclass(frozen=True)
class Batches:
    """Which batches a phase learns from.

    Args:
        pairs: of a batch, in all processes together.
        same: share of the pairs whose captions describe one image.
        seed: with the step it decides what is in a batch.
    """

    pairs: int
    same: float
    seed: int


class Phase(ABC):
    """Encoders, a GAN, a fine-tuning: what differs between them is what a step does and what a checkpoint needs.

    Attributes:
        name: of its curves and of its part of the checkpoint.
        steps: where it ends.
        done: steps taken.
        batches: what it learns from.
    """

    name: str
    steps: int
    done: int = 0
    batches: Batches

    @abstractmethod
    def step(self, step: int, batch: PairBatch) -> dict[str, Tensor]:
        """One update; returns losses."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the encoders."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
