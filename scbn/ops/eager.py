"""Both cues in plain PyTorch operations: any device, any number of derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scbn.ops import sync
from scbn.ops.values import Statistics, WordTables
from scbn.text import empty_captions


def sentence_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, given: Statistics | None, *, eps: float, group: str = ""
) -> Tensor:
    """The same function of the same arguments as :func:`scbn.ops.sentence.sentence_norm`, of which it returns y."""
    return sentence_modulate(x, standardize(x, given, eps, group), gamma, beta)


def word_norm(
    x: Tensor, tables: WordTables, given: Statistics | None, *, eps: float, scale: float, group: str = ""
) -> Tensor:
    """The same function of the same arguments as :func:`scbn.ops.word.word_norm`, of which it returns y."""
    return word_modulate(x, standardize(x, given, eps, group), tables, scale)


def standardize(x: Tensor, given: Statistics | None, eps: float, group: str = "") -> Tensor:
    """xhat, in float32 at least, with the (joint) batch's statistics where none are given."""
    x = x.to(compute_dtype(x))
    if given is not None:
        return F.batch_norm(x, given.mean, given.var, None, None, False, 0.0, eps)
    if group:
        return sync.normalize(x, eps, sync.group_named(group))[0]
    return F.batch_norm(x, None, None, None, None, True, 0.0, eps)


def sentence_modulate(x: Tensor, xhat: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """xhat gamma + beta for gamma, beta (N, C), in x's dtype."""
    spatial = (1,) * (x.dim() - 2)
    scale, shift = (table.to(xhat.dtype).reshape(table.shape + spatial) for table in (gamma, beta))
    return torch.addcmul(shift, xhat, scale).to(x.dtype)


def word_modulate(x: Tensor, xhat: Tensor, tables: WordTables, scale: float) -> Tensor:
    """xhat (weight + sum_t a_t gamma_t) + bias + sum_t a_t beta_t for x, xhat (N, C, *spatial), in x's dtype and layout."""
    dtype, padding = xhat.dtype, tables.padding
    keys, scales, shifts = with_own(tables, dtype)
    keys = keys.to(dtype) * scale
    if is_channels_last(x):
        logits = torch.bmm(_positions_first(x.to(dtype)), keys.mT)
        if padding is not None:
            logits = torch.where(padding[:, None], padding_logits(padding, dtype)[:, None, None], logits)
        gain, bias = torch.bmm(logits.softmax(2), torch.cat((scales, shifts), 2)).chunk(2, 2)
        y = torch.addcmul(bias, _positions_first(xhat), gain)
        return y.reshape(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1).to(x.dtype)
    logits = torch.bmm(keys, flat(x.to(dtype)))
    if padding is not None:
        logits = torch.where(padding[:, :, None], padding_logits(padding, dtype)[:, None, None], logits)
    gain, bias = torch.bmm(torch.cat((scales, shifts), 2).mT, logits.softmax(1)).chunk(2, 1)
    return torch.addcmul(bias, flat(xhat), gain).reshape(x.shape).to(x.dtype)


def with_own(tables: WordTables, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, and gamma and beta with the norm's own weight and bias in every row: a region's weights sum to one."""
    keys, gamma, beta, weight, bias, padding = tables
    if padding is not None:
        gamma, beta = (table.masked_fill(padding[:, :, None], 0) for table in (gamma, beta))
    scales, shifts = (
        table.to(dtype) + (own if own.dim() == 1 else own[:, None]).to(dtype)
        for table, own in ((gamma, weight), (beta, bias))
    )
    return keys, scales, shifts


def padding_logits(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """What stands for each caption's logits of padding, (N,): -inf, or 0 in an empty caption, which has nothing else.

    In either case nothing of x, which may not be finite.
    """
    return padding.new_zeros(padding.shape[0], dtype=dtype).masked_fill(~empty_captions(padding), -torch.inf)


def masked_words(padding: Tensor) -> Tensor:
    """The words that get no weight: padding, but not that of an empty caption, whose softmax would have nothing left."""
    return padding & ~empty_captions(padding)[:, None]


def is_channels_last(x: Tensor) -> bool:
    """Whether x (N, C, *spatial) lies with its channels innermost."""
    if x.dim() < 4 or x.is_contiguous():
        return False
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.is_contiguous(memory_format=layout)


def differentiable_gradients(
    norm: Callable[..., Tensor], tensors: tuple[Tensor, ...], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of ``norm(*tensors)``, themselves differentiable: for a second derivative."""
    # In views: the tables are themselves functions of the keys, and autograd, asked for both, would count that way twice.
    tensors = tuple(t.view_as(t) if t.requires_grad else t for t in tensors)
    y = norm(*tensors)
    wanted = [t for t in tensors if t.requires_grad]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return tuple(next(grads) if t.requires_grad else None for t in tensors)


def flat(x: Tensor) -> Tensor:
    """(N, C, P) of x (N, C, *spatial)."""
    return x.flatten(2) if x.dim() != 2 else x[:, :, None]


def compute_dtype(x: Tensor) -> torch.dtype:
    """Float32, or float64 for a float64 x."""
    return torch.promote_types(x.dtype, torch.float32)


def _positions_first(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(1, -2)
