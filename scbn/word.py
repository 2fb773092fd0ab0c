"""SCBN with the word cue, alone or with the sentence cue added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scbn import checks, functional
from scbn.attention import project_words
from scbn.linear import ZeroHead
from scbn.norm import SCBN, batch_norm_state
from scbn.sentence import sentence_mlp, sentence_modulation
from scbn.text import TextFeatures


class WordSCBN(SCBN):
    r"""Semantic-conditioned batch normalisation, word cue: every position gets the scale and shift its words ask for.

    .. math::
        \mathrm{vse}_j &= \sum_t \mathrm{softmax}_t(\mathrm{scale}\; x_j \cdot f(w_t))\, f(w_t) \\
        y_j &= \hat x_j \, (\gamma + W_\gamma \mathrm{vse}_j + b_\gamma)
               + \beta + W_\beta \mathrm{vse}_j + b_\beta

    with :math:`f` = ``word_proj``, :math:`W_\gamma, b_\gamma` = ``to_gamma`` and :math:`W_\beta, b_\beta` =
    ``to_beta``. With ``sentence_dim`` the sentence cue's gamma and beta (:class:`SentenceSCBN`) are added. The heads
    start at zero, so the layer starts as plain batch normalisation. The region feature :math:`x_j` is the layer's
    input, and the dot product is not scaled unless ``scale`` says so.

    Args:
        num_features: channels C of ``x``.
        word_dim: size D_w of a word vector.
        sentence_dim: size D_s of the sentence vector, for both cues; ``None`` for words alone.
        hidden_dim: width of the sentence MLP's hidden layer; ``sentence_dim`` by default.
        scale: factor on the dot product, 1 by default.
        eps, momentum, affine, track_running_stats, device, dtype: as :class:`torch.nn.BatchNorm2d`.

    Shape:
        ``x`` (N, C, \*spatial) with 0 to 3 spatial axes; ``text`` a :class:`TextFeatures` with ``words`` (N, T, D_w),
        perhaps ``padding_mask`` (N, T) bool with True = padding, and with ``sentence_dim`` also ``sentence``
        (N, D_s); or, for words alone, the words themselves. Returns ``x``'s shape and dtype; statistics and softmax
        are float32 for half precision.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or device, or, as in batch normalisation, there is a
            single value per channel in training.

    Source: Yin et al., CVPR 2019, arXiv 1904.01480, section 3.3, "word-level cue".
    """

    def __init__(
        self,
        num_features: int,
        word_dim: int,
        *,
        sentence_dim: int | None = None,
        hidden_dim: int | None = None,
        scale: float = 1.0,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        checks.positive(word_dim=word_dim)
        checks.finite(scale=scale)
        checks.hidden_width(hidden_dim, sentence_dim)
        self.word_dim, self.sentence_dim, self.scale = word_dim, sentence_dim, scale
        self.word_proj = nn.Linear(word_dim, num_features, device=device, dtype=dtype)
        self.to_gamma = ZeroHead(num_features, num_features, device=device, dtype=dtype)
        self.to_beta = ZeroHead(num_features, num_features, device=device, dtype=dtype)
        self.mlp = None
        if sentence_dim is not None:
            self.mlp = sentence_mlp(num_features, sentence_dim, hidden_dim, device, dtype)

    if TYPE_CHECKING:  # nn.Module's own says nothing of arguments and result

        def __call__(self, x: Tensor, text: TextFeatures | Tensor) -> Tensor: ...  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, x: Tensor, text: TextFeatures | Tensor) -> Tensor:
        """Normalise ``x`` and modulate every position with the words (and the sentence) of ``text``."""
        self._check(x)
        keys, mask = project_words(self.word_proj, x, text, self.word_dim)
        sentence_gamma = sentence_beta = None
        if self.mlp is not None:
            assert self.sentence_dim is not None
            checks.both_cues(text)
            sentence, _ = checks.sentence_cue(text, x, self.sentence_dim)
            sentence_gamma, sentence_beta = sentence_modulation(self.mlp, sentence, mask)
        return functional.word_scbn(
            x,
            keys,
            self.to_gamma(keys),
            self.to_beta(keys),
            batch_norm_state(self.bn, x),
            padding_mask=mask,
            scale=self.scale,
            sentence_gamma=sentence_gamma,
            sentence_beta=sentence_beta,
        )

    def attention(self, x: Tensor, text: TextFeatures | Tensor) -> Tensor:
        """The word map (N, T, *spatial), to look at: how much each position attends to each word.

        Sums to one over the words; zero for padding and for captions of nothing but padding.
        """
        self._check(x)
        keys, mask = project_words(self.word_proj, x, text, self.word_dim)
        return functional.word_attention(x, keys, padding_mask=mask, scale=self.scale)

    def extra_repr(self) -> str:
        sentence = "" if self.sentence_dim is None else f", sentence_dim={self.sentence_dim}"
        return f"{super().extra_repr()}, word_dim={self.word_dim}{sentence}, scale={self.scale}"
