"""Defaults and names of arguments, which are part of the contract."""

from __future__ import annotations

import inspect

import pytest

import scbn
from scbn import functional
from scbn.generator import stages

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
