"""Checks of the text that a layer is called with."""

from __future__ import annotations

import torch
from torch import Tensor

from scbn.checks.features import beside, dense, floating
from scbn.text import TextFeatures


def sentence_cue(
    text: TextFeatures | Tensor, x: Tensor, sentence_dim: int, what: str = "x"
) -> tuple[Tensor, Tensor | None]:
    """The sentence vectors of ``text`` and its padding mask, checked against ``x``, which an error calls ``what``."""
    sentence, mask = (text.sentence, text.padding_mask) if isinstance(text, TextFeatures) else (text, None)
    if sentence is None:
        raise ValueError(
            "this layer needs the sentence cue, but text.sentence is None; pass TextFeatures(sentence=...) "
            f"of shape (N, {sentence_dim})"
        )
    _cue("sentence", sentence, x, ("N", sentence_dim), what)
    if mask is not None:
        _mask(mask, sentence, text.words if isinstance(text, TextFeatures) else None)
    return sentence, mask


def word_cue(
    text: TextFeatures | Tensor, x: Tensor, word_dim: int, what: str = "x"
) -> tuple[Tensor, Tensor | None]:
    """The word vectors of ``text`` and its padding mask, checked against ``x``, which an error calls ``what``."""
    words, mask = (text.words, text.padding_mask) if isinstance(text, TextFeatures) else (text, None)
    if words is None:
        raise ValueError(
            "this layer needs the word cue, but text.words is None; pass TextFeatures(words=...) "
            f"of shape (N, T, {word_dim})"
        )
    _cue("words", words, x, ("N", "T", word_dim), what)
    if words.shape[1] == 0:
        raise ValueError(
            f"words must hold at least one word, got {words.shape=}; give an empty caption one word and mask it"
        )
    if mask is not None:
        _mask(mask, words, words)
    return words, mask


def _cue(name: str, cue: Tensor, x: Tensor, shape: tuple[str | int, ...], what: str) -> None:
    want = f"({', '.join(str(axis) for axis in shape)})"
    if not isinstance(cue, Tensor):
        raise ValueError(
            f"{name} must be a tensor of shape {want}, got {type(cue).__name__}; "
            "pass TextFeatures(...) or the plain tensor of the one cue the layer needs"
        )
    if cue.dim() != len(shape):
        raise ValueError(f"{name} must have shape {want}, got {name}.shape={tuple(cue.shape)}")
    if cue.shape[-1] != shape[-1]:
        raise ValueError(
            f"the last axis of {name} must have {shape[-1]} features, got {name}.shape={tuple(cue.shape)}; "
            "build the layer with the encoder's size, or transpose (AttnGAN's words are (N, D, T))"
        )
    floating(name, cue, "pass encoded features, not word indices")
    dense(name, cue)
    beside(name, cue, what, x.device)
    if cue.shape[0] != x.shape[0]:
        raise ValueError(
            f"{what} and {name} must have the same batch size, got {what}.shape={tuple(x.shape)} and "
            f"{name}.shape={tuple(cue.shape)}; "
            "repeat the text once for every image of a caption"
        )


def _mask(mask: Tensor, cue: Tensor, words: Tensor | None) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"padding_mask must be bool with True = padding, got {kind}; for a mask of ones and zeros "
            "where 1 = padding write mask.bool(), where 1 = word write ~mask.bool()"
        )
    dense("padding_mask", mask)
    known = words if isinstance(words, Tensor) and words.dim() == 3 else None
    if (
        mask.dim() != 2
        or mask.shape[0] != cue.shape[0]
        or mask.shape[1] == 0
        or (known is not None and mask.shape[1] != known.shape[1])
    ):
        want = tuple(known.shape[:2]) if known is not None else f"({cue.shape[0]}, T)"
        raise ValueError(f"padding_mask must have shape (N, T) = {want}, got {mask.shape=}")
    beside("padding_mask", mask, "the text", cue.device)


def both_cues(text: TextFeatures | Tensor) -> None:
    """Require more than one tensor, for a layer with both cues."""
    if not isinstance(text, TextFeatures):
        raise ValueError(
            "this layer needs both cues (it has a sentence_dim), but text is one tensor; "
            "pass TextFeatures(sentence=..., words=...)"
        )


def text_features(text: TextFeatures) -> None:
    """Require the generator's text."""
    if not isinstance(text, TextFeatures):
        raise ValueError(f"text must be a TextFeatures(sentence=..., words=...), got {type(text).__name__}")
