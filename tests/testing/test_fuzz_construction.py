"""Drawn constructors, and batch norms to adopt: right ones, and ones with one wrong argument."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fuzz_judge import fuzz, gives, norm_options, refuses, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from scbn import SentenceSCBN, SiameseContrastiveLoss, TreeGenerator, VisualSemanticEmbedding, WordSCBN
from scbn.testing.strategies import feature_maps, text_features

SIZE = st.integers(1, 6)
BAD_SIZES = (None, 0, -1, 2.0, "8", True, [8], math.nan)
NO_SIZES = BAD_SIZES[1:]  # where None has a meaning
NO_NUMBERS = ("1", math.nan, math.inf, [1.0], 1j, True)
BAD_NUMBERS = (None, *NO_NUMBERS)
BAD_DTYPES = (torch.int32, "float32", 3, torch.complex64, torch.float8_e4m3fn)
BAD_NORM = {"num_features": BAD_SIZES, "eps": (*BAD_NUMBERS, 0, -1.0), "momentum": NO_NUMBERS, "dtype": BAD_DTYPES}


def _options(**required: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda *parts: {**parts[0], **parts[1]}, st.fixed_dictionaries(required), norm_options)


# Of each class the arguments to draw, and of each argument values that it must refuse.
CLASSES: dict[type[nn.Module], tuple[st.SearchStrategy[dict[str, Any]], dict[str, tuple[Any, ...]]]] = {
    SentenceSCBN: (
        _options(num_features=SIZE, sentence_dim=SIZE, hidden_dim=st.none() | SIZE),
        {**BAD_NORM, "sentence_dim": BAD_SIZES, "hidden_dim": NO_SIZES},
    ),
    WordSCBN: (
        _options(num_features=SIZE, word_dim=SIZE),
        {**BAD_NORM, "word_dim": BAD_SIZES, "scale": BAD_NUMBERS, "hidden_dim": (3,), "sentence_dim": NO_SIZES},
    ),
    VisualSemanticEmbedding: (
        st.fixed_dictionaries({"num_features": SIZE, "word_dim": SIZE}),
        {"num_features": BAD_SIZES, "word_dim": BAD_SIZES, "scale": BAD_NUMBERS, "dtype": BAD_DTYPES},
    ),
    SiameseContrastiveLoss: (
        st.fixed_dictionaries({"margin": st.sampled_from((1, 0.5)), "alpha": st.sampled_from((0, 0.1, 0.5))}),
        {
            "margin": (*BAD_NUMBERS, 0, -1.0),
            "alpha": (*BAD_NUMBERS, -0.1, 5.0),
            "reduction": ("avg", None, 3, ["mean"], {}),
        },
    ),
    TreeGenerator: (
        st.fixed_dictionaries(
            {
                "sentence_dim": SIZE,
                "word_dim": SIZE,
                "stages": st.sampled_from((1, 2)),
                "residual_blocks": st.just(0),
            }
            | {name: st.sampled_from(sizes) for name, sizes in (("base_size", (4, 8)), ("channels", (2, 3)))}
            | {"noise_dim": st.just(2), "condition_dim": st.just(2)}
        ),
        dict.fromkeys(("sentence_dim", "stages", "noise_dim", "condition_dim", "image_channels"), BAD_SIZES)
        | {
            "base_size": (*BAD_SIZES, 2, 6, 12),
            "channels": (*BAD_SIZES[:6], (2, 2, 2, 2)),
            "word_dim": NO_SIZES,
            "residual_blocks": tuple(value for value in BAD_SIZES if value != 0),
            "norm": ("layer", 3, None, ("word",) * 5, nn.BatchNorm2d(4), b"word", lambda channels: channels),
        },
    ),
}


@pytest.mark.parametrize("kind", CLASSES)
@fuzz(0.006)
@given(st.data())
def test_right_arguments_make_a_module(kind: Any, data: st.DataObject) -> None:
    made = kind(**data.draw(CLASSES[kind][0]))
    assert isinstance(made, nn.Module) and made.training


@pytest.mark.parametrize("kind", CLASSES)
@fuzz(0.01)
@given(st.data())
def test_a_wrong_argument_is_refused_by_name(kind: Any, data: st.DataObject) -> None:
    arguments, bad = CLASSES[kind]
    name = data.draw(st.sampled_from(sorted(bad)))
    given = {**data.draw(arguments), name: data.draw(st.sampled_from(bad[name]))}
    refuses(lambda: _make(kind, **given), name)


def _make(kind: Any, *arguments: Any, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):  # weights are drawn
        return kind(*arguments, **options)


@st.composite
def batch_norms(draw: st.DrawFn) -> Any:
    """Of any dimension, with statistics away from their initial values."""
    kind: Any = draw(st.sampled_from((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)))
    torch.manual_seed(draw(seeds))
    bn = kind(draw(st.integers(1, 5)), **draw(norm_options))
    for parameter in bn.parameters():
        nn.init.normal_(parameter)
    if bn.running_mean is not None:
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    return bn.to(draw(st.sampled_from((torch.float32, torch.float64)))).train(draw(st.booleans()))


adopters = st.sampled_from(
    (
        (SentenceSCBN, {"sentence_dim": 3}),
        (WordSCBN, {"word_dim": 4}),
        (WordSCBN, {"word_dim": 4, "sentence_dim": 3}),
    )
)


@fuzz(0.02)
@given(st.data(), adopters, batch_norms())
def test_an_adopted_norm_computes_what_it_computed(data: st.DataObject, adopter: Any, bn: Any) -> None:
    kind, dims = adopter
    held = next((t for t in (bn.weight, bn.running_mean) if t is not None), torch.empty(0)).dtype
    x = data.draw(feature_maps((3, bn.num_features, 4, 2), dtype=held))
    text = data.draw(text_features(3, **dims, dtype=held))
    given = bn.training or bn.running_mean is None
    mean, var = (None, None) if given else (bn.running_mean.clone(), bn.running_var.clone())
    want = F.batch_norm(x, mean, var, bn.weight, bn.bias, given, 0.0, bn.eps)

    def run() -> dict[str, Tensor]:
        layer = _make(kind.from_batch_norm, bn, **dims)
        assert layer.bn is bn and layer.training == bn.training
        return {"y": layer(x, text)}

    tolerance = 1e-4 if held == torch.float32 else 1e-9
    gives(run, lambda: {"y": want}, tolerance, x, *text, *bn.parameters())


@fuzz(0.02)
@given(st.data(), adopters, batch_norms())
def test_what_cannot_be_adopted_is_refused(data: st.DataObject, adopter: Any, bn: Any) -> None:
    kind, dims = adopter
    no_norms = (
        nn.InstanceNorm2d(3),
        nn.LazyBatchNorm2d(),
        nn.GroupNorm(1, 2),
        nn.BatchNorm2d,
        None,
        3,
        "bn",
        [bn],
    )
    settled = {"eps": 1.0, "momentum": 0.3, "num_features": 3, "affine": True, "track_running_stats": True}
    wrong = [(no_norm, dims, "from_batch_norm adopts|no features yet") for no_norm in no_norms]
    wrong += [(bn, {**dims, name: value}, name) for name, value in settled.items()]
    wrong += [(bn, {**dims, "dtype": dtype}, "dtype") for dtype in BAD_DTYPES]
    sizes = [(name, value) for name in dims for value in (NO_SIZES if name == "sentence_dim" else BAD_SIZES)]
    wrong += [(bn, {**dims, name: value}, name) for name, value in sizes]
    norm, arguments, names = data.draw(st.sampled_from(wrong))
    refuses(lambda: _make(kind.from_batch_norm, norm, **arguments), names, bn)
