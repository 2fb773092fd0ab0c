"""The README's Python blocks run as written, and its commands are there for CI to find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONTINUED = {"interop.md"}  # where each block goes on from those above it
ELSEWHERE = {"try.md"}  # on an exported model, by tests/examples/test_export.py
BLOCKS = []
for page in PAGES:
    if page.name in ELSEWHERE:
        continue
    found = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    whole = ["".join(found)] if page.name in CONTINUED else found
    BLOCKS += [pytest.param(block, id=f"{page.name}-{i}") for i, block in enumerate(whole)]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run_as_written(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "block"})


def test_the_api_fits_in_fifteen_lines() -> None:
    first = re.search(r"```python\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), re.S)
    assert first is not None
    assert len(first[1].splitlines()) <= 15


def test_the_readmes_code_needs_only_what_the_wheel_holds() -> None:
    """CI runs it in an environment that has nothing else: .ci/smoke.py."""
    blocks = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), re.S)
    assert blocks
    imported = {name for block in blocks for name in re.findall(r"^(?:from|import) (\w+)", block, re.M)}
    assert imported == {"torch", "scbn"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_code_fits_into_its_column(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = [
        line for block in re.findall(r"^ *```.*?\n(.*?)^ *```", text, re.M | re.S) for line in block.split("\n")
    ]
    assert [line for line in lines if len(line) > 80] == []


def test_links_and_pictures_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
