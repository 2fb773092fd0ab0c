"""A short run of the fuzzer, and what its long runs have found."""

from __future__ import annotations

import pytest

from scbn.ops import eager
from tests.fuzz.runner import one, run


def test_five_hundred_calls_find_nothing() -> None:
    tally = run(range(500), 2019)
    assert not tally.findings, tally.findings[0]
    assert tally.outcomes["equal"] > 250
    assert tally.outcomes["error"] > 100


def test_a_call_is_drawn_from_its_seed_and_number_alone() -> None:
    first, again = one(3, 14), one(3, 14)
    assert (first[0].about, first[1]) == (again[0].about, again[1])
    assert one(3, 15)[0].about != first[0].about


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        eager, "padding_logits", lambda padding, dtype: padding.new_zeros(padding.shape[0], dtype=dtype)
    )
    assert {found["outcome"] for found in run(range(100), 2019).findings} == {"different"}


def test_a_check_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scbn.checks.visual", lambda x, num_features: None)
    assert {"foreign error", "accepted"} & {found["outcome"] for found in run(range(100), 2019).findings}
