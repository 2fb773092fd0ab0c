"""The ablation end to end in miniature, and its tables by hand."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.miniature import shrink
from helpers.text_models import text_model
from PIL import Image

from examples.sdgan import ablate, edits, report
from examples.sdgan.data import toy
from examples.sdgan.data.birds import likeliest
from examples.sdgan.data.birds.attributes import MUTATION, SPECIES, prototypes
from examples.sdgan.data.drawn import DRAWN
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.metrics import consistency


def record(variant: str, seed: int, points: list[tuple[int, float, float, float]]) -> dict:
    return {
        "variant": variant,
        "seed": seed,
        "generator_parameters": 1000,
        "points": [
            {"step": s, "cpu_seconds": t, "fidelity": {"value": f}, "other": {"value": o}} for s, t, f, o in points
        ],
    }


RECORDS = [
    record("a", 0, [(10, 1.0, 0.2, 0.9), (20, 2.0, 0.6, 0.5)]),
    record("a", 1, [(10, 1.0, 0.3, 0.9), (20, 2.0, 0.8, 0.4)]),
    record("b", 0, [(10, 2.0, 0.4, 0.8), (20, 4.0, 1.0, 0.2)]),
    record("b", 1, [(10, 2.0, 0.5, 0.7), (20, 4.0, 0.9, 0.3)]),
]


def test_interpolation() -> None:
    assert report.interpolate(RECORDS[0], "cpu_seconds", 1.5, "fidelity") == pytest.approx(0.4)
    assert report.interpolate(RECORDS[0], "fidelity", 0.5, "other") == pytest.approx(0.6)
    assert report.interpolate(RECORDS[0], "fidelity", 0.1, "other") == 0.9  # reached before the first point
    assert report.interpolate(RECORDS[0], "fidelity", 0.7, "other") is None


def test_intervals_over_seeds() -> None:
    centre, half = report.interval([1.0, 2.0, 3.0])
    assert centre == 2
    assert half == pytest.approx(4.303 / 3**0.5)
    assert report.interval([1.0])[1] != report.interval([1.0])[1]  # nan: one seed has no interval
    assert report.difference(RECORDS, "a", "b", "fidelity")[0] == pytest.approx((0.4 + 0.1) / 2)


def test_tables() -> None:
    assert report.common_level(RECORDS, "fidelity") == pytest.approx(0.6)
    text = report.tables(RECORDS, ("fidelity", "other"), "fidelity")
    steps, time, level = text.split("Equal ")[1:]
    assert "| a | 0.700 ± 1.271 | 0.450 ± 0.635 | 0.100 | 1 k |" in steps
    # In two seconds, which is what the faster needs for all its steps, b is at its first point.
    assert time.startswith("time (2 CPU-seconds)")
    assert "| b | 0.450" in time
    assert level.startswith("fidelity (0.60)")
    assert "| b | 0.600" in level  # 0.8 - 0.6 / 3 and 0.7 - 0.4 / 4
    later = [record("late", 0, [(10, 1.0, 0.1, 0.9), (20, 2.0, 0.2, 0.9)])]
    assert "not reached" in report.tables([*RECORDS, *later], ("fidelity",), "fidelity") or (
        report.common_level([*RECORDS, *later], "fidelity") == pytest.approx(0.2)
    )


def test_the_likeliest_bird() -> None:
    species = prototypes()
    everything, nothing = torch.ones_like(species).bool(), torch.zeros_like(species).bool()
    strange = (species + 1) % 2
    assert torch.equal(likeliest(strange, everything), strange)  # what is named stays
    assert len(likeliest(strange, nothing).unique(dim=0)) == 1  # nothing known, one answer
    # By enumeration: P(belly | crown, wing) for one bird.
    labels, named = species[:1], torch.tensor([[False, True, True, False, False]])
    chance = torch.zeros(7, dtype=torch.float64)
    for s in range(SPECIES):
        weight = 1.0
        for a in (1, 2):
            weight *= MUTATION / 7 + (1 - MUTATION) * float(species[s, a] == labels[0, a])
        for v in range(7):
            chance[v] += weight * (MUTATION / 7 + (1 - MUTATION) * float(species[s, 3] == v))
    assert likeliest(labels, named)[0, 3] == chance.argmax()


def test_agreement_of_the_likeliest_birds() -> None:
    data = toy.birds("test", 8, 300)
    pairs = [(0, next(k for k in range(1, 10) if c[k] != c[0])) for c in data.captions]
    nothing = torch.zeros(0)
    found = consistency.likeliest_agreement(
        consistency.Triples(nothing, nothing, nothing, list(range(300)), pairs), data
    )
    assert found["both"]["value"] == 1
    assert 0.3 < found["one"]["value"] < 0.8
    assert found["all"]["pairs"] == 1500


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr, test=40)
    base = ablate.base_config()
    tiny = dataclasses.replace(
        base,
        batch_size=4,
        encoder=dataclasses.replace(base.encoder, dim=8, batch_size=8),
        generator=dataclasses.replace(base.generator, channels=(8, 8)),
        discriminator=dataclasses.replace(base.discriminator, channels=8),
    )
    monkeypatch.setattr(ablate, "base_config", lambda: tiny)


@pytest.mark.usefixtures("_few")
def test_an_ablation_of_the_harder_birds_and_its_edits(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--steps", "2", "--measure-every", "2", "--images", "20", "--seeds", "0"]
    arguments += ["--encoder-steps", "2", "--variants", "SCBN both + attention", "--which", "arms"]
    assert ablate.main([*arguments, "--data", "birds-hard"]) == 0
    (record,) = ablate.read_results(tmp_path / "results.jsonl")
    assert record["config"]["data"] == "birds-hard" and record["config"]["size"] == 64
    (point,) = record["points"]
    assert {"caption_fidelity", "novel_caption_fidelity", "unseen_caption_fidelity"} <= point.keys()
    assert not any(
        name.startswith(("likeliest", "synonym")) for name in point
    )  # of the toy birds' words and species
    assert set(point["caption_fidelity"]["each"]) == set(DRAWN["birds-hard"].attributes)
    assert edits.main(["--runs", str(tmp_path), "--images", "20"]) == 0
    assert "SCBN both + attention" in (tmp_path / "edits.md").read_text()


@pytest.mark.usefixtures("_few")
def test_ablation_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--out", str(tmp_path), "--steps", "4", "--measure-every", "2", "--images", "30"]
    arguments += ["--encoder-steps", "4", "--seeds", "0", "1", "--variants", "BN", "SCBN both + Siamese"]
    assert ablate.main(arguments) == 0
    results = tmp_path / "results.jsonl"
    records = ablate.read_results(results)
    assert [(r["variant"], r["seed"]) for r in records] == [
        (v, s) for s in (0, 1) for v in ("BN", "SCBN both + Siamese")
    ]
    assert [p["step"] for p in records[0]["points"]] == [2, 4]
    assert records[0]["config"]["siamese"]["weight"] == 0
    assert records[1]["config"]["generator"]["norm"] == "both"
    assert {"reworded_caption_fidelity", "synonym_caption_fidelity"} <= records[0]["points"][0].keys()
    # What is interrupted goes on, and gives what it would have given.
    lines = results.read_text().splitlines()
    results.write_text("\n".join(lines[:3]) + "\n")
    assert ablate.main(arguments) == 0
    again = ablate.read_results(results)[3]
    measured = [{k: v for k, v in p.items() if k != "cpu_seconds"} for p in again["points"]]
    assert measured == [{k: v for k, v in p.items() if k != "cpu_seconds"} for p in records[3]["points"]]
    assert load_sampler(tmp_path / "seed-1" / "BN.pt").config.generator.norm == "batch"
    assert report.main(["--results", str(results)]) == 0
    assert "| BN |" in (tmp_path / "tables.md").read_text()
    for name in ("curves", "paraphrases", "one-word", "word-maps"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 300
    capsys.readouterr()


@pytest.mark.usefixtures("_few")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_text_model_by_a_relative_folder_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    text_model(tmp_path / "texts" / "bert")
    monkeypatch.chdir(tmp_path)
    arguments = ["--which", "arms", "--out", "out", "--steps", "1", "--measure-every", "1", "--images", "30"]
    arguments += ["--encoder-steps", "2", "--seeds", "0", "--variants", "BN"]
    assert ablate.main([*arguments, "--text", "texts/bert"]) == 0
    assert str(tmp_path) not in Path("out/results.jsonl").read_text()
    for again in ("texts/bert", str(tmp_path / "texts" / "bert")):
        assert ablate.main([*arguments, "--text", again]) == 0
    assert ablate.main(arguments) == 2
    assert "--text 'bert', but asked are" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("_few")
def test_every_arm_trains_and_can_be_sampled(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "--which",
        "arms",
        "--out",
        str(tmp_path),
        "--steps",
        "1",
        "--measure-every",
        "1",
        "--images",
        "30",
    ]
    assert ablate.main([*arguments, "--encoder-steps", "2", "--seeds", "0"]) == 0
    records = {r["variant"]: r for r in ablate.read_results(tmp_path / "results.jsonl")}
    assert list(records) == list(ablate.ARMS)
    size = {name: record["generator_parameters"] for name, record in records.items()}
    assert size["BN + attention"] > size["BN"]
    assert size["SCBN both + attention"] > size["SCBN both"]
    for name, arm in ablate.ARMS.items():
        loaded = load_sampler(tmp_path / "seed-0" / f"{name.replace(' ', '_')}.pt")
        assert (loaded.config.generator.norm, loaded.config.generator.attention) == (arm.norm, arm.attention)
        _, maps, _ = loaded.attention(["a small bird"], torch.zeros(1, loaded.config.generator.noise_dim))
        # The attention of a stage is shown as that of a norm.
        assert len(maps) == arm.attention + 3 * (arm.norm in ("word", "both")), name
    capsys.readouterr()


def test_effects() -> None:
    text = report.effects(RECORDS, [("a", "b")], ("fidelity",))
    # Paired by seed: 0.4 and 0.1, mean 0.25, t(2) 12.706 * 0.2121 / sqrt(2)
    assert text.endswith("| b over a | +0.250 ± 1.906 |")


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert ablate.main(["--out", str(tmp_path), "--variants", "nonsense"]) == 2
    assert "the set ablation has ['BN'" in capsys.readouterr().out
    (tmp_path / "results.jsonl").write_text('{"variant": "BN", "se')
    assert ablate.main(["--out", str(tmp_path)]) == 2
    assert "results.jsonl, line 1: no record" in " ".join(capsys.readouterr().out.split())
    assert report.main(["--results", str(tmp_path / "none.jsonl")]) == 2
    assert "run python -m examples.sdgan.ablate first" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("_few")
def test_a_table_is_of_one_recipe(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "--out",
        str(tmp_path),
        "--images",
        "30",
        "--encoder-steps",
        "4",
        "--seeds",
        "0",
        "--variants",
        "BN",
    ]
    assert ablate.main([*arguments, "--steps", "3", "--measure-every", "2"]) == 2
    assert "--steps must be a multiple of --measure-every, got 3 and 2" in capsys.readouterr().out
    assert ablate.main([*arguments, "--steps", "2", "--measure-every", "2"]) == 0
    assert ablate.main([*arguments, "--steps", "3", "--measure-every", "0"]) == 2
    for other in (["--steps", "4", "--measure-every", "2"], ["--steps", "2", "--measure-every", "1"]):
        assert ablate.main([*arguments, *other]) == 2
        assert "results.jsonl, line 1: measured at steps [2] of toy" in " ".join(capsys.readouterr().out.split())


def test_distances_are_means_of_the_last_logs() -> None:
    logged = {"step": [0, 1, 2], "distance_same": [1.0, 2.0, 3.0], "distance_other": [4.0, 4.0, 4.0]}
    text = report.distances([{"variant": "a", "seed": 0, "distances": logged}])
    assert text.endswith("| a | 2.00 (sd 1.00) | 4.00 (sd 0.00) |")


def test_photographs_have_their_own_measures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    results = tmp_path / "results.jsonl"
    shutil.copy(DOCS / "results" / "cub-ablation.jsonl", results)
    assert report.main(["--results", str(results)]) == 0
    assert "r precision" in (tmp_path / "tables.md").read_text()
    capsys.readouterr()
    assert report.main(["--results", str(results), "--measures", "fidelity"]) == 2
    assert "no measure 'fidelity' at every point; there are [" in " ".join(capsys.readouterr().out.split())
    results.write_text("{\n")
    assert report.main(["--results", str(results)]) == 2
    assert "line 1: no record of a run" in " ".join(capsys.readouterr().out.split())


DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["ablation", "arms", "study", "siamese-seeds", "long", "cub-ablation"])
def test_the_documented_tables_are_those_of_the_results(name: str) -> None:
    page = (DOCS / "evidence.md").read_text(encoding="utf-8")
    records = ablate.read_results(DOCS / "results" / f"{name}.jsonl")
    about = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    for block in report.tables(records, about["measures"], about["at_equal"]).split("\n\n"):
        if about["tables"] == "all" or block.startswith("|"):
            assert block.strip() in page
            if about["tables"] != "all":
                break
    if about.get("effects"):
        assert report.effects(records, about["effects"], about["measures"]) in page
    if about.get("distances"):
        assert report.distances(records) in page


def test_the_comparison_of_text_encoders_is_what_was_measured() -> None:
    """The table of text-encoders.md against the results beside it."""
    records = ablate.read_results(DOCS / "results" / "text-encoders.jsonl")
    page = (DOCS / "text-encoders.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if re.match(r"\| (held-out|the same|other)", line)]
    measures = ("caption", "novel_caption", "reworded_caption", "synonym_caption")
    assert len(table) == len(measures)
    for line, measure in zip(table, measures, strict=True):
        cells = line.replace("*", "").strip("| ").split(" | ")[-2:]
        for cell, encoder in zip(cells, ("LSTM", "MiniLM"), strict=True):
            ends = [r["points"][-1][f"{measure}_fidelity"]["value"] for r in records if r["variant"] == encoder]
            assert len(ends) == 3
            centre, half = report.interval(ends)
            told = [float(number) for number in cell.split(" ± ")]
            assert told == pytest.approx([centre, half], abs=6e-4), (line, encoder)
