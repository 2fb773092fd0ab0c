"""Checks of what a generator is made and called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from scbn.checks.features import beside, dense, floating


def norm_choice(norm: Any, names: tuple[str, ...], word_dim: int | None) -> None:
    """Require the name of a norm, with the size of a word where it attends to words, or a factory of norms."""
    if isinstance(norm, nn.Module):
        raise ValueError(
            f"norm must make a new module for each place, got one {type(norm).__name__}; "
            "pass a callable num_features -> nn.Module, such as its class"
        )
    if norm not in names if isinstance(norm, str) else not callable(norm):
        raise ValueError(f"norm must be one of {names} or a callable num_features -> nn.Module, got {norm=}")
    if norm in ("word", "both") and word_dim is None:
        raise ValueError(f"{norm=} attends to words; pass word_dim, the encoder's word feature size")


def made_norm(norm: Any) -> None:
    """Require what a factory of norms returned to be a module."""
    if not isinstance(norm, nn.Module):
        raise ValueError(f"norm must return an nn.Module, got {type(norm).__name__}")


def activation(kind: str) -> None:
    """Require the name of an activation."""
    if kind not in ("glu", "relu", "leaky_relu"):
        raise ValueError(f"activation must be 'glu', 'relu' or 'leaky_relu', got {kind!r}")


def base_size(size: int, start: int) -> None:
    """Require ``start`` doubled any number of times."""
    if size != start << max((size // start).bit_length() - 1, 0):
        raise ValueError(f"base_size must be 4, 8, 16, 32, ... (4x4 doubled), got base_size={size}")


def per_stage(name: str, value: object, stages: int) -> list:
    """Require one value, or one for every stage; returns one for every stage."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != stages:
            raise ValueError(f"{name} must be one value or one for each of the {stages} stages, got {value!r}")
        return list(value)
    return [value] * stages


def noise(value: Tensor, noise_dim: int, linear: nn.Module) -> None:
    """Require (N, noise_dim) floating, where the generator's first layer is."""
    if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[1] != noise_dim:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"noise must have shape (N, noise_dim) = (N, {noise_dim}), got {got}; "
            f"draw it with torch.randn(len(sentence), {noise_dim})"
        )
    _noise("noise", value, linear)


def condition_noise(value: Tensor, count: int, condition_dim: int, linear: nn.Module) -> None:
    """Require (N, condition_dim) floating, where the generator's first layer is."""
    if not isinstance(value, Tensor):
        raise ValueError(f"condition_noise must be a tensor, got {type(value).__name__}")
    if value.shape != (count, condition_dim):
        want = (count, condition_dim)
        raise ValueError(f"condition_noise must have shape {want}, got condition_noise.shape={value.shape}")
    _noise("condition_noise", value, linear)


def _noise(name: str, value: Tensor, linear: nn.Module) -> None:
    floating(name, value, f"convert it with {name}.float()")
    dense(name, value)
    weight: Any = getattr(linear, "weight", None)  # of replicas and quantised layers too
    if isinstance(weight, Tensor) and not weight.is_meta:  # on meta, hooks bring it when it is used
        beside(name, value, "the generator", weight.device)
