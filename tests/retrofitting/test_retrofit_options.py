"""Options of a retrofit, and which norms it takes."""

from __future__ import annotations

import pytest
import torch
from helpers.models import Checkpointed, Small, text_of
from torch import nn

import scbn
from scbn import TextFeatures


def test_a_hidden_width_is_for_the_sentence_cues_alone() -> None:
    model = Small()
    dims = {"sentence_dim": 4, "word_dim": 5}
    scbn.retrofit(model, {"first": "word", "later": "both"}, text=text_of, hidden_dim=7, **dims)
    assert model.first.mlp is None
    assert model.later.mlp[0].out_features == 7


def test_the_retrofits_scale_is_one_unless_given() -> None:
    for options, scale in (({}, 1.0), ({"scale": 0.3}, 0.3)):
        model = Small()
        scbn.retrofit(model, {"*": "word"}, text=text_of, word_dim=5, **options)
        assert model.first.scale == scale


def test_a_retrofitted_norm_says_why_it_cannot_be_again() -> None:
    model = Small()
    scbn.retrofit(model, {"first": "word"}, text=text_of, word_dim=5)
    problems = {norm.name: norm.problem for norm in scbn.norm_layers(model)}
    assert problems == {"first": "retrofitted already; unretrofit first", "later": None}


class Masked(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x if mask is None else x * mask)


def test_a_norm_that_may_take_more_than_the_map_can_be_replaced() -> None:
    assert scbn.norm_layers(nn.Sequential(Masked(3)))[0].problem is None


@pytest.mark.parametrize("cue", ["sentence", "word", "both"])
def test_a_retrofitted_layer_tells_its_cue(cue: str) -> None:
    model = Checkpointed()
    assert scbn.norm_layers(model)[0].cue is None
    words, dims = torch.randn(2, 3, 5), {"sentence_dim": 4, "word_dim": 5}
    wanted = {name: dim for name, dim in dims.items() if cue == "both" or name.startswith(cue)}
    scbn.retrofit(model, {"norm": cue}, text=lambda x, sentence: TextFeatures(sentence, words), **wanted)
    assert scbn.norm_layers(model)[0].cue == cue


def test_a_norm_that_holds_nothing_gets_a_layer_of_the_models_dtype() -> None:
    model = nn.Module()
    model.conv, model.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, affine=False, track_running_stats=False)
    model.forward = lambda x, s: model.norm(model.conv(x))
    model.double()
    scbn.retrofit(model, {"norm": "sentence"}, text=lambda x, s: TextFeatures(s), sentence_dim=4)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
