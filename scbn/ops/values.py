"""The values that functional, operations and backends pass on: the words' tables, a batch's statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor


class WordTables(NamedTuple):
    """What modulates an image, a row a word, and the norm's own weight and bias.

    Attributes:
        keys: (N, T, C), the words in the visual space, which positions attend to.
        gamma, beta: (N, T, C), what each word adds to scale and shift.
        weight, bias: scale and shift before any word, (C,), or (N, C) with the sentence cue in them; both alike.
        padding: (N, T) bool, True = padding, words without weight; a caption of nothing else adds nothing.
    """

    keys: Tensor
    gamma: Tensor
    beta: Tensor
    weight: Tensor
    bias: Tensor
    padding: Tensor | None = None


class Statistics(NamedTuple):
    """Of a batch, by channel.

    Attributes:
        mean, var: (C,).
        count: values a channel that they are of; a tensor (1,) where several processes have shares.
        unbiased: the variance is already.
    """

    mean: Tensor
    var: Tensor
    count: Tensor | int = 0
    unbiased: bool = False


Joint = Callable[[Tensor], Tensor]
"""The mean over all processes of what each gives for its share of the batch."""


class SentenceBackend(Protocol):
    """What a module offers that computes the sentence cue; x and dy (N, C, P), gamma and beta (N, C)."""

    def statistics(self, x: Tensor) -> Statistics:
        """Mean and biased variance of every channel."""
        ...

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor, stats: Statistics, eps: float) -> Tensor:
        """y = xhat gamma + beta."""
        ...

    def backward(
        self, dy: Tensor, x: Tensor, gamma: Tensor, stats: Statistics, eps: float, joint: Joint | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, gamma and beta; ``joint`` is None where the statistics are not the batch's own."""
        ...


class WordBackend(Protocol):
    """What a module offers that computes the word cue; x and dy (N, C, P)."""

    def statistics(self, x: Tensor) -> Statistics:
        """Mean and biased variance of every channel."""
        ...

    def forward(self, x: Tensor, tables: WordTables, stats: Statistics, eps: float, scale: float) -> Tensor:
        """y of :func:`scbn.ops.word.word_norm`."""
        ...

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        tables: WordTables,
        stats: Statistics,
        eps: float,
        scale: float,
        joint: Joint | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients of x, keys, gamma, beta, and of weight and bias in one tensor (2, ...)."""
        ...


class Modulation(Protocol):
    """What a module offers that leaves the normalising to PyTorch; x and xhat (N, C, *spatial)."""

    def sentence_modulate(self, x: Tensor, xhat: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """xhat gamma + beta, in x's dtype."""
        ...

    def word_modulate(self, x: Tensor, xhat: Tensor, tables: WordTables, scale: float) -> Tensor:
        """xhat (weight + sum_t a_t gamma_t) + bias + sum_t a_t beta_t, in x's dtype."""
        ...
