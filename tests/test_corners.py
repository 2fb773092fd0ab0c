"""What no other test saw when a fault was put in on purpose (tests/mutation)."""

from __future__ import annotations

import functools
import importlib
import inspect
import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

import scbn
from scbn import TextFeatures, TreeGenerator, functional, ops, reference
from scbn.generator import stages
from scbn.norm import _sync_group, batch_norm_state
from scbn.ops import eager
from scbn.ops.cpu import sentence as tiled_sentence
from scbn.retrofitting.binding import TextHolder, _holders


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


def test_a_retrofitted_norm_says_why_it_cannot_be_again() -> None:
    model = Small()
    scbn.retrofit(model, {"first": "word"}, text=text_of, word_dim=5)
    problems = {norm.name: norm.problem for norm in scbn.norm_layers(model)}
    assert problems == {"first": "retrofitted already; unretrofit first", "later": None}


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
    x = torch.randn(2, 3, 4, 4)
    assert batch_norm_state(bn, x).group == ("the group" if shared else None)
    assert batch_norm_state(bn.eval(), x).group is None


NORM = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True, "device": None, "dtype": None}
DEFAULTS = {
    scbn.SentenceSCBN: {"hidden_dim": None, **NORM},
    scbn.WordSCBN: {"sentence_dim": None, "hidden_dim": None, "scale": 1.0, **NORM},
    scbn.VisualSemanticEmbedding: {"scale": 1.0, "device": None, "dtype": None},
    scbn.SiameseContrastiveLoss: {"margin": 1.0, "alpha": 0.1, "reduction": "mean"},
    scbn.TextFeatures: {"sentence": None, "words": None, "padding_mask": None},
    scbn.retrofit: {"sentence_dim": None, "word_dim": None, "hidden_dim": None, "scale": 1.0},
    scbn.retrofit_attngan: {"layers": None, "fix_mask": False, "hidden_dim": None, "scale": 1.0},
    functional.word_attention: {"padding_mask": None, "scale": 1.0},
    functional.visual_semantic_embedding: {"padding_mask": None, "scale": 1.0},
    functional.siamese_contrastive_loss: {"margin": 1.0, "alpha": 0.1, "reduction": "mean"},
    functional.sentence_scbn: {"empty": None},
    functional.word_scbn: {"padding_mask": None, "scale": 1.0, "sentence_gamma": None, "sentence_beta": None},
    stages.UpBlock: {"activation": "glu"},
    stages.ResidualBlock: {"activation": "glu"},
    stages.InitialStage: {"activation": "glu"},
    stages.RefinementStage: {"activation": "glu"},
    scbn.TreeGenerator: {
        "word_dim": None, "stages": 3, "base_size": 64, "channels": 32, "residual_blocks": 2, "norm": "both",
        "noise_dim": 100, "condition_dim": 100, "image_channels": 3, "initial_stage": stages.InitialStage,
        "refinement_stage": stages.RefinementStage,
    },
}  # fmt: skip


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda function: function.__name__)
def test_defaults_are_part_of_the_contract(function) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == DEFAULTS[function]


def test_the_second_features_are_called_by_their_name() -> None:
    v, same = torch.randn(3, 4), torch.tensor([True, False, True])
    loss = scbn.SiameseContrastiveLoss()
    for wrong, message in ((v[..., None], r"v2 must have shape \(N, F\)"), (v.int(), "v2 must be floating point")):
        with pytest.raises(ValueError, match=message):
            loss(v, wrong, same)
    with pytest.raises(ValueError, match="v2 must be a tensor"):
        loss(v, None, same)


def test_the_report_as_printed() -> None:
    report = scbn.retrofit(Small(), {"first": "word"}, text=text_of, word_dim=5)
    assert str(report).splitlines() == [
        "Small: 1 of 2 norms replaced, 42 new parameters",
        "  name   class        channels  cue",
        "  first  BatchNorm2d         3  word",
        "  later  BatchNorm2d         3  -",
    ]
    groups = report.parameter_groups(lr=0.1, new_lr=0.2, weight_decay=0.3)
    assert [(g["lr"], g["weight_decay"], sum(p.numel() for p in g["params"])) for g in groups] == [
        (0.1, 0.3, 12),
        (0.2, 0.3, 42),
    ]
    assert [g["lr"] for g in report.parameter_groups(lr=0.1)] == [0.1, 0.1]
    assert [norm.name for norm in report.skipped] == ["later"]


def test_pickled_models_hold_the_text_by_this_name() -> None:
    model = Small()
    scbn.retrofit(model, {"first": "word"}, text=text_of, word_dim=5)
    assert isinstance(model.scbn_text, TextHolder)


def test_activations_by_hand() -> None:
    x = torch.tensor([[-1.0, 2.0]])
    assert stages.Activation("leaky_relu")(x).tolist() == [[pytest.approx(-0.2), 2.0]]
    assert stages.Activation("relu")(x).tolist() == [[0.0, 2.0]]
    assert stages.Activation("glu")(x).tolist() == [[pytest.approx(-1 / (1 + math.exp(-2)))]]


IMPLEMENTATIONS = {
    "eager": (eager, "sentence_modulate"),
    "reference": (reference, "sentence_modulate"),
    "cpu": (tiled_sentence, "forward"),
}


@pytest.mark.parametrize("backend", IMPLEMENTATIONS)
def test_a_path_runs_what_it_is_called_after(backend: ops.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    for name, (module, function) in IMPLEMENTATIONS.items():
        real = getattr(module, function)

        def record(*args, name=name, real=real):
            ran.append(name)
            return real(*args)

        monkeypatch.setattr(module, function, record)
    with ops.use_backend(backend):
        scbn.SentenceSCBN(3, 4)(torch.randn(2, 3, 4), torch.randn(2, 4))
    assert ran == [backend]


@pytest.mark.skipif(not ops.interpreted(), reason="without a GPU, Triton's kernels run interpreted or not at all")
@pytest.mark.parametrize("cue", ["sentence", "word"])
def test_both_cues_take_the_triton_path(cue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    module = importlib.import_module(f"scbn.ops.triton.{cue}")
    ran, real = [], module.forward
    monkeypatch.setattr(module, "forward", lambda *args: ran.append(cue) or real(*args))
    layer = scbn.SentenceSCBN(3, 4) if cue == "sentence" else scbn.WordSCBN(3, 4)
    text = torch.randn(2, 4) if cue == "sentence" else torch.randn(2, 5, 4)
    with ops.use_backend("triton"):
        layer(torch.randn(2, 3, 4), text)
    assert ran == [cue]
