"""Both cues in plain PyTorch operations: any device, any number of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sentence_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor | None, var: Tensor | None, eps: float
) -> Tensor:
    """The same function of the same arguments as :func:`scbn.ops.tiled_sentence.sentence_norm`, of which it returns y."""
    xhat = F.batch_norm(x, mean, var, None, None, mean is None, 0.0, eps)
    return torch.addcmul(beta[:, :, None], xhat, gamma[:, :, None])


def word_norm(
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    hidden: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
) -> Tensor:
    """The same function of the same arguments as :func:`scbn.ops.tiled_word.word_norm`, of which it returns y."""
    xhat = F.batch_norm(x, mean, var, None, None, mean is None, 0.0, eps)
    return modulate(x, xhat, keys, gamma, beta, hidden)


def modulate(x: Tensor, xhat: Tensor, keys: Tensor, gamma: Tensor, beta: Tensor, hidden: Tensor | None) -> Tensor:
    """xhat (sum_t a_t gamma_t) + sum_t a_t beta_t for x, xhat (N, C, P)."""
    logits = torch.bmm(keys, x)
    if hidden is not None:
        logits = logits.masked_fill(hidden[:, :, None], -torch.inf)
    scale, shift = torch.bmm(torch.cat((gamma, beta), 2).mT, logits.softmax(1)).chunk(2, 1)
    return torch.addcmul(shift, xhat, scale)


def modulate_last(
    x: Tensor, xhat: Tensor, keys: Tensor, gamma: Tensor, beta: Tensor, hidden: Tensor | None
) -> Tensor:
    """The same for channels last: x, xhat (N, P, C)."""
    logits = torch.bmm(x, keys.mT)
    if hidden is not None:
        logits = logits.masked_fill(hidden[:, None], -torch.inf)
    scale, shift = torch.bmm(logits.softmax(2), torch.cat((gamma, beta), 2)).chunk(2, 2)
    return torch.addcmul(shift, xhat, scale)


def differentiable_gradients(
    norm: Callable[..., Tensor], tensors: tuple[Tensor, ...], rest: tuple[Any, ...], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of ``norm(*tensors, *rest)``, themselves differentiable: for a second derivative."""
    y = norm(*tensors, *rest)
    wanted = [t for t in tensors if t.requires_grad]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return tuple(next(grads) if t.requires_grad else None for t in tensors)
