"""What is compared: each a function of the same x and text, from the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import alternatives
from benchmarks.alternatives import Call, Layer
from scbn import TextFeatures, WordSCBN, ops

BASELINE = "BatchNorm2d"


@dataclass(frozen=True)
class Candidate:
    """One way to compute something.

    Args:
        name: in tables.
        same_as: ``"word"`` or ``"sentence"`` where it must agree with that oracle, ``None`` for what computes
            something else: the baseline and the alternatives.
        make: from the layer whose parameters it uses.
        compiled: run under torch.compile.
        cost: how long it takes, roughly: 0 runs in ``--quick`` too, 1 does not.
    """

    name: str
    same_as: str | None
    make: Callable[[Layer], Call]
    compiled: bool = False
    cost: int = 0


def _plain(layer: Layer) -> Call:
    bn = nn.BatchNorm2d(layer.num_features).to(next(layer.parameters())).train(layer.training)
    return lambda x, text: bn(x)


def _own(backend: ops.Backend) -> Callable[[Layer], Call]:
    def make(layer: Layer) -> Call:
        def call(x: Tensor, text: TextFeatures) -> Tensor:
            with ops.use_backend(backend):
                return layer(x, text)

        return call

    return make


def _layer(layer: Layer) -> Call:
    return layer


def _formula(layer: Layer) -> Call:
    """The paper's lines one after the other: attention, embedding, heads at every position."""
    assert isinstance(layer, WordSCBN)

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        assert text.words is not None
        keys = layer.word_proj(text.words).to(x.dtype)
        regions = x.flatten(2).mT
        vse = (regions @ keys.mT).softmax(2) @ keys
        return _modulate(layer, x, vse)

    return call


def _sdpa(layer: Layer) -> Call:
    """The same with PyTorch's fused attention."""
    assert isinstance(layer, WordSCBN)

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        assert text.words is not None
        keys = layer.word_proj(text.words).to(x.dtype)
        vse = F.scaled_dot_product_attention(x.flatten(2).mT, keys, keys, scale=1.0)
        return _modulate(layer, x, vse)

    return call


def _modulate(layer: WordSCBN, x: Tensor, vse: Tensor) -> Tensor:
    gamma, beta = (
        F.linear(vse, head.weight.to(vse.dtype), head.bias.to(vse.dtype))
        for head in (layer.to_gamma, layer.to_beta)
    )
    bn = layer.bn
    xhat = F.batch_norm(x, bn.running_mean, bn.running_var, None, None, bn.training, bn.momentum or 0.0, bn.eps)
    scale = bn.weight[:, None].to(x.dtype) + gamma.mT
    shift = bn.bias[:, None].to(x.dtype) + beta.mT
    return xhat * scale.reshape(x.shape) + shift.reshape(x.shape)


CANDIDATES = (
    Candidate(BASELINE, None, _plain),
    Candidate("BatchNorm2d, compiled", None, _plain, compiled=True),
    Candidate("SentenceSCBN", "sentence", _layer),
    Candidate("WordSCBN", "word", _layer),
    Candidate("WordSCBN, in a compiled model", "word", _layer, compiled=True),
    Candidate("WordSCBN, eager backend", "word", _own("eager")),
    Candidate("WordSCBN, eager backend, compiled", "word", _own("eager"), compiled=True, cost=1),
    Candidate("formula as written", "word", _formula),
    Candidate("formula as written, compiled", "word", _formula, compiled=True),
    Candidate("attention by SDPA", "word", _sdpa, cost=1),
    Candidate("attention by SDPA, compiled", "word", _sdpa, compiled=True, cost=1),
    Candidate("class-conditional BN", None, alternatives.class_conditional, cost=1),
    Candidate("affine after the norm", None, alternatives.affine_after_norm, cost=1),
    Candidate("spatially masked affine", None, alternatives.masked_affine, cost=1),
    Candidate("attention once, then 1x1", None, alternatives.attention_once, cost=1),
)
