"""Empty batches, empty captions, broken values, mixed precision."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.cases import CUES, WORD_DIM, Case, close, inputs_of, layer_of, oracle
from torch import nn

from scbn import (
    TextFeatures,
    ops,
)


@pytest.mark.parametrize("backend", ["eager", "cpu", "reference"])
@pytest.mark.parametrize("cue", CUES)
def test_a_float64_layer_takes_a_float32_map(cue: str, backend: ops.Backend) -> None:
    layer = layer_of(cue, 5)
    x, text = inputs_of(Case((3, 5, 4, 4), padded=True), torch.float32)
    exact = copy.deepcopy(layer)
    with ops.use_backend(backend):
        y = layer(x, text)
    assert y.dtype == torch.float32
    cues = TextFeatures(text.sentence.double(), text.words.double(), text.padding_mask)
    close(y, oracle(exact, x.double(), cues), torch.float32)


@pytest.mark.parametrize("shape", [(0, 5, 4, 4), (2, 5, 0, 4)])
@pytest.mark.parametrize("backend", ["eager", "cpu", "reference"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("cue", CUES)
def test_an_empty_batch_is_counted_and_teaches_nothing(cue: str, momentum, backend: ops.Backend, shape) -> None:
    layer = layer_of(cue, 5, momentum=momentum)
    bn = nn.BatchNorm2d(5, momentum=momentum).double()
    bn.load_state_dict(layer.bn.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    text = TextFeatures(*(t[: shape[0]] for t in inputs_of(Case((3, 5, 1, 1), padded=True))[1]))
    with ops.use_backend(backend):
        assert layer(x, text).shape == bn(x).shape
    for name, value in bn.state_dict().items():
        assert torch.equal(layer.bn.state_dict()[name], value), name


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # the interpreter computes with NumPy, which warns
@pytest.mark.parametrize("words", [1, 3])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_a_broken_position_is_broken_on_every_backend(backend: ops.Backend, value: float, words: int) -> None:
    """Also where every word's logit is -inf, which is not a caption of no words."""
    if backend == "triton":
        pytest.importorskip("triton")
    layer = layer_of("word", 4, torch.float32).eval()
    layer.word_proj.weight.data.abs_()
    layer.word_proj.bias.data.fill_(1.0)  # keys of one sign
    x = torch.randn(3, 4, 2, 3)
    x[1, 2, 1, 1] = value
    text = TextFeatures(words=torch.rand(3, words, WORD_DIM), padding_mask=torch.zeros(3, words, dtype=torch.bool))
    text.padding_mask[2] = True
    with ops.use_backend("eager"):
        want = layer(x, text)
    with ops.use_backend(backend):
        got = layer(x, text)
    assert torch.equal(got.isfinite(), want.isfinite()) and int((~want.isfinite()).sum()) == 4
    torch.testing.assert_close(got[2], want[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("backend", ["eager", "cpu", "reference"])
def test_an_empty_caption_takes_nothing_of_a_broken_position(backend: ops.Backend, value: float, layout) -> None:
    """Its own channel is not finite, as batch normalisation leaves it; the other channels there are."""
    layer = layer_of("both", 5).eval()
    x, text = inputs_of(Case((3, 5, 4, 4), padded=True, layout=layout))
    x[-1, 2, 1, 1] = value
    with ops.use_backend(backend):
        y = layer(x, text)
    bn = layer.bn
    plain = nn.functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    torch.testing.assert_close(y[-1], plain[-1], equal_nan=True)
    assert int((~y.isfinite()).sum()) == 1


class Blocks(torch.autograd.Function):
    """Passes values on and no gradient back."""

    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, *grads):
        return None


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("cue", CUES)
def test_no_gradient_arrives(cue: str, backend: ops.Backend) -> None:
    layer = layer_of(cue, 5, torch.float32)
    x, text = inputs_of(Case((3, 5, 4, 4), padded=True), torch.float32)
    x.requires_grad_()
    with ops.use_backend(backend):
        y = Blocks.apply(layer(x, text)) + x
    y.sum().backward()
    assert x.grad is not None and x.grad.eq(1).all()
