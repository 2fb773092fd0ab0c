"""The visual-semantic embedding: how much each image region attends to each word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scbn import checks, functional
from scbn.linear import as_input_of
from scbn.text import TextFeatures


class VisualSemanticEmbedding(nn.Module):
    r"""Visual-semantic embedding (VSE): every image region's own summary of the words.

    .. math:: \mathrm{vse}_j = \sum_t \mathrm{softmax}_t(\mathrm{scale}\; x_j \cdot f(w_t))\, f(w_t)

    :math:`f` is the perceptron layer ``word_proj`` that takes words to the visual dimension. As in the paper the dot
    product is not scaled; pass ``scale=num_features ** -0.5`` for that of scaled dot-product attention.

    Args:
        num_features: channels C of ``x``.
        word_dim: size D_w of a word vector.
        scale: factor on the dot product, 1 by default.
        device, dtype: of the parameters.

    Shape:
        ``x`` (N, C, \*spatial) with 0 to 3 spatial axes, ``text`` a :class:`TextFeatures` with ``words`` (N, T, D_w)
        and perhaps ``padding_mask`` (N, T), or the words themselves. Returns (N, C, \*spatial) in ``x``'s dtype,
        computed in float32 (float64 for float64). Captions of nothing but padding give zeros.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or device.

    Source: Yin et al., CVPR 2019, arXiv 1904.01480, section 3.3, "word-level cue".
    """

    def __init__(
        self,
        num_features: int,
        word_dim: int,
        *,
        scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        checks.positive(num_features=num_features, word_dim=word_dim)
        checks.finite(scale=scale)
        checks.parameter_dtype(dtype)
        self.num_features, self.word_dim, self.scale = num_features, word_dim, scale
        self.word_proj = nn.Linear(word_dim, num_features, device=device, dtype=dtype)

    if TYPE_CHECKING:  # nn.Module's own says nothing of arguments and result

        def __call__(self, x: Tensor, text: TextFeatures | Tensor) -> Tensor: ...  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, x: Tensor, text: TextFeatures | Tensor) -> Tensor:
        """Embed the words of ``text`` at every position of ``x``."""
        keys, mask = self._keys(x, text)
        return functional.visual_semantic_embedding(x, keys, padding_mask=mask, scale=self.scale)

    def attention(self, x: Tensor, text: TextFeatures | Tensor) -> Tensor:
        """The word map (N, T, *spatial): how much each position attends to each word; see :func:`functional.word_attention`."""
        keys, mask = self._keys(x, text)
        return functional.word_attention(x, keys, padding_mask=mask, scale=self.scale)

    def _keys(self, x: Tensor, text: TextFeatures | Tensor) -> tuple[Tensor, Tensor | None]:
        checks.visual(x, self.num_features)
        checks.meets(x, self.word_proj)
        return project_words(self.word_proj, x, text, self.word_dim)

    def reset_parameters(self) -> None:
        """Weights as when it was made."""
        self.word_proj.reset_parameters()

    def extra_repr(self) -> str:
        return f"{self.num_features}, word_dim={self.word_dim}, scale={self.scale}"


def project_words(
    word_proj: nn.Module, x: Tensor, text: TextFeatures | Tensor, word_dim: int
) -> tuple[Tensor, Tensor | None]:
    """The words in the visual space, (N, T, C), and their padding mask."""
    words, mask = checks.word_cue(text, x, word_dim)
    if mask is not None:
        # Before the projection, so that what padding holds (NaN, say) reaches no gradient either.
        words = words.masked_fill(mask[:, :, None], 0)
    return word_proj(as_input_of(word_proj, words)), mask
