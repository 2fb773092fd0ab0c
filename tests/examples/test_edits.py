"""Edits of one word: the measures tell a generator that follows from one that leaks, binds wrongly, or does nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.sdgan import ablate, report
from examples.sdgan import edits as command
from examples.sdgan.data.birds import ATTRIBUTES, draw
from examples.sdgan.data.birds.attributes import COLOURS, Birds
from examples.sdgan.data.dataset import to_float
from examples.sdgan.data.drawn import DRAWN, Drawn
from examples.sdgan.data.vocabulary import tokenize
from examples.sdgan.metrics import edits
from examples.sdgan.metrics.caption_fidelity import AttributeReader

SIZE, COUNT = 32, 60
TOY, HARD = DRAWN["toy"], DRAWN["birds-hard"]
DOCS = Path(__file__).resolve().parents[2] / "docs"


class Oracle(AttributeReader):
    """Reads attributes off the pixels of pictures that carry their labels in a corner."""

    def read(self, images: Tensor) -> Tensor:
        return ((images[:, 0, 0, : len(ATTRIBUTES)] + 1) * 5).round().long()


def _marked(labels: Tensor, seed: int = 3) -> Tensor:
    images = to_float(draw(Birds(labels, torch.zeros(len(labels), dtype=torch.int64)), SIZE, seed))
    images[:, :, 0, : len(ATTRIBUTES)] = (labels.float() / 5 - 1)[:, None]
    return images


class Follows:
    """A generator that draws what captions say."""

    config = SimpleNamespace(data="toy", size=SIZE, generator=SimpleNamespace(noise_dim=4))

    def images(self, captions: list[str], noise: Tensor) -> Tensor:
        assert len(captions) == len(noise)
        return _marked(torch.tensor([self.labels(tokenize(caption)) for caption in captions]))

    def labels(self, words: list[str]) -> list[int]:
        def colour(part: str) -> int:
            return COLOURS.index(words[words.index(part) - 1]) if part in words else 0

        return [int("large" in words), colour("crown"), colour("wings"), colour("belly"), 0]


class Leaks(Follows):
    """The belly takes the crown's colour."""

    def labels(self, words: list[str]) -> list[int]:
        found = super().labels(words)
        return [*found[:3], found[1], found[4]]


class MixesUp(Follows):
    """The two colours named first and last change places."""

    def labels(self, words: list[str]) -> list[int]:
        size, crown, wing, belly, beak = super().labels(words)
        return [size, wing, crown, belly, beak]


class Deaf(Follows):
    """Draws the same bird whatever the caption."""

    def labels(self, words: list[str]) -> list[int]:
        return [0, 1, 2, 3, 0]


def _measured(generator: Any) -> dict[str, float]:
    found = edits.edits(generator, Oracle(ATTRIBUTES), COUNT, 0, TOY)
    for value in found.values():
        assert (
            value["interval_95"][0] <= value["value"] <= value["interval_95"][1]
            or value["value"] != value["value"]
        )
        assert value["images"] == COUNT
    return {name: value["value"] for name, value in found.items()}


def test_a_generator_that_follows() -> None:
    found = _measured(Follows())
    assert (found["edit_success"], found["edit_leakage"], found["binding"]) == (1.0, 0.0, 1.0)
    assert found["edit_outside"] < 0.1  # the marks in the corner, and poses that are rare


def test_a_generator_that_leaks() -> None:
    found = _measured(Leaks())
    _, edited, part = edits.edited_birds(COUNT, 0, TOY)
    crown, belly = (list(ATTRIBUTES).index(name) for name in ("crown", "belly"))
    crowns = (part == crown).double().mean()
    right = (part != belly) | (edited[:, belly] == edited[:, crown])
    assert found["edit_success"] == pytest.approx(float(right.double().mean()), abs=1e-4)
    assert found["edit_leakage"] == pytest.approx(float(crowns) / (len(ATTRIBUTES) - 1), abs=1e-4)
    assert found["edit_outside"] > _measured(Follows())["edit_outside"] + 0.1
    assert found["binding"] == 1.0


def test_a_generator_that_mixes_parts_up_and_one_that_is_deaf() -> None:
    assert _measured(MixesUp())["binding"] == 0.0
    deaf = _measured(Deaf())
    assert deaf["edit_success"] < 0.4 and deaf["edit_leakage"] == 0.0 and deaf["binding"] == 0.0


@pytest.mark.parametrize("drawn", [TOY, HARD], ids=lambda drawn: drawn.title)
def test_one_word_of_the_caption_changes(drawn: Drawn) -> None:
    labels, edited, part = edits.edited_birds(200, 4, drawn)
    assert {drawn.names[i] for i in part.tolist()} == set(edits.PARTS)
    for before, after, column in zip(labels.tolist(), edited.tolist(), part.tolist(), strict=True):
        assert [i for i in range(len(before)) if before[i] != after[i]] == [column]
        words = [edits.caption(row, drawn).split() for row in (before, after)]
        assert sum(a != b for a, b in zip(*words, strict=True)) == 1
    for first, second in zip(*(rows.tolist() for rows in edits.swapped_birds(labels, drawn)), strict=True):
        crown, wing = drawn.names.index("crown"), drawn.names.index("wing")
        assert (first[crown], first[wing]) == (second[wing], second[crown]) and first[crown] != first[wing]


@pytest.mark.parametrize("drawn", [TOY, HARD], ids=lambda drawn: drawn.title)
def test_parts_are_where_they_are_drawn(drawn: Drawn) -> None:
    where = edits.places(SIZE, drawn)
    names = drawn.names
    for part in edits.PARTS:
        share = where[names.index(part)].double().mean()
        assert 0.02 < share < 0.5, part
    assert not where[names.index("size")].any()
    rows = torch.arange(SIZE)[:, None].expand(SIZE, SIZE)
    heights = {part: rows[where[names.index(part)]].double().mean() for part in edits.PARTS}
    assert heights["crown"] < heights["wing"]


def test_the_command_measures_kept_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    point = {"step": 2, "cpu_seconds": 1.0}
    record = {"variant": "SCBN both", "seed": 0, "points": [point], "config": {"data": "toy"}}
    gone = {**record, "variant": "BN"}
    lines = "".join(json.dumps(r) + "\n" for r in (record, gone))
    (tmp_path / "results.jsonl").write_text(lines)
    (tmp_path / "seed-0").mkdir()
    assert command.main(["--runs", str(tmp_path)]) == 2
    assert "none of its models was kept" in capsys.readouterr().out
    (tmp_path / "seed-0" / "SCBN_both.pt").write_bytes(b"")
    monkeypatch.setattr(command, "load_sampler", lambda path: Follows())
    monkeypatch.setattr(command, "_reader", lambda config, seed: Oracle(ATTRIBUTES))
    assert command.main(["--runs", str(tmp_path), "--images", "20"]) == 0
    told = capsys.readouterr().out
    assert "BN.pt: not kept" in told and "| SCBN both | 1.000 | 0.000 |" in told
    found = ablate.read_results(tmp_path / "edits.jsonl")
    assert [r["variant"] for r in found] == ["the drawings", "SCBN both"]
    assert (tmp_path / "edits.md").read_text().strip() == report.last_table(found, command.MEASURES)
    assert command.main(["--runs", str(tmp_path), "--images", "3"]) == 2
    (tmp_path / "results.jsonl").write_text(json.dumps({**record, "config": {"data": "cub"}}) + "\n")
    assert command.main(["--runs", str(tmp_path)]) == 2
    assert command.main(["--runs", str(tmp_path / "none")]) == 2


def test_the_documented_table_is_that_of_the_results() -> None:
    records = ablate.read_results(DOCS / "results" / "edits.jsonl")
    assert report.last_table(records, command.MEASURES) in (DOCS / "evidence.md").read_text(encoding="utf-8")
