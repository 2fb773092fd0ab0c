"""Hypothesis strategies for what a conditional norm is called with: maps, captions, padding, and mistakes.

Values come from a drawn seed, so that shrinking works on shapes, masks and layouts, which is where norms break.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scbn.testing.contract import cast, each
from scbn.text import TextFeatures
from scbn.text import empty_captions as are_empty

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "scbn.testing.strategies needs hypothesis: pip install hypothesis. scbn.testing.check_conditional_norm does not"
    ) from error

LAYOUTS = ("contiguous", "channels_last", "transposed", "strided", "expanded", "offset", "batch_innermost")
TEXT_LAYOUTS = ("contiguous", "transposed", "expanded")
MISTAKES = ("missing", "type", "dtype", "rank", "size", "device", "sparse")
POISON = (math.nan, math.inf, -math.inf, 1e300)

_seeds = st.integers(0, 2**31 - 1)
_no_tensors = st.sampled_from(
    (3, 2.5, True, "a bird", b"", [], [[1.0]], (), {}, object(), torch.float32, nn.ReLU())
)


def shapes(
    *,
    channels: int | st.SearchStrategy[int] | None = None,
    batch: tuple[int, int] = (1, 4),
    spatial_axes: tuple[int, int] = (2, 2),
    max_side: int = 5,
    empty_axes: bool = False,
) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes (N, C, \\*spatial).

    Args:
        channels: C, or a strategy for it; drawn from 1 to 9 by default.
        batch: least and largest N.
        spatial_axes: fewest and most spatial axes, of 0 to 3.
        max_side: largest size of a spatial axis.
        empty_axes: whether N or a spatial axis is 0, seldom.
    """
    few, most = spatial_axes
    sides = st.lists(st.integers(1, max_side), min_size=few, max_size=most)
    width = channels if isinstance(channels, st.SearchStrategy) else _or_just(channels, st.integers(1, 9))
    drawn = st.tuples(st.integers(*batch), width, sides).map(lambda drawn: (drawn[0], drawn[1], *drawn[2]))
    return st.builds(_with_an_empty_axis, drawn, _seldom(range(4))) if empty_axes else drawn


@st.composite
def feature_maps(
    draw: st.DrawFn,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    layouts: Sequence[str] = LAYOUTS,
    poison: bool = False,
) -> Tensor:
    """A feature map x (N, C, \\*spatial) of normal values in some memory layout.

    Args:
        draw: hypothesis passes it.
        shape: of x, or a strategy for it; :func:`shapes` by default.
        dtype: of x.
        layouts: which to draw from, of ``"contiguous"``, ``"channels_last"`` (with channels innermost), ``"transposed"``
            (the last two axes swapped in memory), ``"strided"`` (every second position of a wider map), ``"expanded"``
            (one entry for all of an axis), ``"offset"`` (without the first sample of a larger batch) and
            ``"batch_innermost"``.
        poison: whether, seldom, one value is NaN or infinite, or all of them are 0, or near the end of the dtype's range.
    """
    _known(layouts, LAYOUTS)
    wanted = shape if isinstance(shape, st.SearchStrategy) else _or_just(shape, shapes())
    size = list(draw(wanted))
    layout, random = draw(st.sampled_from(list(layouts))), torch.Generator().manual_seed(draw(_seeds))
    value = draw(_seldom((0.0, torch.finfo(dtype).max ** 0.8, *POISON[:3]))) if poison else None

    def normal(sides: list[int]) -> Tensor:
        x = torch.randn(sides, generator=random, dtype=torch.float64) * 1.5 + 0.3
        return (x if value is None or not math.isfinite(value) else x * value).to(dtype)

    if layout == "channels_last":
        x = normal([size[0], *size[2:], size[1]]).movedim(-1, 1)
    elif layout == "transposed" and len(size) > 3:
        x = normal([*size[:-2], size[-1], size[-2]]).mT
    elif layout == "strided":
        x = normal([*size[:-1], 2 * size[-1]])[..., ::2]
    elif layout == "expanded":
        axis = draw(st.integers(0, len(size) - 1))
        x = normal([*size[:axis], min(1, size[axis]), *size[axis + 1 :]]).expand(size)
    elif layout == "offset":
        x = normal([size[0] + 1, *size[1:]])[1:]
    elif layout == "batch_innermost":
        x = normal([*size[1:], size[0]]).movedim(-1, 0)
    else:
        x = normal(size)
    if value is not None and not math.isfinite(value) and x.numel():
        x[draw(st.tuples(*(st.integers(0, side - 1) for side in size)))] = value
    return x


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
        if at_end:
            length = draw(st.integers(0 if empty_captions else 1, words))
            rows.append([word >= length for word in range(words)])
        else:  # the words of one number's bits: one draw, however many there are
            padding = draw(st.integers(0, 2**words - (1 if empty_captions else 2)))
            rows.append([bool(padding >> word & 1) for word in range(words)])
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
    layouts: Sequence[str] = TEXT_LAYOUTS,
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
        layouts: which to draw from, of ``"contiguous"``, ``"transposed"`` (words that lie as (N, D_w, T)) and
            ``"expanded"`` (one caption for all samples).
        empty_captions: whether a caption may be nothing but padding.
        poison: whether padding may hold NaN, infinity or huge values, which a norm must not use.
    """
    _known(layouts, TEXT_LAYOUTS)
    random = torch.Generator().manual_seed(draw(_seeds))
    words, layout = draw(st.integers(1, max_words)), draw(st.sampled_from(list(layouts)))
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
    text = cast(TextFeatures(sentence, features, mask), dtype)
    if layout == "expanded":
        return each(text, lambda t: t[:1].expand_as(t))
    if layout == "transposed" and text.words is not None:
        return text._replace(words=text.words.mT.contiguous().mT)
    return text


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
    """The arguments ``(x, text)`` of a conditional norm; options as :func:`shapes`, :func:`text_features`.

    ``poison`` is of the text: every value of x is finite.
    """
    shape = draw(shapes(channels=channels, batch=batch, spatial_axes=spatial_axes))
    x = draw(feature_maps(shape, dtype=dtype, layouts=layouts))
    text = draw(text_features(shape[0], word_dim=word_dim, sentence_dim=sentence_dim, dtype=dtype, poison=poison))
    return x, text


@st.composite
def mistakes(
    draw: st.DrawFn,
    tensor: Tensor,
    *,
    kinds: Sequence[str] = MISTAKES,
    ranks: Sequence[int] = (),
    axes: Sequence[int] | None = None,
) -> Any:
    """What a call that takes ``tensor`` must refuse in its place.

    Args:
        draw: hypothesis passes it.
        tensor: the right argument, with one axis or more.
        kinds: which mistakes to draw from, of ``"missing"`` (``None``), ``"type"`` (no tensor), ``"dtype"`` (whole or
            complex numbers, and bool, or floating point for a bool), ``"rank"`` (more axes, or fewer), ``"size"`` (one
            more along an axis, or one less), ``"device"`` (the meta device) and ``"sparse"``.
        ranks: numbers of axes, besides the tensor's own, that are right as well.
        axes: along which another size is a mistake; all by default.
    """
    _known(kinds, MISTAKES)
    kind = draw(st.sampled_from(list(kinds)))
    if kind == "missing":
        return None
    if kind == "type":
        return draw(_no_tensors)
    if kind == "device":
        return tensor.to("meta")
    if kind == "sparse":
        return tensor.detach().to_sparse()
    if kind == "dtype":
        also = (torch.float32,) if tensor.dtype == torch.bool else (torch.bool,)
        dtype = draw(st.sampled_from((torch.int64, torch.uint8, torch.complex64, *also)))
        # Zeros, because values that are not finite are no whole numbers.
        return torch.zeros(tensor.shape, dtype=dtype, device=tensor.device)
    if kind == "rank":
        rank = draw(st.sampled_from([rank for rank in range(7) if rank != tensor.dim() and rank not in ranks]))
        if rank == 0:
            return tensor.new_zeros(())
        if rank < tensor.dim():
            return tensor.flatten(0, tensor.dim() - rank)
        return tensor[(None,) * (rank - tensor.dim())]
    axis = draw(st.sampled_from(range(tensor.dim()) if axes is None else axes))
    if tensor.shape[axis] and draw(st.booleans()):
        return tensor.narrow(axis, 0, tensor.shape[axis] - 1)
    return torch.cat((tensor, tensor.new_zeros([*tensor.shape[:axis], 1, *tensor.shape[axis:][1:]])), axis)


def _known(names: Sequence[str], all_names: tuple[str, ...]) -> None:
    unknown = sorted(set(names) - set(all_names))
    if unknown:
        what = "kinds" if all_names is MISTAKES else "layouts"
        raise ValueError(f"{what} must be of {all_names}, got {unknown}")


def _or_just(value: Any, default: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return default if value is None else st.just(value)


def _seldom(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of the values in one draw of ten or so, else None, to which it shrinks."""
    return st.sampled_from([None] * (9 * len(values)) + list(values))


def _with_an_empty_axis(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    if axis is None or axis == 1 or axis >= len(shape):
        return shape
    return (*shape[:axis], 0, *shape[axis + 1 :])
