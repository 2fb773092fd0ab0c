"""Other ways to condition a norm, each in a few lines from its public description: they compute something else.

Their text inputs are what the same text encoder gives; all start from the parameters a layer of ours has, or make their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scbn import SentenceSCBN, TextFeatures, WordSCBN

Call = Callable[[Tensor, TextFeatures], Tensor]
Layer = WordSCBN | SentenceSCBN


def class_conditional(layer: Layer) -> Call:
    """Class-conditional batch norm, as GAN libraries do it: an embedding of the class holds its scale and shift."""
    like = next(layer.parameters())
    bn = nn.BatchNorm2d(layer.num_features, affine=False).to(like).train(layer.training)
    table = nn.Embedding(200, 2 * layer.num_features).to(like)

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        classes = torch.arange(len(x), device=x.device)
        gamma, beta = table(classes).to(x.dtype)[:, :, None, None].chunk(2, 1)
        return bn(x) * (1 + gamma) + beta

    return call


def affine_after_norm(layer: Layer) -> Call:
    """Batch norm with its own affine map, then a scale and shift from two MLPs of the sentence, as affine blocks do it."""
    like = next(layer.parameters())
    bn = nn.BatchNorm2d(layer.num_features).to(like).train(layer.training)
    heads = _mlps(layer).to(like)

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        gamma, beta = (head(text.sentence).to(x.dtype)[:, :, None, None] for head in heads)
        return bn(x) * gamma + beta

    return call


def masked_affine(layer: Layer) -> Call:
    """Scale and shift of the sentence where a mask, predicted from the map by two convolutions, lets them."""
    like = next(layer.parameters())
    bn = nn.BatchNorm2d(layer.num_features, affine=False).to(like).train(layer.training)
    heads = _mlps(layer).to(like)
    hidden = max(1, layer.num_features // 4)
    predict = nn.Sequential(
        nn.Conv2d(layer.num_features, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1)
    )
    predict = predict.to(like.device, like.dtype)

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        gamma, beta = (head(text.sentence).to(x.dtype)[:, :, None, None] for head in heads)
        with torch.autocast(x.device.type, dtype=x.dtype, enabled=x.dtype != torch.float32):
            mask = predict(x).sigmoid().to(x.dtype)
        return bn(x) * (1 + mask * gamma) + mask * beta

    return call


def attention_once(layer: Layer) -> Call:
    """The words' context once per stage (not timed: another layer's work), then 1x1 convolutions of it at every position."""
    assert isinstance(layer, WordSCBN)
    like = next(layer.parameters())
    bn = nn.BatchNorm2d(layer.num_features, affine=False).to(like).train(layer.training)
    contexts: dict[torch.Size, Tensor] = {}

    def call(x: Tensor, text: TextFeatures) -> Tensor:
        if x.shape not in contexts:
            drawn = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0))
            contexts[x.shape] = drawn.to(x).expand_as(x).contiguous()
        gamma, beta = (
            F.conv2d(contexts[x.shape], head.weight.to(x.dtype)[:, :, None, None], head.bias.to(x.dtype))
            for head in (layer.to_gamma, layer.to_beta)
        )
        return bn(x) * (1 + gamma) + beta

    return call


def _mlps(layer: Layer) -> nn.ModuleList:
    channels = layer.num_features

    def mlp() -> nn.Sequential:
        return nn.Sequential(nn.Linear(256, channels), nn.ReLU(), nn.Linear(channels, channels))

    return nn.ModuleList([mlp(), mlp()])
