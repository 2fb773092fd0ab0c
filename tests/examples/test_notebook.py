"""The notebook runs from its first cell to its last, on little."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHRUNK = """
import matplotlib
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from helpers.miniature import shrink
shrink()
encoder_steps, steps = 2, 2
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::UserWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    # Where it would write: not in the checkout.
    folder = tmp_path / "clone" / "examples" / "notebooks"
    folder.mkdir(parents=True)
    source = ROOT / "examples" / "notebooks" / "first_bird.ipynb"
    shutil.copy(source, folder)
    notebook = nbformat.read(folder / source.name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not stored: they would grow old"
    tagged = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    assert "../..[examples]" in tagged["install"].source
    assert (folder / "../..").resolve() == tmp_path / "clone"
    tagged["install"].source = ""
    tagged["sizes"].source = SHRUNK.format(root=str(ROOT), tests=str(ROOT / "tests"))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "plain at first: True" in said
    shown = [
        out for cell in notebook.cells for out in cell.get("outputs", ()) if "image/png" in out.get("data", {})
    ]
    assert len(shown) == 3
    for name in ("samples", "words", "one-word"):
        assert (folder / "runs" / "first-bird" / f"{name}.png").stat().st_size > 1000
