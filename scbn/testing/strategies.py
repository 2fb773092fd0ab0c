"""Hypothesis strategies for what a conditional norm is called with: maps, captions, padding.

Values come from a drawn seed, so that shrinking works on shapes, masks and layouts, which is where norms break.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scbn.testing.contract import cast
from scbn.text import TextFeatures
from scbn.text import empty_captions as are_empty

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "scbn.testing.strategies needs hypothesis: pip install hypothesis. scbn.testing.check_conditional_norm does not"
    ) from error

LAYOUTS = ("contiguous", "channels_last", "transposed", "strided", "expanded")
POISON = (math.nan, math.inf, -math.inf, 1e300)

_seeds = st.integers(0, 2**31 - 1)


def shapes(
    *,
    channels: int | None = None,
    batch: tuple[int, int] = (1, 4),
    spatial_axes: tuple[int, int] = (2, 2),
    max_side: int = 5,
) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes (N, C, \\*spatial).

    Args:
        channels: C; drawn from 1 to 9 by default.
        batch: least and largest N.
        spatial_axes: fewest and most spatial axes, of 0 to 3.
        max_side: largest size of a spatial axis.
    """
    few, most = spatial_axes
    sides = st.lists(st.integers(1, max_side), min_size=few, max_size=most)
    width = st.integers(1, 9) if channels is None else st.just(channels)
    return st.tuples(st.integers(*batch), width, sides).map(lambda drawn: (drawn[0], drawn[1], *drawn[2]))


@st.composite
def feature_maps(
    draw: st.DrawFn,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    layouts: Sequence[str] = LAYOUTS,
) -> Tensor:
    """A feature map x (N, C, \\*spatial) of normal values in some memory layout.

    Args:
        draw: hypothesis passes it.
        shape: of x, or a strategy for it; :func:`shapes` by default.
        dtype: of x.
        layouts: which to draw from, of ``"contiguous"``, ``"channels_last"`` (with channels innermost), ``"transposed"``
            (the last two axes swapped in memory), ``"strided"`` (every second position of a wider map) and
            ``"expanded"`` (one channel for all).
    """
    unknown = sorted(set(layouts) - set(LAYOUTS))
    if unknown:
        raise ValueError(f"layouts must be of {LAYOUTS}, got {unknown}")
    wanted = shapes() if shape is None else shape if isinstance(shape, st.SearchStrategy) else st.just(shape)
    size = list(draw(wanted))
    layout, random = draw(st.sampled_from(list(layouts))), torch.Generator().manual_seed(draw(_seeds))

    def normal(sides: list[int]) -> Tensor:
        return (torch.randn(sides, generator=random, dtype=torch.float64) * 1.5 + 0.3).to(dtype)

    if layout == "channels_last":
        return normal([size[0], *size[2:], size[1]]).movedim(-1, 1)
    if layout == "transposed" and len(size) > 3:
        return normal([*size[:-2], size[-1], size[-2]]).mT
    if layout == "strided":
        return normal([*size[:-1], 2 * size[-1]])[..., ::2]
    if layout == "expanded":
        return normal([size[0], 1, *size[2:]]).expand(size)
    return normal(size)


@st.composite
def padding_masks(draw: st.DrawFn, batch: int, words: int, *, empty_captions: bool = True) -> Tensor:
    """A padding mask (N, T), True = padding: captions of different lengths, padded at the end or anywhere.

    Args:
        draw: hypothesis passes it.
        batch, words: N and T.
        empty_captions: whether a caption may be nothing but padding.
    """
    at_end = draw(st.booleans())
    rows = []
    for _ in range(batch):
        length = draw(st.integers(0 if empty_captions else 1, words))
        unmasked = range(length) if at_end else draw(st.permutations(range(words)))[:length]
        rows.append([word not in unmasked for word in range(words)])
    return torch.tensor(rows, dtype=torch.bool).reshape(batch, words)


@st.composite
def text_features(
    draw: st.DrawFn,
    batch: int,
    *,
    word_dim: int | None = None,
    sentence_dim: int | None = None,
    max_words: int = 6,
    dtype: torch.dtype = torch.float32,
    empty_captions: bool = True,
    poison: bool = False,
) -> TextFeatures:
    """Captions as an encoder gives them: sentence (N, D_s), words (N, T, D_w), perhaps a padding mask (N, T).

    Args:
        draw: hypothesis passes it.
        batch: N.
        word_dim, sentence_dim: D_w and D_s; ``None`` leaves that cue out.
        max_words: largest T.
        dtype: of both cues.
        empty_captions: whether a caption may be nothing but padding.
        poison: whether padding may hold NaN, infinity or huge values, which a norm must not hear.
    """
    random = torch.Generator().manual_seed(draw(_seeds))
    words = draw(st.integers(1, max_words))
    mask = draw(st.none() | padding_masks(batch, words, empty_captions=empty_captions))
    sentence = features = None
    if sentence_dim is not None:
        sentence = torch.randn(batch, sentence_dim, generator=random, dtype=torch.float64)
    if word_dim is not None:
        features = torch.randn(batch, words, word_dim, generator=random, dtype=torch.float64)
    if poison and mask is not None:
        value = draw(st.sampled_from(POISON))
        features = None if features is None else features.masked_fill(mask[:, :, None], value)
        sentence = None if sentence is None else sentence.masked_fill(are_empty(mask)[:, None], value)
    return cast(TextFeatures(sentence, features, mask), dtype)


@st.composite
def conditional_inputs(
    draw: st.DrawFn,
    *,
    channels: int | None = None,
    word_dim: int | None = None,
    sentence_dim: int | None = None,
    batch: tuple[int, int] = (2, 4),
    spatial_axes: tuple[int, int] = (2, 2),
    dtype: torch.dtype = torch.float32,
    layouts: Sequence[str] = LAYOUTS,
    poison: bool = False,
) -> tuple[Tensor, TextFeatures]:
    """The arguments ``(x, text)`` of a conditional norm; options as :func:`shapes`, :func:`text_features`."""
    shape = draw(shapes(channels=channels, batch=batch, spatial_axes=spatial_axes))
    x = draw(feature_maps(shape, dtype=dtype, layouts=layouts))
    text = draw(text_features(shape[0], word_dim=word_dim, sentence_dim=sentence_dim, dtype=dtype, poison=poison))
    return x, text
