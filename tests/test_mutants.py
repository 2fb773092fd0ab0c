"""The faults that the mutation runner makes, and what it leaves alone."""

from __future__ import annotations

import pytest

from tests.mutation.explained import EXPLAINED, why_equal
from tests.mutation.mutants import mutants


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("y = a < b", {"a <= b"}),
        ("y = a - b * c", {"a + b * c", "b / c"}),
        ("y = a and b", {"a or b"}),
        ("y = not a", {"not not a"}),
        ("y = f(3, True, 'word')", {"4", "False", "'wordX'"}),
        ("if a:\n    f(b)", {"if not a:\n    f(b)", "None"}),
        ("y += a", {"y -= a"}),
        ("raise ValueError(f'{a} is 3')", {"None"}),
        (
            "@decorated\ndef f(x: int = 3) -> int:\n    '''Not 4.'''\n    return x",
            {"4", "def f(x: int=3) -> int:\n    '''Not 4.'''\n    return x"},
        ),
        ("import a\n__all__ = ['b']\nassert a == 3", set()),
    ],
)
def test_faults(source: str, faults: set[str]) -> None:
    found = mutants("file", source)
    assert {mutant.after.replace('"""', "'''") for mutant in found} == faults
    assert all(mutant.source != source and mutant.path == "file" for mutant in found)


def test_each_fault_changes_one_place() -> None:
    (first, second) = mutants("file", "y = 1\nz = 1")
    assert (first.source, second.source) == ("y = 2\nz = 1", "y = 1\nz = 2")
    assert (first.line, second.line) == (1, 2)


def test_an_explanation_is_for_one_fault_of_one_file() -> None:
    (file, before, after) = next(iter(EXPLAINED))
    assert why_equal(file, before, after)
    assert why_equal("scbn/text.py", before, after) is None
