"""The one value of text that flows through everything."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TextFeatures(NamedTuple):
    """What a text encoder knows of a batch of captions.

    Every field is optional; a layer asks for the cue it needs and says so if that cue is missing.

    Args:
        sentence: ``(N, D_s)`` floating, one vector a caption.
        words: ``(N, T, D_w)`` floating, batch first, one vector a word.
        padding_mask: ``(N, T)`` bool, ``True`` where a word is padding (the convention of
            :class:`torch.nn.MultiheadAttention`). ``None``: no word is padding.

    Padding contributes exactly nothing, whatever it holds (NaN and inf included). A caption that is nothing
    but padding conditions on nothing: its ``sentence`` is ignored as well.
    """

    sentence: Tensor | None = None
    words: Tensor | None = None
    padding_mask: Tensor | None = None
