"""SCBN with the sentence cue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scbn import checks, functional
from scbn.linear import ZeroHead, as_input_of
from scbn.norm import SCBN, batch_norm_state
from scbn.text import TextFeatures, empty_captions


class SentenceSCBN(SCBN):
    r"""Semantic-conditioned batch normalisation, sentence cue: a drop-in for ``nn.BatchNorm*d`` that takes text.

    .. math::
        y = \hat x \, (\gamma + f_\gamma(s)) + \beta + f_\beta(s), \qquad
        \hat x = \frac{x - \mu(x)}{\sqrt{\sigma^2(x) + \epsilon}}

    :math:`(f_\gamma, f_\beta)` are the two halves of one MLP with one hidden layer; its last layer starts at zero,
    so the layer starts as plain batch normalisation.

    Args:
        num_features: channels C of ``x``.
        sentence_dim: size D_s of the sentence vector.
        hidden_dim: width of the MLP's hidden layer; ``sentence_dim`` by default.
        eps, momentum, affine, track_running_stats, device, dtype: as :class:`torch.nn.BatchNorm2d`.

    Shape:
        ``x`` (N, C, \*spatial) with 0 to 3 spatial axes, ``text`` a :class:`TextFeatures` with ``sentence``
        (N, D_s), or that tensor itself. Returns ``x``'s shape and dtype; statistics are float32 for half precision.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or device, or, as in batch normalisation, there is a
            single value per channel in training.

    Source: Yin et al., CVPR 2019, arXiv 1904.01480, section 3.3, "sentence-level cue".
    """

    def __init__(
        self,
        num_features: int,
        sentence_dim: int,
        *,
        hidden_dim: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.sentence_dim = sentence_dim
        self.mlp = sentence_mlp(num_features, sentence_dim, hidden_dim, device, dtype)

    if TYPE_CHECKING:  # nn.Module's own says nothing of arguments and result

        def __call__(self, x: Tensor, text: TextFeatures | Tensor) -> Tensor: ...  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, x: Tensor, text: TextFeatures | Tensor) -> Tensor:
        """Normalise ``x`` and modulate it with the sentence of ``text``."""
        self._check(x)
        sentence, mask = checks.sentence_cue(text, x, self.sentence_dim)
        gamma, beta = sentence_modulation(self.mlp, sentence, mask)
        empty = None if mask is None else empty_captions(mask)
        return functional.sentence_scbn(x, gamma, beta, batch_norm_state(self.bn, x), empty=empty)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sentence_dim={self.sentence_dim}"


def sentence_mlp(
    num_features: int,
    sentence_dim: int,
    hidden_dim: int | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Sequential:
    """The MLP from (N, D_s) to (N, 2C), gamma's half first, with its last layer at zero."""
    hidden_dim = sentence_dim if hidden_dim is None else hidden_dim
    checks.positive(sentence_dim=sentence_dim, hidden_dim=hidden_dim)
    last = ZeroHead(hidden_dim, 2 * num_features, device=device, dtype=dtype)
    return nn.Sequential(nn.Linear(sentence_dim, hidden_dim, device=device, dtype=dtype), nn.ReLU(), last)


def sentence_modulation(mlp: nn.Sequential, sentence: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the sentence adds to gamma and beta, (N, C) each."""
    if mask is not None:
        # Before the MLP, so that what an empty caption's vector holds (NaN, say) reaches no gradient either.
        sentence = sentence.masked_fill(empty_captions(mask)[:, None], 0)
    first = mlp[0] if isinstance(mlp, nn.Sequential) else mlp  # wrapped by a tool
    gamma, beta = mlp(as_input_of(first, sentence)).chunk(2, 1)
    return gamma, beta
