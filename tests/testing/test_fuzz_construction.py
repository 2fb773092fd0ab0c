"""Drawn constructors, batch norms to adopt and names of backends: right ones, and ones that must be refused."""

from __future__ import annotations

import contextlib
import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from helpers.fuzz_judge import backends, fuzz, gives, norm_options, refuses, seeds
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from scbn import SentenceSCBN, SiameseContrastiveLoss, TreeGenerator, VisualSemanticEmbedding, WordSCBN, ops
from scbn.testing.strategies import feature_maps, text_features

# The names with NO_ are without None, where it has a meaning.
NO_SIZES, NO_NUMBERS = (0, -1, 2.0, "8", True, [8], math.nan), ("1", math.nan, math.inf, [1.0], 1j, True)
SIZES, NUMBERS = (None, *NO_SIZES), (None, *NO_NUMBERS)
DTYPES = (torch.int32, "float32", 3, torch.complex64, torch.float8_e4m3fn)
NORM = {"num_features": SIZES, "eps": (*NUMBERS, 0, -1.0), "momentum": NO_NUMBERS, "dtype": DTYPES}
WORDS = {"num_features": SIZES, "word_dim": SIZES, "scale": NUMBERS, "dtype": DTYPES}
# Of each class right arguments, and of each argument values that it must refuse.
CLASSES: dict[Any, tuple[dict[str, Any], dict[str, Any]]] = {
    SentenceSCBN: (
        {"num_features": 3, "sentence_dim": 2},
        {**NORM, "sentence_dim": SIZES, "hidden_dim": NO_SIZES},
    ),
    WordSCBN: (
        {"num_features": 3, "word_dim": 2},
        {**NORM, **WORDS, "hidden_dim": (3,), "sentence_dim": NO_SIZES},
    ),
    VisualSemanticEmbedding: ({"num_features": 3, "word_dim": 2}, WORDS),
    SiameseContrastiveLoss: (
        {"margin": 1, "alpha": 0.1},
        {
            "margin": (*NUMBERS, 0, -1.0),
            "alpha": (*NUMBERS, -0.1, 5.0),
            "reduction": ("avg", None, 3, ["mean"], {}),
        },
    ),
    TreeGenerator: (
        {"sentence_dim": 3, "word_dim": 2, "stages": 2, "base_size": 8, "channels": 2, "residual_blocks": 0},
        {
            **dict.fromkeys(("sentence_dim", "stages", "noise_dim", "condition_dim", "image_channels"), SIZES),
            "word_dim": NO_SIZES,
            "base_size": (*SIZES, 2, 6, 12),
            "channels": (*SIZES[:6], (2, 2, 2, 2)),
            "residual_blocks": SIZES[2:],
            "norm": ("layer", 3, None, ("word",) * 5, nn.BatchNorm2d(4), b"word", lambda channels: channels),
        },
    ),
}


def _make(kind: Any, *arguments: Any, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):  # weights are drawn
        return kind(*arguments, **options)


@pytest.mark.parametrize("kind", CLASSES)
@fuzz(0.012)
@given(st.data())
def test_a_constructor_refuses_a_wrong_argument_by_name(kind: Any, data: st.DataObject) -> None:
    right, bad = CLASSES[kind]
    if "momentum" in bad:
        right = right | data.draw(norm_options)
    assert _make(kind, **right).training
    name = data.draw(st.sampled_from(sorted(bad)))
    wrong = right | {name: data.draw(st.sampled_from(bad[name]))}
    refuses(lambda: _make(kind, **wrong), name)


@st.composite
def batch_norms(draw: st.DrawFn) -> Any:
    """Of any dimension, with statistics away from their initial values."""
    kind: Any = draw(st.sampled_from((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)))
    torch.manual_seed(draw(seeds))
    bn = kind(draw(st.integers(1, 5)), **draw(norm_options))
    for t in (*bn.parameters(), *([] if bn.running_mean is None else [bn.running_mean, bn.running_var])):
        t.data.uniform_(0.5, 2)
    return bn.to(draw(st.sampled_from((torch.float32, torch.float64)))).train(draw(st.booleans()))


DIMS = ({"sentence_dim": 3}, {"word_dim": 4}, {"word_dim": 4, "sentence_dim": 3})


def _adopt(bn: Any, dims: dict[str, Any]) -> Any:
    return _make((WordSCBN if "word_dim" in dims else SentenceSCBN).from_batch_norm, bn, **dims)


@fuzz(0.02)
@given(st.data(), st.sampled_from(DIMS), batch_norms())
def test_an_adopted_norm_computes_what_it_computed(data: st.DataObject, dims: Any, bn: Any) -> None:
    held = next((t for t in (bn.weight, bn.running_mean) if t is not None), torch.empty(0)).dtype
    x = data.draw(feature_maps((3, bn.num_features, 4, 2), dtype=held))
    text = data.draw(text_features(3, **dims, dtype=held))
    of_batch = bn.training or bn.running_mean is None
    given = (None, None) if of_batch else (bn.running_mean, bn.running_var)
    want = F.batch_norm(x, *given, bn.weight, bn.bias, of_batch, 0.0, bn.eps)

    def run() -> dict[str, Tensor]:
        layer = _adopt(bn, dims)
        assert layer.bn is bn and layer.training == bn.training
        return {"y": layer(x, text)}

    gives(run, lambda: {"y": want}, 1e-4 if held == torch.float32 else 1e-9, x, *text, *bn.parameters())


@fuzz(0.02)
@given(st.data(), st.sampled_from(DIMS), batch_norms())
def test_what_cannot_be_adopted_is_refused(data: st.DataObject, dims: Any, bn: Any) -> None:
    wrong: dict[str, Any] = {
        "eps": [1.0],
        "momentum": [0.3],
        "num_features": [3],
        "affine": [True],
        "dtype": DTYPES,
    }
    wrong |= dict.fromkeys(dims, NO_SIZES) | {"scale" if "word_dim" in dims else "hidden_dim": NO_NUMBERS}
    name = data.draw(st.sampled_from(sorted(wrong)))
    value = data.draw(st.sampled_from(wrong[name]))
    refuses(lambda: _adopt(bn, {**dims, name: value}), name, bn)
    norms = (nn.InstanceNorm2d(3), nn.LazyBatchNorm2d(), nn.GroupNorm(1, 2), nn.BatchNorm2d, None, 3, "bn", [bn])
    no_norm = data.draw(st.sampled_from(norms))
    refuses(lambda: _adopt(no_norm, dims), "from_batch_norm adopts|no features yet")


@fuzz(0.005)
@given(backends())
def test_a_backend_is_in_force_within_its_block(backend: ops.Backend) -> None:
    with ops.use_backend("eager"):
        with contextlib.suppress(KeyError), ops.use_backend(backend):
            assert ops.get_backend() == backend
            raise KeyError
        assert ops.get_backend() == "eager"


@fuzz(0.01)
@given(st.sampled_from(("fast", "", None, 3, ["auto"], {}, ("cpu",), "TILED")) | st.text() | st.binary())
def test_a_backend_that_there_is_not_is_refused(name: Any) -> None:
    assume(name not in get_args(ops.Backend))
    for switch in (ops.set_backend, lambda name: ops.use_backend(name).__enter__()):
        refuses(lambda switch=switch: switch(name), "backend must be one of")
