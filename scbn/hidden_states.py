"""From what text models of the ``transformers`` library return to sentence, words and padding."""

from __future__ import annotations

import torch
from torch import Tensor


def cues(
    states: Tensor, attention_mask: Tensor | None, pooled: Tensor | None, special_tokens_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sentence (N, D_s), words (N, T, D_w) and padding mask (N, T); see :meth:`scbn.TextFeatures.from_hidden_states`."""
    if not isinstance(states, Tensor) or states.dim() != 3 or not states.is_floating_point():
        raise ValueError(
            f"last_hidden_state must be floating, (N, T, D), got {_told(states)}; of a model's output take "
            "output.last_hidden_state"
        )
    tokens = _checked("attention_mask", attention_mask, states)
    special = _checked("special_tokens_mask", special_tokens_mask, states)
    if tokens is not None:
        _not_inverted(tokens)
    if pooled is None:
        sentence = _mean(states, tokens)
    elif (
        isinstance(pooled, Tensor)
        and pooled.is_floating_point()
        and pooled.dim() == 2
        and len(pooled) == len(states)
    ):
        sentence = pooled
    else:
        raise ValueError(
            f"pooled must be floating, (N, D) with N={len(states)}, got {_told(pooled)}; leave it out for the mean of the tokens"
        )
    padding = None if tokens is None else ~tokens.bool()
    if special is not None:
        padding = special.bool() if padding is None else padding | special.bool()
    return sentence, states, padding


def _checked(name: str, mask: Tensor | None, states: Tensor) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or tuple(mask.shape) != tuple(states.shape[:2]):
        raise ValueError(f"{name} must be (N, T) = {tuple(states.shape[:2])}, got {_told(mask)}")
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"{name} must be the tokenizer's, of integers or bool with 1 = token, got {mask.dtype}; a mask of 0 and -inf to be "
            "added to logits is (mask == 0)"
        )
    if mask.device != states.device:
        raise ValueError(
            f"{name} is on {mask.device}, last_hidden_state on {states.device}; move it with {name}.to(...)"
        )
    if _readable(mask) and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"{name} must hold 0 and 1, got values from {int(mask.min())} to {int(mask.max())}")
    return mask


def _not_inverted(mask: Tensor) -> None:
    """Of a batch padded to its longest caption, which has no padding, an inverted mask has a caption of no token."""
    if not _readable(mask) or mask.numel() == 0:
        return
    none = ~mask.bool().any(1)
    if bool(none.any()):
        raise ValueError(
            f"attention_mask has no token in caption {int(none.nonzero()[0, 0])}: it is 1 where there is a token, so this may be "
            "a padding mask, of which pass ~mask (or 1 - mask). For a caption that is empty indeed, build "
            "TextFeatures(sentence, words, padding_mask) yourself"
        )


def _mean(states: Tensor, tokens: Tensor | None) -> Tensor:
    """Over the tokens, special ones included, as sentence encoders are trained."""
    if tokens is None:
        return states.mean(1)
    kept = states.masked_fill(~tokens.bool()[..., None], 0)  # what padding holds must not reach the mean
    total = kept.sum(1, dtype=torch.float32 if states.dtype.itemsize < 4 else states.dtype)
    return (total / tokens.sum(1, keepdim=True).clamp(min=1)).to(states.dtype)


def _readable(mask: Tensor) -> bool:
    """Whether looking at values costs nothing: no device to wait for, no graph to break."""
    return mask.device.type == "cpu" and not torch.compiler.is_compiling() and type(mask) is Tensor


def _told(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
