"""What a layer must give and leave behind, by the formulas in float64."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from scbn import TextFeatures, VisualSemanticEmbedding, WordSCBN, reference


def exact(t: Any) -> Any:
    """A float64 leaf with the same value; a mask as it is."""
    if t is None or not t.is_floating_point():
        return t
    return t.detach().double().clone().requires_grad_(t.requires_grad)


def state(layer: nn.Module) -> nn.Module:
    """The layer in float64."""
    return copy.deepcopy(layer).double()


def statistics(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance that the layer normalises with."""
    bn: Any = layer.bn
    if bn.training or bn.running_mean is None:
        return reference.batch_statistics(x)
    return bn.running_mean, bn.running_var


def forward(layer: nn.Module, x: Tensor, text: TextFeatures) -> Tensor:
    """y of a layer whose parameters and inputs are float64."""
    if not x.numel():
        return x * 1
    parameters = dict(layer.named_parameters())
    if isinstance(layer, VisualSemanticEmbedding):
        assert text.words is not None
        keys = reference.perceptron(text.words, text.padding_mask, parameters)
        vse = reference.visual_semantic_embedding(x, keys, text.padding_mask, layer.scale)
        return vse.transpose(1, 2).reshape(x.shape)
    mean, var = statistics(layer, x)
    eps = layer.bn.eps  # pyright: ignore
    if isinstance(layer, WordSCBN):
        return reference.word_scbn(x, text, parameters, mean, var, eps, layer.scale)
    return reference.sentence_scbn(x, text, parameters, mean, var, eps)


def attention(layer: Any, x: Tensor, text: TextFeatures) -> Tensor:
    """The word map."""
    if not x.numel():
        return x.new_empty(x.shape[0], text.words.shape[1], *x.shape[2:])  # pyright: ignore
    keys = reference.perceptron(text.words, text.padding_mask, dict(layer.named_parameters()))  # pyright: ignore
    maps = reference.attention(x, keys, text.padding_mask, layer.scale)
    return maps.reshape(x.shape[0], keys.shape[1], *x.shape[2:])


def buffers(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The running statistics after the layer, in the state it is in now, has seen x."""
    bn: Any = getattr(layer, "bn", None)
    if bn is None or bn.running_mean is None:
        return {}
    mean, var, seen = bn.running_mean.double(), bn.running_var.double(), bn.num_batches_tracked
    if bn.training and not x.numel():  # nothing to learn from, but nn.BatchNorm2d counts it
        seen = seen + 1
    elif bn.training:
        batch_mean, batch_var = reference.batch_statistics(x.detach().double())
        seen = seen + 1
        momentum = 1 / float(seen) if bn.momentum is None else bn.momentum
        mean = reference.running_update(mean, batch_mean, momentum)
        var = reference.running_update(var, reference.unbiased(batch_var, x.numel() // x.shape[1]), momentum)
    return {"running_mean": mean, "running_var": var, "num_batches_tracked": seen.clone()}


def amplification(layer: nn.Module, x: Tensor) -> float:
    """By how much normalising multiplies a rounding error of x: large where a channel hardly varies."""
    if not hasattr(layer, "bn") or not x.numel():
        return 1.0
    _, var = statistics(layer, x.detach().double())
    values = (
        (x.detach().double().flatten(2) if x.dim() > 2 else x.detach().double()[:, :, None]).abs().amax((0, 2))
    )
    found = (values / torch.sqrt(var.double() + layer.bn.eps)).nan_to_num(posinf=1e6).max()  # pyright: ignore
    return max(1.0, float(found))
