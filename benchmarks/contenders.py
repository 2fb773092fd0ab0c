"""What is compared: each a function of the same x and text, from the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from scbn import SentenceSCBN, TextFeatures, WordSCBN, ops

Call = Callable[[Tensor, TextFeatures], Tensor]


@dataclass(frozen=True)
class Contender:
    """One way to compute something.

    Args:
        name: in tables.
        same_as: ``"word"`` or ``"sentence"`` where it must agree with that oracle, ``None`` for the yardstick.
        make: from the layer whose parameters it uses.
        compiled: run under torch.compile.
    """

    name: str
    same_as: str | None
    make: Callable[[WordSCBN | SentenceSCBN], Call]
    compiled: bool = False


def _plain(layer: WordSCBN | SentenceSCBN) -> Call:
    bn = nn.BatchNorm2d(layer.num_features).to(next(layer.parameters())).train(layer.training)
    return lambda x, text: bn(x)


def _own(path: ops.Path) -> Callable[[WordSCBN | SentenceSCBN], Call]:
    def make(layer: WordSCBN | SentenceSCBN) -> Call:
        def call(x: Tensor, text: TextFeatures) -> Tensor:
            with ops.use(path):
                return layer(x, text)

        return call

    return make


def _layer(layer: WordSCBN | SentenceSCBN) -> Call:
    return layer


def _formula(layer: WordSCBN | SentenceSCBN) -> Call:
    """The paper's lines one after the other: attention, embedding, heads at every position."""
    assert isinstance(layer, WordSCBN)

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        assert text.words is not None
        keys = layer.word_proj(text.words)
        regions = x.flatten(2).mT
        vse = (regions @ keys.mT).softmax(2) @ keys
        return _modulate(layer, x, layer.to_gamma(vse), layer.to_beta(vse))

    return call


def _sdpa(layer: WordSCBN | SentenceSCBN) -> Call:
    """The same with PyTorch's fused attention."""
    assert isinstance(layer, WordSCBN)

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        assert text.words is not None
        keys = layer.word_proj(text.words)
        vse = F.scaled_dot_product_attention(x.flatten(2).mT, keys, keys, scale=1.0)
        return _modulate(layer, x, layer.to_gamma(vse), layer.to_beta(vse))

    return call


def _modulate(layer: WordSCBN, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    bn = layer.bn
    training = bn.training
    xhat = F.batch_norm(x, bn.running_mean, bn.running_var, None, None, training, bn.momentum or 0.0, bn.eps)
    scale = bn.weight[:, None] + gamma.mT
    shift = bn.bias[:, None] + beta.mT
    return xhat * scale.reshape(x.shape) + shift.reshape(x.shape)


CONTENDERS = (
    Contender("BatchNorm2d", None, _plain),
    Contender("SentenceSCBN", "sentence", _layer),
    Contender("WordSCBN", "word", _layer),
    Contender("WordSCBN, composed", "word", _own("composed")),
    Contender("WordSCBN, in a compiled model", "word", _layer, compiled=True),
    Contender("formula as written", "word", _formula),
    Contender("formula as written, compiled", "word", _formula, compiled=True),
    Contender("attention by SDPA", "word", _sdpa),
    Contender("attention by SDPA, compiled", "word", _sdpa, compiled=True),
)
