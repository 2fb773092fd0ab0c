"""Drawn calls of the pure functions, with arguments as modules pass them, and of the switch between backends."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from fuzz_judge import amplification, backends, fuzz, gives, normal, refuses, seeds
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from scbn import functional, ops, reference
from scbn.functional import BatchNormState
from scbn.ops.values import WordTables
from scbn.testing.strategies import feature_maps, padding_masks, shapes

NAMES = ("normalize", "sentence_scbn", "word_scbn", "word_attention", "visual_semantic_embedding")


@pytest.mark.parametrize("name", NAMES)
@fuzz(0.025)
@given(st.data())
def test_a_function_gives_what_the_formula_gives(name: str, data: st.DataObject) -> None:
    shape = data.draw(shapes(spatial_axes=(0, 3)), "shape of x")
    n, channels = shape[:2]
    assume(torch.Size(shape).numel() > channels)
    dtype = data.draw(st.sampled_from((torch.float64, torch.float32)), "dtype")
    x = data.draw(feature_maps(shape, dtype=dtype), "x")
    words, backend = data.draw(st.integers(1, 6), "words"), data.draw(backends(), "backend")
    mask = data.draw(st.none() | padding_masks(n, words), "padding")
    scale = data.draw(st.sampled_from((1.0, 0.0, 0.5, 2.0)), "scale")
    eps, momentum = (
        data.draw(st.sampled_from((1e-5, 1e-2)), "eps"),
        data.draw(st.sampled_from((0.1, 0.7)), "momentum"),
    )
    affine, both = data.draw(st.booleans(), "affine"), data.draw(st.booleans(), "both cues")
    tracked = data.draw(st.booleans(), "running statistics")
    of_batch = not tracked or data.draw(st.booleans(), "statistics of the batch")
    seed = data.draw(seeds, "seed")
    keys, gammas, betas = (normal(seed + i, n, words, channels, dtype=dtype) * 0.5 for i in range(3))
    gamma, beta = (normal(seed + i, n, channels, dtype=dtype) for i in (3, 4))
    weight, bias = (normal(seed + i, channels, dtype=dtype) if affine else None for i in (5, 6))
    running = (
        [normal(seed + 7, channels, dtype=dtype), normal(seed + 8, channels, dtype=dtype).abs() + 0.5]
        if tracked
        else []
    )
    norm = BatchNormState(*(running or (None, None)), weight, bias, of_batch, momentum, eps)

    precise = x.double()
    mean, var = reference.batch_statistics(precise) if of_batch else (t.double() for t in running)
    xhat = reference.normalize(precise, mean, var, eps)
    own = [
        torch.full((channels,), v).double() if t is None else t.double() for t, v in ((weight, 1.0), (bias, 0.0))
    ]
    after = [t.double() for t in running]
    if tracked and of_batch:
        learnt = (mean, reference.unbiased(var, x.numel() // channels))
        after = [reference.running_update(t, new, momentum) for t, new in zip(after, learnt, strict=True)]

    def word_oracle() -> Tensor:
        heard = torch.ones(n, 1) if mask is None else (~mask.all(1, keepdim=True)).double()
        rows = [t + extra.double() * heard * both for t, extra in zip(own, (gamma, beta), strict=True)]
        tables = WordTables(keys.double(), gammas.double(), betas.double(), *rows, mask)
        return reference.word_modulate(precise, xhat, tables, scale)

    def attention() -> Tensor:
        return reference.attention(precise, keys.double(), mask, scale)

    cues: dict[str, Any] = {"padding_mask": mask, "scale": scale}
    sentence = {"sentence_gamma": gamma, "sentence_beta": beta} if both else {}
    empty = None if mask is None else mask.all(1)
    heard = 1.0 if empty is None else (~empty).double()[:, None]
    call, want = {
        "normalize": (lambda: functional.normalize(x, norm), lambda: xhat),
        "sentence_scbn": (
            lambda: functional.sentence_scbn(x, gamma, beta, norm, empty=empty),
            lambda: reference.sentence_modulate(precise, xhat, gamma * heard + own[0], beta * heard + own[1]),
        ),
        "word_scbn": (lambda: functional.word_scbn(x, keys, gammas, betas, norm, **cues, **sentence), word_oracle),
        "word_attention": (
            lambda: functional.word_attention(x, keys, **cues),
            lambda: attention().reshape(n, words, *shape[2:]),
        ),
        "visual_semantic_embedding": (
            lambda: functional.visual_semantic_embedding(x, keys, **cues),
            lambda: torch.einsum("ntp,ntc->ncp", attention(), keys.double()).reshape(shape),
        ),
    }[name]
    moves = name in NAMES[:3]

    def run() -> dict[str, Tensor]:
        with ops.use_backend(backend):
            return {"y": call(), **({str(i): t for i, t in enumerate(running)} if moves else {})}

    tolerance = (1e-4 if dtype == torch.float32 else 1e-10) * amplification(x, var, eps)
    untouched = [t for t in (x, keys, gammas, betas, gamma, beta, weight, bias, mask) if t is not None]
    gives(
        run, lambda: {"y": want(), **({str(i): t for i, t in enumerate(after)} if moves else {})}, tolerance,
        *untouched, *([] if moves and of_batch else running), strict=backend != "triton",
    )  # fmt: skip


@fuzz(0.005)
@given(backends())
def test_a_backend_is_in_force_within_its_block(backend: ops.Backend) -> None:
    with ops.use_backend("eager"):
        with contextlib.suppress(KeyError), ops.use_backend(backend):
            assert ops.get_backend() == backend
            raise KeyError
        assert ops.get_backend() == "eager"


@pytest.mark.parametrize("switch", [ops.set_backend, lambda name: ops.use_backend(name).__enter__()])
@fuzz(0.005)
@given(st.sampled_from(("fast", "", None, 3, ["auto"], {}, ("cpu",), "TILED")) | st.text() | st.binary())
def test_a_backend_that_there_is_not_is_refused(switch: Any, name: Any) -> None:
    refuses(lambda: switch(name), "backend must be one of")
