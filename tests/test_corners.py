"""What no other test saw when a fault was put in on purpose (tests/mutation)."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn

import scbn
from scbn import TextFeatures, TreeGenerator
from scbn.binding import TextHolder, _holders
from scbn.norm import _sync_group


class Small(nn.Module):
    """Somebody's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.later = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor, sentence: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.later(self.first(x))


def text_of(x: torch.Tensor, sentence: torch.Tensor, words: torch.Tensor) -> TextFeatures:
    return TextFeatures(sentence, words)


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


@pytest.mark.parametrize("norm", ["batch", "sentence"])
def test_a_word_dim_that_nobody_hears_is_checked_too(norm: str) -> None:
    with pytest.raises(ValueError, match="word_dim must be a whole number of at least 1, got word_dim=-6"):
        TreeGenerator(5, -6, norm=norm)


@pytest.mark.parametrize("wrap", [lambda deep: functools.partial(print, deep), lambda deep: lambda: deep])
def test_text_is_found_four_levels_down(wrap) -> None:
    holder = TextHolder()
    assert list(_holders((wrap({"a": [(nn.Sequential(holder),)]}),))) == [holder]
    assert list(_holders((wrap({"a": [([holder],)]}),))) == []  # and no further


@pytest.mark.parametrize(("size", "shared"), [(1, False), (2, True)])
def test_statistics_are_shared_by_two_processes_at_least(size: int, shared: bool, monkeypatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group: size)
    bn = nn.SyncBatchNorm(3, process_group="the group")
    assert _sync_group(bn) == ("the group" if shared else None)
    assert _sync_group(nn.BatchNorm2d(3)) is None
