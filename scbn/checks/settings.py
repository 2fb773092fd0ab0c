"""Checks of what layers are made with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy


def positive(**sizes: int) -> None:
    """Require whole numbers of at least 1."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {name}={value!r}")


def finite(**numbers: float) -> None:
    """Require real numbers that are neither NaN nor infinite."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {name}={value!r}")


def norm(eps: float, momentum: float | None) -> None:
    """Require settings that batch normalisation can work with."""
    finite(eps=eps)
    if not eps > 0:
        raise ValueError(
            f"eps must be positive, got {eps=}; it keeps a channel that does not vary from dividing by 0"
        )
    if momentum is not None:
        finite(momentum=momentum)


def parameter_dtype(dtype: torch.dtype | None) -> None:
    """Require a dtype that parameters can have, or none."""
    if dtype is not None and not (
        isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1
    ):
        raise ValueError(f"dtype must be torch.float32, float64, bfloat16 or float16, or None, got {dtype=}")


def hidden_width(hidden_dim: int | None, sentence_dim: int | None) -> None:
    """Require a sentence cue where its MLP's hidden width is given."""
    if hidden_dim is not None and sentence_dim is None:
        raise ValueError(f"hidden_dim belongs to the sentence cue, got {hidden_dim=} without sentence_dim")


def adoptable(bn: nn.Module, options: Mapping[str, Any]) -> _BatchNorm:
    """Require an initialised batch norm, and options that it does not settle itself; returns it."""
    if not isinstance(bn, _BatchNorm):
        raise ValueError(
            f"from_batch_norm adopts nn.BatchNorm1d/2d/3d or nn.SyncBatchNorm, got {type(bn).__name__}"
        )
    if any(is_lazy(tensor) for tensor in (*bn.parameters(), *bn.buffers())):
        raise ValueError(
            f"{type(bn).__name__} has no features yet; run the model once so that it initialises, then adopt it"
        )
    settled = {"num_features", "eps", "momentum", "affine", "track_running_stats"} & options.keys()
    if settled:
        raise ValueError(f"{sorted(settled)} come from the batch norm; set them on it instead")
    return bn
