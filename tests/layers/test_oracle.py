"""Layers against the paper's formulas: outputs, gradients, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.cases import CASES, CUES, TOLERANCE, WORD_DIM, Case, close, inputs_of, layer_of, oracle

from scbn import TextFeatures, VisualSemanticEmbedding, reference

pytestmark = pytest.mark.usefixtures("backend")

CASES_IDS = [str(case) for case in CASES]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES, ids=CASES_IDS)
@pytest.mark.parametrize("cue", CUES)
def test_output_and_gradients_equal_the_formula(cue: str, case: Case, training: bool, dtype: torch.dtype) -> None:
    layer = layer_of(cue, case.shape[1]).train(training)
    expected_layer = copy.deepcopy(layer)
    x, text = inputs_of(case)
    weight = torch.randn_like(x)

    def gradients(make, module, x, text):
        x = x.detach().requires_grad_()
        leaves = [t.detach().requires_grad_() for t in (text.sentence, text.words)]
        y = make(module, x, TextFeatures(*leaves, text.padding_mask))
        (y * weight.to(y.dtype)).sum().backward()
        used = [leaf.grad for leaf in (x, *leaves)]
        return y, used, {name: p.grad for name, p in module.named_parameters()}

    y, grads, parameter_grads = gradients(
        lambda m, x, t: m(x, t),
        layer.to(dtype),
        x.to(dtype),
        TextFeatures(text.sentence.to(dtype), text.words.to(dtype), text.padding_mask),
    )
    want, want_grads, want_parameter_grads = gradients(oracle, expected_layer, x, text)
    close(y, want, dtype)
    assert parameter_grads.keys() == want_parameter_grads.keys()
    pairs = zip([*grads, *parameter_grads.values()], [*want_grads, *want_parameter_grads.values()], strict=True)
    for got, expected in pairs:
        assert (got is None) == (expected is None)
        if expected is not None:
            # Sums over many positions: the error is relative to the largest.
            scale = expected.abs().max().clamp(min=1)
            close(got / scale.to(got.dtype), expected / scale, dtype)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("cue", CUES)
def test_running_statistics_equal_the_formula_and_batch_norm(cue: str, momentum: float | None) -> None:
    layer = layer_of(cue, 4, momentum=momentum)
    bn = torch.nn.BatchNorm2d(4, momentum=momentum, dtype=torch.float64)
    bn.load_state_dict(layer.bn.state_dict())
    for step in range(1, 4):
        x, text = inputs_of(Case((3, 4, 5, 5), padded=True))
        factor = momentum if momentum is not None else 1 / step
        mean, var = reference.batch_statistics(x)
        want_mean = reference.running_update(layer.bn.running_mean, mean, factor)
        want_var = reference.running_update(layer.bn.running_var, reference.unbiased(var, 75), factor)
        layer(x, text)
        bn(x)
        close(layer.bn.running_mean, want_mean, torch.float64)
        close(layer.bn.running_var, want_var, torch.float64)
        torch.testing.assert_close(layer.bn.running_mean, bn.running_mean)
        torch.testing.assert_close(layer.bn.running_var, bn.running_var)
        assert layer.bn.num_batches_tracked == step == bn.num_batches_tracked


@pytest.mark.parametrize("cue", CUES)
def test_statistics_stand_still_in_eval_mode(cue: str) -> None:
    layer = layer_of(cue, 4).eval()
    before = copy.deepcopy(layer.bn.state_dict())
    layer(*inputs_of(Case((3, 4, 5, 5))))
    for name, value in layer.bn.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cue", CUES)
def test_without_affine_or_statistics(cue: str, affine: bool, track: bool, training: bool) -> None:
    layer = layer_of(cue, 4, affine=affine, track_running_stats=track).train(training)
    x, text = inputs_of(Case((3, 4, 5, 5), padded=True))
    close(layer(x, text), oracle(layer, x, text), torch.float64)


@pytest.mark.parametrize("scale", [0.0, 0.25, 3.0])
def test_scale_multiplies_the_dot_product(scale: float) -> None:
    layer = layer_of("word", 8, scale=scale)
    x, text = inputs_of(CASES[1])
    close(layer(x, text), oracle(layer, x, text), torch.float64)


@pytest.mark.parametrize("case", CASES, ids=CASES_IDS)
def test_embedding_and_attention_equal_the_formula(case: Case) -> None:
    vse = VisualSemanticEmbedding(case.shape[1], WORD_DIM, scale=0.7).double()
    x, text = inputs_of(case)
    keys = reference.perceptron(text.words, text.padding_mask, dict(vse.named_parameters()))
    want = reference.visual_semantic_embedding(x, keys, text.padding_mask, 0.7)
    close(vse(x, text), want.transpose(1, 2).reshape(x.shape), torch.float64)
    attention = reference.attention(x, keys, text.padding_mask, 0.7)
    close(vse.attention(x, text), attention.reshape(x.shape[0], -1, *x.shape[2:]), torch.float64)


def test_large_logits_stay_exact() -> None:
    layer = layer_of("word", 8, scale=500.0)
    x, text = inputs_of(CASES[1])
    y = layer(x, text)
    assert y.isfinite().all()
    close(y, oracle(layer, x, text), torch.float64)
