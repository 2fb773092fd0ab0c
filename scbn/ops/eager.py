"""Both cues in plain PyTorch operations: any device, any number of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scbn.ops import sync


def sentence_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    group: str = "",
) -> Tensor:
    """The same function of the same arguments as :func:`scbn.ops.sentence.sentence_norm`, of which it returns y."""
    return sentence_modulate(x, standardize(x, mean, var, eps, group), gamma, beta)


def word_norm(
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    own_gamma: Tensor,
    own_beta: Tensor,
    padding: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    scale: float,
    group: str = "",
) -> Tensor:
    """The same function of the same arguments as :func:`scbn.ops.word.word_norm`, of which it returns y."""
    xhat = standardize(x, mean, var, eps, group)
    return word_modulate(x, xhat, keys, gamma, beta, own_gamma, own_beta, padding, scale)


def standardize(x: Tensor, mean: Tensor | None, var: Tensor | None, eps: float, group: str = "") -> Tensor:
    """xhat, in float32 at least, with the (joint) batch's statistics where none are given."""
    if group and mean is None:
        return sync.normalize(x.to(_compute_dtype(x)), eps, sync.group_named(group))[0]
    return F.batch_norm(x.to(_compute_dtype(x)), mean, var, None, None, mean is None, 0.0, eps)


def sentence_modulate(x: Tensor, xhat: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """xhat gamma + beta for gamma, beta (N, C), in x's dtype."""
    spatial = (1,) * (x.dim() - 2)
    scale, shift = (table.to(xhat.dtype).reshape(table.shape + spatial) for table in (gamma, beta))
    return torch.addcmul(shift, xhat, scale).to(x.dtype)


def word_modulate(
    x: Tensor,
    xhat: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    own_gamma: Tensor,
    own_beta: Tensor,
    padding: Tensor | None,
    scale: float,
) -> Tensor:
    """xhat (own + sum_t a_t gamma_t) + own + sum_t a_t beta_t for x, xhat (N, C, *spatial), in x's dtype and layout."""
    dtype = xhat.dtype
    if padding is not None:
        gamma, beta = (table.masked_fill(padding[:, :, None], 0) for table in (gamma, beta))
    # A region's weights sum to one, so the norm's own scale and shift can stand in every row of the tables.
    scales, shifts = (
        table.to(dtype) + (own if own.dim() == 1 else own[:, None]).to(dtype)
        for table, own in ((gamma, own_gamma), (beta, own_beta))
    )
    keys = keys.to(dtype) * scale
    if is_channels_last(x):
        logits = torch.bmm(_positions_first(x.to(dtype)), keys.mT)
        if padding is not None:
            logits = torch.where(padding[:, None], padding_logits(padding, dtype)[:, None, None], logits)
        gain, bias = torch.bmm(logits.softmax(2), torch.cat((scales, shifts), 2)).chunk(2, 2)
        y = torch.addcmul(bias, _positions_first(xhat), gain)
        return y.reshape(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1).to(x.dtype)
    logits = torch.bmm(keys, _flat(x.to(dtype)))
    if padding is not None:
        logits = torch.where(padding[:, :, None], padding_logits(padding, dtype)[:, None, None], logits)
    gain, bias = torch.bmm(torch.cat((scales, shifts), 2).mT, logits.softmax(1)).chunk(2, 1)
    return torch.addcmul(bias, _flat(xhat), gain).reshape(x.shape).to(x.dtype)


def padding_logits(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """What stands for each caption's logits of padding, (N,): -inf, or 0 in an empty caption, which has nothing else.

    In either case nothing of x, which may not be finite, and of which an empty caption is to hear nothing.
    """
    return padding.new_zeros(padding.shape[0], dtype=dtype).masked_fill(~padding.all(1), -torch.inf)


def hidden_words(padding: Tensor | None) -> Tensor | None:
    """The words that get no weight: padding, but not that of an empty caption, whose softmax would have nothing left."""
    return None if padding is None else padding & ~padding.all(1, keepdim=True)


def is_channels_last(x: Tensor) -> bool:
    """Whether x (N, C, *spatial) lies with its channels innermost."""
    if x.dim() < 4 or x.is_contiguous():
        return False
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.is_contiguous(memory_format=layout)


def differentiable_gradients(
    norm: Callable[..., Tensor], tensors: tuple[Tensor, ...], rest: tuple[Any, ...], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of ``norm(*tensors, *rest)``, themselves differentiable: for a second derivative."""
    # In views: the tables are themselves functions of the keys, and autograd, asked for both, would count that way twice.
    tensors = tuple(t.view_as(t) if t.requires_grad else t for t in tensors)
    y = norm(*tensors, *rest)
    wanted = [t for t in tensors if t.requires_grad]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return tuple(next(grads) if t.requires_grad else None for t in tensors)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(2) if x.dim() != 2 else x[:, :, None]


def _positions_first(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(1, -2)


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
