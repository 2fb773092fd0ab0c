"""Calls of the pure functions with arguments as modules pass them."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor

from scbn import functional, ops, reference
from scbn.functional import BatchNormState
from scbn.ops.values import WordTables

from . import draw
from .call import Call


def function(rng: Random) -> Call:
    """normalize, sentence_scbn, word_scbn, word_attention or visual_semantic_embedding."""
    size = draw.shape(rng)
    while len(size) and torch.Size(size).numel() in (0, size[1]):
        size = draw.shape(rng)
    n, channels = size[:2]
    dtype = rng.choice((torch.float64, torch.float32))
    x, layout = draw.feature_map(rng, size, dtype)
    while layout.endswith(("finite", "huge")):
        x, layout = draw.feature_map(rng, size, dtype)
    words, scale, which = rng.randint(1, 6), rng.choice((0.0, 0.5, 1.0, 2.0)), draw.path(rng)
    tables = [draw.normal(dtype, n, words, channels, spread=0.5) for _ in range(3)]
    pair = [draw.normal(dtype, n, channels) for _ in range(2)]
    mask = None if rng.random() < 0.4 else torch.rand(n, words) < 0.5
    own = None if rng.random() < 0.2 else [draw.normal(dtype, channels) for _ in range(2)]
    stats = (
        None if rng.random() < 0.2 else [draw.normal(dtype, channels), draw.normal(dtype, channels).abs() + 0.5]
    )
    of_batch, momentum, eps = stats is None or rng.random() < 0.6, rng.choice((0.1, 0.7)), rng.choice((1e-5, 1e-2))
    norm = BatchNormState(*(stats or (None, None)), *(own or (None, None)), of_batch, momentum, eps)
    exact = x.double()
    mean, var = reference.batch_statistics(exact) if of_batch or stats is None else (s.double() for s in stats)
    xhat = reference.normalize(exact, mean, var, eps)
    own_gamma, own_beta = (
        (t.double() for t in own) if own else (torch.ones(channels).double(), torch.zeros(channels).double())
    )
    keys, gamma, beta = (t.double() for t in tables)
    moved = {}
    if stats is not None:
        moved = {"running_mean": stats[0].double(), "running_var": stats[1].double()}
        if of_batch:
            unbiased = reference.unbiased(var, x.numel() // channels)
            moved = {"running_mean": reference.running_update(moved["running_mean"], mean, momentum),
                     "running_var": reference.running_update(moved["running_var"], unbiased, momentum)}  # fmt: skip
    cues: dict[str, Any] = {"padding_mask": mask, "scale": scale}
    both = rng.random() < 0.5
    if both:
        cues |= {"sentence_gamma": pair[0], "sentence_beta": pair[1]}

    def word_oracle() -> Tensor:
        first, second = own_gamma.expand(n, -1), own_beta.expand(n, -1)
        if both:
            heard = torch.ones(n, 1) if mask is None else (~mask.all(1, keepdim=True)).double()
            first, second = first + pair[0].double() * heard, second + pair[1].double() * heard
        return reference.word_modulate(exact, xhat, WordTables(keys, gamma, beta, first, second, mask), scale)

    def sentence_oracle() -> Tensor:
        return reference.sentence_modulate(exact, xhat, pair[0].double() + own_gamma, pair[1].double() + own_beta)

    def mapped() -> Tensor:
        return reference.attention(exact, keys, mask, scale)

    known: dict[str, tuple[Any, Any, bool]] = {
        "normalize": (lambda: functional.normalize(x, norm), lambda: xhat, True),
        "sentence_scbn": (lambda: functional.sentence_scbn(x, *pair, norm), sentence_oracle, True),
        "word_scbn": (lambda: functional.word_scbn(x, *tables, norm, **cues), word_oracle, True),
        "word_attention": (
            lambda: functional.word_attention(x, tables[0], padding_mask=mask, scale=scale),
            lambda: mapped().reshape(n, words, *size[2:]),
            False,
        ),
        "visual_semantic_embedding": (
            lambda: functional.visual_semantic_embedding(x, tables[0], padding_mask=mask, scale=scale),
            lambda: torch.einsum("ntp,ntc->ncp", mapped(), keys).reshape(size),
            False,
        ),
    }
    name = rng.choice(sorted(known))
    call, want, moves = known[name]

    def run() -> dict[str, Tensor]:
        with ops.use_backend(which):
            y = call()
        return {"y": y} | (dict(zip(moved, stats, strict=True)) if moves and stats is not None else {})

    spread = exact.flatten(2) if exact.dim() > 2 else exact[:, :, None]
    amplified = float((spread.abs().amax((0, 2)) / torch.sqrt(var + eps)).max().clamp(min=1))
    precision = 1e-4 if dtype == torch.float32 else 1e-10
    about = f"x {tuple(x.shape)} {dtype} ({layout}), {words} words, {mask is not None=}, {which}, {of_batch=}"
    return Call(
        f"functional.{name}",
        about,
        run,
        lambda: {"y": want(), **(moved if moves else {})},
        tolerance=precision * amplified,
        strict=which not in ("triton",),
        inputs=[x, *tables, *pair],
    )
