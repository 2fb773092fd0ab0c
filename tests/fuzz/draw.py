"""Random arguments: maps in every layout, captions, layers, and things that are none of these."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from scbn import SentenceSCBN, TextFeatures, VisualSemanticEmbedding, WordSCBN, ops

FLOATS = (torch.float64, torch.float32, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous",) * 3 + ("channels_last", "transposed", "strided", "expanded", "offset", "batch innermost")
POISON = (math.nan, math.inf, -math.inf, 3e4)


def path(rng: Random) -> ops.Backend:
    """A path of the switch: all that run on a CPU, the slow ones seldom."""
    rare = rng.random()
    if rare < 0.01 and ops.interpreted():
        return "triton"
    return rng.choice(("auto", "eager", "cpu", "cpu", "reference"))


def shape(rng: Random, channels: int | None = None) -> tuple[int, ...]:
    """(N, C, *spatial), seldom with nothing along an axis."""
    sides = [rng.randint(1, 5) for _ in range(rng.choice((0, 1, 2, 2, 2, 3)))]
    if sides and rng.random() < 0.02:
        sides[rng.randrange(len(sides))] = 0
    n = 0 if rng.random() < 0.02 else rng.randint(1, 4)
    return (n, channels or (rng.choice((17, 33, 64)) if rng.random() < 0.05 else rng.randint(1, 9)), *sides)


def normal(dtype: torch.dtype, *size: int, spread: float = 1.0, shift: float = 0.0) -> Tensor:
    return (torch.randn(size, dtype=torch.float64) * spread + shift).to(dtype)


def feature_map(rng: Random, size: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, str]:
    """x of this shape and what is special about it: its layout, or values that are not finite."""
    layout = rng.choice(LAYOUTS)

    def made(*wanted: int) -> Tensor:
        return normal(dtype, *wanted, spread=1.5, shift=0.3)

    if layout == "channels_last":
        x = made(size[0], *size[2:], size[1]).movedim(-1, 1)
    elif layout == "transposed" and len(size) > 3:
        x = made(*size[:-2], size[-1], size[-2]).mT
    elif layout == "strided":
        x = made(*size[:-1], 2 * size[-1])[..., ::2]
    elif layout == "expanded":
        axis = rng.randrange(len(size))
        x = made(*size[:axis], min(1, size[axis]), *size[axis + 1 :]).expand(size)
    elif layout == "offset":
        x = made(size[0] + 1, *size[1:])[1:]
    elif layout == "batch innermost":
        x = made(*size[1:], size[0]).movedim(-1, 0)
    else:
        layout, x = "contiguous", made(*size)
    values = rng.random()
    if x.numel() and layout != "expanded" and values < 0.04:
        x[tuple(rng.randrange(side) for side in size)] = rng.choice((math.nan, math.inf, -math.inf))
        layout += ", not finite"
    elif values < 0.06:
        x = x * (1e4 if dtype == torch.float16 else 1e30)
        layout += ", huge"
    elif values < 0.08:
        x = torch.zeros_like(x)
        layout += ", zero"
    return x, layout


def captions(rng: Random, n: int, word_dim: int | None, sentence_dim: int | None) -> TextFeatures:
    """Captions of any precision, with any padding, which may hold anything."""
    words, dtype = (rng.choice((40, 130)) if rng.random() < 0.02 else rng.randint(1, 6)), rng.choice(FLOATS)
    mask = None
    if rng.random() < 0.6:
        mask = torch.rand(n, words) < rng.choice((0.2, 0.5, 0.9))
        if n and rng.random() < 0.3:
            mask[rng.randrange(n)] = True
    sentence = None if sentence_dim is None else normal(dtype, n, sentence_dim)
    heard = None if word_dim is None else normal(dtype, n, words, word_dim)
    if mask is not None and rng.random() < 0.4:
        value = rng.choice(POISON)
        heard = None if heard is None else heard.masked_fill(mask[:, :, None], value)
        sentence = None if sentence is None else sentence.masked_fill(mask.all(1, keepdim=True), value)
    if rng.random() < 0.1:  # every caption the first one, without a copy
        sentence, heard, mask = (None if t is None else t[:1].expand_as(t) for t in (sentence, heard, mask))
    if heard is not None and rng.random() < 0.2:  # as an encoder with (N, D, T) gives them
        heard = heard.mT.contiguous().mT
    return TextFeatures(sentence, heard, mask)


def norm_options(rng: Random) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if rng.random() < 0.4:
        options["momentum"] = rng.choice((None, 0.1, 0.5, 1.0, 0.0))
    if rng.random() < 0.2:
        options["eps"] = rng.choice((1e-5, 1e-3, 0.1, 1))
    if rng.random() < 0.2:
        options["affine"] = False
    if rng.random() < 0.15:
        options["track_running_stats"] = False
    return options


def layer(rng: Random, cue: str, channels: int, dtype: torch.dtype) -> nn.Module:
    """A layer of the cue, ``"embedding"`` included, with every value away from its initial one, in any mode."""
    word_dim, sentence_dim = rng.randint(1, 7), rng.randint(1, 7)
    options = {} if cue == "embedding" else norm_options(rng)
    if cue != "sentence" and rng.random() < 0.3:
        options["scale"] = rng.choice((0.0, 0.3, 2, -1.0))
    if cue in ("sentence", "both") and rng.random() < 0.3:
        options["hidden_dim"] = rng.randint(1, 6)
    if cue == "embedding":
        made: nn.Module = VisualSemanticEmbedding(channels, word_dim, **options)
    elif cue == "sentence":
        made = SentenceSCBN(channels, sentence_dim, **options)
    else:
        made = WordSCBN(channels, word_dim, sentence_dim=sentence_dim if cue == "both" else None, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + 0.1)
            parameter.requires_grad_(rng.random() < 0.8)
        bn = getattr(made, "bn", None)
        if bn is not None and bn.running_mean is not None:
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.5, 2)
            bn.num_batches_tracked.fill_(rng.randint(0, 3))
    made.train(rng.random() < 0.6)
    if bn is not None and rng.random() < 0.05:
        bn.train(not bn.training)  # frozen statistics, or only they move
    return made.to(dtype)


def junk(rng: Random) -> Any:
    """Anything but a tensor or text."""
    return rng.choice((None, 3, 2.5, True, "a bird", b"", [], [[1.0]], (), {}, object(), torch.float32, nn.ReLU()))


def wrong_tensor(rng: Random, t: Tensor) -> tuple[str, Tensor]:
    """The tensor of a type that computes nothing."""
    kind = rng.choice(("int", "bool", "complex", "sparse"))
    if kind == "sparse":
        return "sparse", t.detach().float().to_sparse()
    dtype = {"int": rng.choice((torch.int64, torch.uint8)), "bool": torch.bool, "complex": torch.complex64}[kind]
    return kind, t.detach().float().nan_to_num().clamp(-99, 99).to(dtype)


def wrong_size(rng: Random, t: Tensor, axis: int) -> Tensor:
    """One more, or one less, along an axis."""
    if t.shape[axis] and rng.random() < 0.5:
        return t.narrow(axis, 0, t.shape[axis] - 1)
    return torch.cat(
        (t, t.new_zeros([1 if i == axis % t.dim() else side for i, side in enumerate(t.shape)])), axis
    )


def wrong_rank(rng: Random, t: Tensor) -> Tensor:
    return t[None] if rng.random() < 0.5 else t.flatten()
