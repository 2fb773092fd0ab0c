"""How the text of a call reaches the layers."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.models import Checkpointed, Small, text_of
from torch import nn

import scbn
from scbn import TextFeatures
from scbn.retrofitting.binding import TextHolder, _holders


@pytest.mark.parametrize("wrap", [lambda deep: functools.partial(print, deep), lambda deep: lambda: deep])
def test_text_is_found_four_levels_down(wrap) -> None:
    holder = TextHolder()
    assert list(_holders((wrap({"a": [(nn.Sequential(holder),)]}),))) == [holder]
    assert list(_holders((wrap({"a": [([holder],)]}),))) == []  # and no further


def test_pickled_models_hold_the_text_by_this_name() -> None:
    model = Small()
    scbn.retrofit(model, {"first": "word"}, text=text_of, word_dim=5)
    assert isinstance(model.scbn_text, TextHolder)


def test_checkpointing_gives_the_text_a_gradient_where_x_asks_for_none() -> None:
    model = Checkpointed()
    scbn.retrofit(model, {"norm": "sentence"}, text=lambda x, sentence: TextFeatures(sentence), sentence_dim=4)
    sentence = torch.randn(2, 4, requires_grad=True)
    model(torch.randn(2, 3, 4, 4), sentence).sum().backward()
    assert sentence.grad is not None
    assert model.norm.mlp[-1].weight.grad.any()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor, gain: float = 2.0, sentence: torch.Tensor | None = None) -> torch.Tensor:
        return self.norm(x) * gain


def test_an_argument_left_out_has_its_place_before_one_given_by_name() -> None:
    model, seen = Scaled(), []

    def text(*args: object) -> TextFeatures:
        seen.append(args)
        return TextFeatures(torch.zeros(2, 4))

    scbn.retrofit(model, {"norm": "sentence"}, text=text, sentence_dim=4)
    x, sentence = torch.randn(2, 3, 4, 4), torch.randn(2, 4)
    model(x, sentence=sentence)
    model(x)
    assert seen == [(x, 2.0, sentence), (x,)]
