"""The contract of a conditional norm as checks to run on one's own, and strategies for hypothesis.

``import scbn`` does not import this; the checks need torch alone, :mod:`scbn.testing.strategies` needs hypothesis.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from scbn.testing import interop, values
from scbn.testing.contract import BrokenContract, Check, MakeNorm

__all__ = ["CHECKS", "BrokenContract", "Check", "check_conditional_norm"]

CHECKS: tuple[Check, ...] = (*values.CHECKS, *interop.CHECKS)
"""Every rule, in the order in which they are tried: for ``pytest.mark.parametrize("check", CHECKS, ids=str)``."""


def check_conditional_norm(
    make: MakeNorm,
    *,
    word_dim: int | None = None,
    sentence_dim: int | None = None,
    skip: Collection[str] = (),
) -> None:
    """Try every rule of the contract on a conditional norm, and say all that it breaks.

    Args:
        make: ``num_features -> nn.Module``, a new norm each time, called as ``norm(x, text)`` with x (N, C, H, W) and
            text a :class:`scbn.TextFeatures`.
        word_dim: size D_w of a word vector, where the norm is conditioned on words (N, T, D_w).
        sentence_dim: size D_s of the sentence vector, where it is conditioned on a sentence (N, D_s).
        skip: names of rules that it is not meant to keep.

    Raises:
        BrokenContract: an ``AssertionError`` that names each broken rule; ``rules`` has the names.
        ValueError: a name in ``skip`` is of no rule, or there is no cue to condition on.
    """
    names = [check.name for check in CHECKS]
    unknown = sorted(set([skip] if isinstance(skip, str) else skip) - set(names))
    if unknown or isinstance(skip, str):
        raise ValueError(f"skip must hold names of rules, got {skip!r}; the rules are {names}")
    broken: list[BrokenContract] = []
    for check in CHECKS:
        if check.name not in skip:
            try:
                check(make, word_dim=word_dim, sentence_dim=sentence_dim)
            except BrokenContract as error:
                broken.append(error)
    if broken:
        rules = tuple(rule for error in broken for rule in error.rules)
        told = "\n\n".join(str(error) for error in broken)
        raise BrokenContract(f"{len(rules)} of {len(CHECKS) - len(skip)} rules are broken.\n\n{told}", rules)


def __getattr__(name: str) -> Any:
    if name == "strategies":
        return importlib.import_module("scbn.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
