"""The composed modulation under torch.compile, for devices that no path of their own serves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scbn.ops import eager


def sentence_modulate(*args: Any) -> Tensor:
    """:func:`scbn.ops.eager.sentence_modulate`, compiled at its first call."""
    return _compiled(eager.sentence_modulate)(*args)


def word_modulate(*args: Any) -> Tensor:
    """:func:`scbn.ops.eager.word_modulate`, compiled at its first call."""
    return _compiled(eager.word_modulate)(*args)


def _compiled(function: Any) -> Any:
    if function not in _cache:
        # Not fullgraph: beyond its limit of kinds of arguments (dtypes, ranks, masks) that would fail, not run uncompiled.
        _cache[function] = torch.compile(function, dynamic=True)
    return _cache[function]


_cache: dict[Any, Any] = {}
