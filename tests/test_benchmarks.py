"""The benchmark: its correctness check lets only the same function through, and a run leaves its table and picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import generator, growth, run
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.plot import baseline, ratios

EAGER = [c for c in CANDIDATES if not c.compiled]


@pytest.mark.parametrize("candidate", [c for c in EAGER if c.same_as], ids=lambda c: c.name)
def test_candidates_agree_with_the_oracle(candidate: Candidate) -> None:
    assert run.check_correctness(candidate, words=5) < 1e-3


def test_the_gate_stops_what_computes_something_else() -> None:
    def detached(layer):
        return lambda x, text: layer(x, text) + 0 * x.detach()[:1].mean() + 1e-2 * x

    with pytest.raises(ValueError, match="off disagrees with the oracle"):
        run.check_correctness(Candidate("off", "word", detached), words=5)


def test_a_run_leaves_table_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(command, "CANDIDATES", EAGER)
    monkeypatch.setattr(command, "copy_bandwidth", lambda device, threads: 1e10)
    monkeypatch.setattr(growth, "VALUES", {"T": (2, 3), "C": (3,), "H": (4,), "N": (1, 2)})
    monkeypatch.setattr(growth, "START", (2, 4, 8, 8))
    arguments = [
        "benchmarks",
        "--shapes",
        "2",
        "4",
        "8",
        "8",
        "--rounds",
        "2",
        "--words",
        "3",
        "--growth",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    threads = torch.get_num_threads()
    try:
        assert command.main() == 0
    finally:
        torch.set_num_threads(threads)
    for picture in ("results.png", "summary.png", "bandwidth.png", "growth.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + len(EAGER)
    assert lines[0].startswith("candidate,n,c,h,w,words,step_s,inference_s,kept_bytes")
    content = json.loads((tmp_path / "results.json").read_text())
    assert [row["candidate"] for row in content["rows"]] == [c.name for c in EAGER]
    assert all(len(row["step"]) == len(row["inference"]) == 2 for row in content["rows"])
    assert [point["at"] for point in content["growth"]["N"]] == [1] * 4 + [2] * 4
    assert "WordSCBN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--candidates", "nothing"], "no such candidate"), (["--device", "cuda"], "torch sees no GPU here")],
)
def test_a_wrong_option_says_what_to_do(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main() == 2
    assert told in capsys.readouterr().err


def test_the_generator_is_measured_with_every_norm() -> None:
    rows = generator.measure_generator(run.Setting(words=3, rounds=1), 2, 2, lambda s: None)
    assert [row.candidate for row in rows] == list(generator.NORMS)
    assert all(row.step[0] > 0 for row in rows)


def test_the_baseline_is_the_faster_batch_norm() -> None:
    shape = (1, 1, 1, 1)
    eager, compiled = (
        run.Row("BatchNorm2d", shape, step=[2.0]),
        run.Row("BatchNorm2d, compiled", shape, step=[1.0]),
    )
    other = run.Row("WordSCBN", shape, step=[3.0])
    assert baseline([eager, compiled, other], other, "step") is compiled


@pytest.mark.parametrize(
    "name",
    ["class-conditional BN", "affine after the norm", "spatially masked affine", "attention once, then 1x1"],
)
def test_alternatives_normalise(name: str) -> None:
    candidate = next(c for c in CANDIDATES if c.name == name)
    x = torch.randn(4, 8, 16, 16) * 5 + 100
    y = candidate.make(run.layers(8)["word"])(x, run.text_of(4, 3))
    assert y.shape == x.shape
    assert y.abs().max() < 50  # the mean is gone


@pytest.mark.parametrize("candidate", EAGER, ids=lambda c: c.name)
def test_inference_uses_running_statistics_everywhere(candidate: Candidate) -> None:
    layer = run.layers(4)[candidate.same_as or "word"].eval()
    call, text = candidate.make(layer), run.text_of(2, 3)
    x = torch.randn(2, 4, 6, 6)
    alone = call(x[:1], type(text)(*(None if t is None else t[:1] for t in text)))
    torch.testing.assert_close(call(x, text)[:1], alone)


def test_ratios_are_of_the_same_round() -> None:
    shape = (1, 1, 1, 1)
    a, b = run.Row("a", shape, step=[2.0, 9.0]), run.Row("b", shape, step=[1.0, 3.0])
    assert ratios(a, b, "step") == [2.0, 3.0]
