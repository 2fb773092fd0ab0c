"""The maths as pure functions: what a module calls.

Everything is computed in float32 (float64 for float64 input) with autocast switched off, and returned in ``x``'s
dtype. Source: Yin et al., "Semantics Disentangling for Text-to-Image Generation", CVPR 2019, arXiv 1904.01480.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from scbn import ops
from scbn.ops import eager, sync
from scbn.ops.eager import compute_dtype, flat
from scbn.ops.sentence import sentence_norm
from scbn.ops.values import Modulation, Statistics, WordTables
from scbn.ops.word import word_norm
from scbn.text import empty_captions


class BatchNormState(NamedTuple):
    """What :func:`torch.nn.functional.batch_norm` takes besides ``x``, in one value.

    ``momentum=None``: the running statistics are the mean of all batches, of which ``num_batches_tracked`` counts those
    before. ``group`` is set where the statistics are shared between the processes of a group. ``frozen``: the running
    statistics stay, as in the second run of activation checkpointing.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    use_batch_statistics: bool
    momentum: float | None
    eps: float
    num_batches_tracked: Tensor | None = None
    group: torch.distributed.ProcessGroup | None = None
    frozen: bool = False


def normalize(x: Tensor, norm: BatchNormState) -> Tensor:
    r"""Batch normalisation without scale and shift, :math:`\hat x = (x - \mu) / \sqrt{\sigma^2 + \epsilon}`.

    Updates the running statistics in place as :class:`torch.nn.BatchNorm2d` does.

    Args:
        x: ``(N, C, *spatial)`` float32 or float64.
        norm: statistics and settings.

    Returns:
        ``x``'s shape and dtype.
    """
    xhat, batch = _standardize(x, norm)
    _track(norm, batch)
    return xhat


def _standardize(x: Tensor, norm: BatchNormState, learning: bool = False) -> tuple[Tensor, Statistics | None]:
    """xhat, and the batch's statistics where the running ones are to learn from them."""
    mean, var = norm.running_mean, norm.running_var
    if norm.use_batch_statistics and norm.group is not None:
        return sync.normalize(x, norm.eps, norm.group, learning)
    if not norm.use_batch_statistics and mean is not None and var is not None:
        mean, var = mean.to(x.dtype), var.to(x.dtype)
        return F.batch_norm(x, mean, var, None, None, False, 0.0, norm.eps), None
    if mean is None or var is None or x.numel() == 0:  # an empty batch teaches nothing
        return F.batch_norm(x, None, None, None, None, True, 0.0, norm.eps), None
    # In copies, because batch_norm updates only statistics of x's dtype, with a momentum known on the host, and before
    # the rest of the layer has succeeded.
    batch_mean, batch_var = torch.zeros_like(mean, dtype=x.dtype), torch.zeros_like(var, dtype=x.dtype)
    xhat = F.batch_norm(x, batch_mean, batch_var, None, None, True, 1.0, norm.eps)
    return xhat, Statistics(batch_mean, batch_var, x.numel() // x.shape[1], unbiased=True)


def sentence_scbn(
    x: Tensor, gamma: Tensor, beta: Tensor, norm: BatchNormState, *, empty: Tensor | None = None
) -> Tensor:
    r"""Batch normalisation whose scale and shift are conditioned on a sentence.

    .. math:: y_{nc} = \hat x_{nc} (\gamma_c + \gamma_{nc}(s)) + \beta_c + \beta_{nc}(s)

    Args:
        x: ``(N, C, *spatial)`` floating.
        gamma, beta: ``(N, C)``, what the sentence adds to the norm's own scale and shift.
        norm: the normalisation itself.
        empty: ``(N,)`` bool, captions that condition on nothing.

    Returns:
        ``x``'s shape and dtype.
    """
    with _exact(x):
        if empty is not None:
            gamma, beta = (table.masked_fill(empty[:, None], 0) for table in (gamma, beta))
        gamma, beta = _with_own(norm, x, gamma, beta)
        backend = ops.choose(x, shared=_shared(norm))
        if backend in ("cpu", "triton"):
            dense, settings = _dense(x), _settings(norm, backend)
            y, batch = sentence_norm(dense, gamma, beta, _given(norm, x), **settings)
            _track(norm, batch)
            return _like(x, y)
        xhat, batch = _standardize(x.to(compute_dtype(x)), norm, gamma.requires_grad or beta.requires_grad)
        y = _modulation(backend).sentence_modulate(x, xhat, gamma, beta)
        _track(norm, batch)
        return y


def word_scbn(
    x: Tensor,
    keys: Tensor,
    gamma: Tensor,
    beta: Tensor,
    norm: BatchNormState,
    *,
    padding_mask: Tensor | None = None,
    scale: float = 1.0,
    sentence_gamma: Tensor | None = None,
    sentence_beta: Tensor | None = None,
) -> Tensor:
    r"""Batch normalisation whose scale and shift are conditioned, at every position, on the words that position attends to.

    .. math::
        a_{tj} &= \mathrm{softmax}_t(\mathrm{scale} \cdot x_j \cdot f(w_t)) \\
        y_{cj} &= \hat x_{cj} \Big(\gamma_c + \sum_t a_{tj} \Gamma_{tc}\Big)
                  + \beta_c + \sum_t a_{tj} \mathrm{B}_{tc}

    This equals the paper's :math:`\gamma_c(\mathrm{vse}_j)` with linear heads, because a region's attention sums
    to one: heads and attention commute, so the heads act on T words and never on H x W positions.

    Args:
        x: ``(N, C, *spatial)`` floating.
        keys: ``(N, T, C)``, the words :math:`f(w_t)` in the visual space.
        gamma, beta: ``(N, T, C)``, the heads applied to ``keys``: :math:`\Gamma, \mathrm{B}`.
        norm: the normalisation itself.
        padding_mask: ``(N, T)`` bool, ``True`` = padding.
        scale: factor on the dot product.
        sentence_gamma, sentence_beta: ``(N, C)``, the sentence cue's additions, if there is one.

    Returns:
        ``x``'s shape and dtype.
    """
    with _exact(x):
        if padding_mask is not None and sentence_gamma is not None and sentence_beta is not None:
            empty = empty_captions(padding_mask)[:, None]
            sentence_gamma, sentence_beta = (t.masked_fill(empty, 0) for t in (sentence_gamma, sentence_beta))
        weight, bias = _with_own(norm, x, sentence_gamma, sentence_beta)
        tables = WordTables(keys, gamma, beta, weight, bias, padding_mask)
        backend = ops.choose(x, keys.shape[1], shared=_shared(norm), table=keys.dtype)
        if backend in ("cpu", "triton"):
            dense, settings = _dense(x), _settings(norm, backend)
            y, batch = word_norm(dense, tables, _given(norm, x), scale=scale, **settings)
            _track(norm, batch)
            return _like(x, y)
        learning = any(table is not None and table.requires_grad for table in tables)
        xhat, batch = _standardize(x.to(compute_dtype(x)), norm, learning)
        y = _modulation(backend).word_modulate(x, xhat, tables, scale)
        _track(norm, batch)
        return y


def word_attention(x: Tensor, keys: Tensor, *, padding_mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
    r"""How much every position attends to every word, :math:`a_{tj} = \mathrm{softmax}_t(\mathrm{scale}\, x_j \cdot f(w_t))`.

    Args:
        x: ``(N, C, *spatial)`` floating.
        keys: ``(N, T, C)``.
        padding_mask: ``(N, T)`` bool, ``True`` = padding.
        scale: factor on the dot product.

    Returns:
        ``(N, T, *spatial)`` in ``x``'s dtype; sums to one over the words, zero for padding and empty captions.
    """
    with _exact(x):
        dtype = compute_dtype(x)
        weights = torch.bmm(keys.to(dtype) * scale, flat(x.to(dtype)))
        if padding_mask is not None:
            weights = weights.masked_fill(eager.masked_words(padding_mask)[:, :, None], -torch.inf).softmax(1)
            weights = weights.masked_fill(padding_mask[:, :, None], 0)
        else:
            weights = weights.softmax(1)
        return weights.reshape(x.shape[0], keys.shape[1], *x.shape[2:]).to(x.dtype)


def visual_semantic_embedding(
    x: Tensor, keys: Tensor, *, padding_mask: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    r"""The words every position attends to, :math:`\mathrm{vse}_j = \sum_t a_{tj} f(w_t)`.

    Args and dtypes as :func:`word_attention`.

    Returns:
        ``(N, C, *spatial)`` in ``x``'s dtype; zero for empty captions.
    """
    with _exact(x):
        dtype = compute_dtype(x)
        weights = word_attention(x.to(dtype), keys, padding_mask=padding_mask, scale=scale)
        vse = torch.bmm(keys.to(dtype).mT, flat(weights)).reshape(x.shape).to(x.dtype)
        layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        return vse.contiguous(memory_format=layout) if eager.is_channels_last(x) else vse


def siamese_contrastive_loss(
    v1: Tensor, v2: Tensor, same: Tensor, *, margin: float = 1.0, alpha: float = 0.1, reduction: str = "mean"
) -> Tensor:
    """The contrastive loss of one stage; see :class:`scbn.SiameseContrastiveLoss`.

    Args:
        v1, v2: ``(N, F)`` floating.
        same: ``(N,)`` bool, ``True`` = both captions describe one image.
        margin, alpha, reduction: as in the class.

    Returns:
        A float32 (float64 for float64 input) scalar, or ``(N,)`` with ``reduction="none"``.
    """
    with _exact(v1):
        dtype = torch.promote_types(compute_dtype(v1), v2.dtype)
        distance = torch.linalg.vector_norm(v1.to(dtype) - v2.to(dtype), dim=1)
        pull = distance.clamp(min=alpha).square()
        push = (margin - distance).clamp(min=0).square()
        loss = torch.where(same, pull, push) / 2
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() / v1.shape[1] if reduction == "feature_mean" else loss.mean()


def _given(norm: BatchNormState, x: Tensor) -> Statistics | None:
    """The statistics to normalise with, or none where they are the batch's."""
    mean, var = norm.running_mean, norm.running_var
    if norm.use_batch_statistics or mean is None or var is None:
        return None
    return Statistics(mean.to(compute_dtype(x)), var.to(compute_dtype(x)))


class _Settings(TypedDict):
    """What the fused operations are told besides tensors."""

    eps: float
    group: str
    backend: str


def _settings(norm: BatchNormState, backend: str) -> _Settings:
    group = "" if norm.group is None else norm.group.group_name
    return {"eps": norm.eps, "group": group, "backend": backend}


def _track(norm: BatchNormState, batch: Statistics | None) -> None:
    """Count the batch and move the running statistics towards its own: the one place where they change.

    After everything else, so that a failed call leaves no trace, and all at once, because a recomputation under
    activation checkpointing may stop early.
    """
    if norm.frozen:
        return
    # Nothing here carries a gradient, so there is no grad mode to switch off, which exported graphs would record.
    mean, var = norm.running_mean, norm.running_var
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if batch is None or not norm.use_batch_statistics or mean is None or var is None:
        return
    of_batch = batch.var
    if not batch.unbiased:
        count = batch.count
        below = (count - 1).clamp(min=1) if isinstance(count, Tensor) else count - 1
        of_batch = of_batch * (count / below)
    if norm.momentum is not None:
        weight: Tensor | float = norm.momentum
    else:
        assert norm.num_batches_tracked is not None
        weight = 1 / norm.num_batches_tracked.to(batch.mean.dtype)
    if isinstance(batch.count, Tensor):  # a joint batch without a value, in any process, teaches nothing
        weight = weight * (batch.count > 0)
    for running, new in ((mean, batch.mean), (var, of_batch)):
        step = weight.to(running.dtype) if isinstance(weight, Tensor) else weight
        running.lerp_(new.to(running.dtype), step)


def _with_own(norm: BatchNormState, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norm's weight and bias, (C,); with what the sentence adds to them, (N, C), where it does."""
    weight, bias = norm.weight, norm.bias
    if weight is None or bias is None:
        like = {"dtype": compute_dtype(x), "device": x.device}
        weight, bias = torch.ones(x.shape[1], **like), torch.zeros(x.shape[1], **like)
    if gamma is None or beta is None:
        return weight, bias
    dtype = torch.promote_types(compute_dtype(x), weight.dtype)
    return gamma.to(dtype) + weight, beta.to(dtype) + bias


def _shared(norm: BatchNormState) -> bool:
    return norm.group is not None and norm.use_batch_statistics


def _dense(x: Tensor) -> Tensor:
    """(N, C, P), contiguous or with channels innermost: what the fused operations read, without a copy where x is so."""
    rows = x.flatten(2)
    return rows if rows.is_contiguous() or rows.mT.is_contiguous() else rows.contiguous()


def _like(x: Tensor, y: Tensor) -> Tensor:
    """What a fused operation returned, in x's shape, dtype and layout."""
    y = y.reshape(x.shape).to(x.dtype)
    if not eager.is_channels_last(x) or eager.is_channels_last(y):
        return y
    return y.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def _exact(x: Tensor) -> contextlib.AbstractContextManager[object]:
    kind = x.device.type
    # Not torch.amp.is_autocast_available(kind): torch 2.11 cannot trace it.
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def _modulation(backend: ops.Backend) -> Modulation:
    """The module that modulates, of a backend that leaves the normalising to PyTorch."""
    if backend != "reference":
        return eager
    from scbn import reference  # needs einops, which the library itself does not

    return reference
