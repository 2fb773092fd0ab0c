"""What a user gets by installing and importing."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import scbn

ROOT = Path(__file__).resolve().parents[1]


def test_all_is_the_contract() -> None:
    assert sorted(scbn.__all__) == scbn.__all__
    contract = {
        "TextFeatures",
        "SentenceSCBN",
        "WordSCBN",
        "VisualSemanticEmbedding",
        "SiameseContrastiveLoss",
        "TreeGenerator",
    }
    assert contract <= set(scbn.__all__)
    assert all(hasattr(scbn, name) for name in scbn.__all__)
    assert (Path(scbn.__file__).parent / "py.typed").is_file()
    assert metadata.version("scbn") == scbn.__version__


def test_core_dependencies_are_two() -> None:
    required = [r for r in metadata.requires("scbn") or [] if "extra ==" not in r]
    assert sorted(r.split(">")[0] for r in required) == ["torch", "typing-extensions"]


def test_import_brings_nothing_but_torch() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import scbn;"
        "print('\\n'.join(m for m in set(sys.modules) - before))"
    )
    new = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    allowed = {
        "scbn",
        "torch",
        "typing_extensions",
        "_remote_module_non_scriptable",
    }  # the last is torch.distributed's
    assert "scbn.word" in new
    assert not [name for name in new if name.startswith(("scbn.testing", "torch._dynamo", "torch._inductor"))]
    assert not [name for name in new if name.split(".")[0] not in allowed | set(sys.stdlib_module_names)]


def test_the_library_imports_nothing_from_the_examples() -> None:
    for path in (ROOT / "scbn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("examples", "tests", "benchmarks")], path


def test_no_file_is_beyond_four_hundred_lines() -> None:
    long = {p.name: n for p in ROOT.glob("[!.]*/**/*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
