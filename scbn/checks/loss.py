"""Checks of the contrastive loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scbn.checks.features import beside, dense, floating
from scbn.checks.settings import finite


def contrastive(margin: float, alpha: float, reduction: str, reductions: tuple[str, ...]) -> None:
    """Require usable settings of the contrastive loss."""
    finite(margin=margin, alpha=alpha)
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin=}")
    if alpha < 0:
        raise ValueError(f"alpha must not be negative, got {alpha=}; alpha=0 is the classic contrastive loss")
    if alpha > margin:
        raise ValueError(
            f"alpha must not exceed margin, got {alpha=} and {margin=}: pairs of one image would be kept further "
            "apart than pairs of different images"
        )
    if reduction not in reductions:
        raise ValueError(f"reduction must be one of {reductions}, got {reduction=}")


def feature_pair(v1: Tensor, v2: Tensor, same: Tensor) -> None:
    """Require two batches of feature vectors and one flag a pair."""
    for name, v in (("v1", v1), ("v2", v2)):
        if not isinstance(v, Tensor) or v.dim() != 2:
            got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise ValueError(f"{name} must have shape (N, F), got {got}; flatten feature maps with v.flatten(1)")
        floating(name, v, f"convert it with {name}.float()")
        dense(name, v)
    if v1.shape != v2.shape:
        raise ValueError(f"v1 and v2 must have the same shape, got {v1.shape=} and {v2.shape=}")
    if not isinstance(same, Tensor) or same.dtype != torch.bool:
        kind = same.dtype if isinstance(same, Tensor) else type(same).__name__
        raise ValueError(
            f"same must be a bool tensor, True = both captions describe one image, got {kind}; "
            "for labels with 1 = same write labels.bool()"
        )
    dense("same", same)
    beside("v2", v2, "v1", v1.device)
    beside("same", same, "v1", v1.device)
    if same.shape != v1.shape[:1]:
        raise ValueError(f"same must have shape (N,) = ({v1.shape[0]},), got {same.shape=}")
    if v1.numel() == 0:
        raise ValueError(f"the loss of no pairs is undefined, got {v1.shape=}")


def stages(v1: Tensor | Sequence[Tensor], v2: Tensor | Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Require as many stages in both; returns their pairs."""
    first, second = _stages("v1", v1), _stages("v2", v2)
    if len(first) != len(second):
        raise ValueError(f"v1 and v2 must have as many stages, got {len(first)} and {len(second)}")
    return list(zip(first, second, strict=True))


def _stages(name: str, v: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if isinstance(v, Tensor):
        return [v]
    if not isinstance(v, Sequence) or len(v) == 0:
        got = "no stage" if isinstance(v, Sequence) else type(v).__name__
        raise ValueError(f"{name} must be a tensor (N, F) or a sequence of them, one a stage, got {got}")
    return list(v)
