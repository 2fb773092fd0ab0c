"""The faults that the mutation runner makes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

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
    (file, within, before, after) = next(iter(EXPLAINED))
    assert why_equal(file, f"x = {within}", before, after)
    assert why_equal("scbn/text.py", within, before, after) is None
    assert why_equal(file, "another statement", before, after) is None


def test_explained_faults_are_faults() -> None:
    """An explanation of a line that has changed would explain another fault."""
    root = Path(__file__).resolve().parents[1]
    files = {file for file, *_ in EXPLAINED}
    found = [(file, m) for file in files for m in mutants(file[5:-3], (root / file).read_text(encoding="utf-8"))]
    for file, within, before, after in EXPLAINED:
        there = [m for f, m in found if (f, m.before, m.after) == (file, before, after) and within in m.within]
        assert there, (file, within, before, after)


def test_a_fault_tells_its_statement() -> None:
    assert {m.within for m in mutants("file", "if a:\n    b = c - 1")} == {"if a:", "b = c - 1"}
