"""Numbers on the pages are those of the result files beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from examples.sdgan import report

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS / "results"


def _cell(values: list[float]) -> str:
    centre, half = report.interval(values)
    return f"{centre:.3f} ± {half:.3f}"


def _page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_rehearsal_on_photographs() -> None:
    seeds = json.loads((RESULTS / "retrofit-cub.json").read_text())["seeds"]
    assert [run["seed"] for run in seeds] == [0, 1, 2]
    page = _page("retrofit.md")
    for measure, told in (
        ("r_precision", "R-precision, 500 images"),
        ("matching_distance", "Fréchet distance in"),
    ):
        cells = [_cell([run[k][measure]["value"] for run in seeds]) for k in ("before", "control", "retrofit")]
        line = next(row for row in page.splitlines() if row.startswith(f"| {told}") and cells[0] in row)
        assert line.endswith(" | ".join(cells) + " |")
        centre, half = report.interval(
            [run["retrofit"][measure]["value"] - run["control"][measure]["value"] for run in seeds]
        )
        assert f"{abs(centre):.3f} ± {half:.3f}"[1:].replace("± 0", "± ") in " ".join(page.split())
    assert max(run["largest_change_at_step_0"] for run in seeds) < 3.4e-6


def test_text_encoders_on_photographs() -> None:
    judged = [json.loads(line) for line in (RESULTS / "judged-cub.jsonl").read_text().splitlines()]
    records = [json.loads(line) for line in (RESULTS / "text-encoders-cub.jsonl").read_text().splitlines()]
    page = _page("text-encoders.md")

    def cell(values: list[float]) -> str:
        assert len(values) == 3
        return _cell(values).replace("0.", ".")

    for judge, told in (("LSTM", "an LSTM"), ("MiniLM", "MiniLM")):
        mine = [r for r in judged if r["judge"].startswith(judge)]
        assert all(r["judge"][-1] != r["model"][-1] for r in mine)  # never its own seed
        cells = [
            cell([r["r_precision"]["value"] for r in mine if r["model"].startswith(model)])
            for model in ("real", "LSTM", "MiniLM")
        ]
        assert f"| {told} | {' | '.join(cells)} |" in page
    own = [
        cell([r["points"][-1]["r_precision"]["value"] for r in records if r["variant"] == v])
        for v in ("LSTM", "MiniLM")
    ]
    assert f"| the one it was trained with | | {' | '.join(own)} |" in page


def test_results_name_no_folder_of_a_machine() -> None:
    for path in sorted(RESULTS.iterdir()):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"/(work|home|root|tmp|Users)/', text), path.name
