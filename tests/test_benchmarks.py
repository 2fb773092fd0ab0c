"""The benchmark: its gate lets only the same function through, and a run leaves its table and picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import run
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.plot import ratios

EAGER = [c for c in CONTENDERS if not c.compiled]


@pytest.mark.parametrize("contender", [c for c in EAGER if c.same_as], ids=lambda c: c.name)
def test_contenders_agree_with_the_oracle(contender: Contender) -> None:
    assert run.gate(contender, words=5) < 1e-3


def test_the_gate_stops_what_computes_something_else() -> None:
    def detached(layer):
        return lambda x, text: layer(x, text) + 0 * x.detach()[:1].mean() + 1e-2 * x

    with pytest.raises(ValueError, match="off disagrees with the oracle"):
        run.gate(Contender("off", "word", detached), words=5)


def test_a_run_leaves_table_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(run, "CONTENDERS", EAGER)
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
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    threads = torch.get_num_threads()
    try:
        assert command.main() == 0
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "results.png").stat().st_size > 10_000
    content = json.loads((tmp_path / "results.json").read_text())
    assert [row["contender"] for row in content["rows"]] == [c.name for c in EAGER]
    assert all(len(row["step"]) == len(row["inference"]) == 2 for row in content["rows"])
    assert "WordSCBN" in capsys.readouterr().out


@pytest.mark.parametrize("contender", EAGER, ids=lambda c: c.name)
def test_inference_uses_running_statistics_everywhere(contender: Contender) -> None:
    layer = run.layers(4)[contender.same_as or "word"].eval()
    call, text = contender.make(layer), run.text_of(2, 3)
    x = torch.randn(2, 4, 6, 6)
    alone = call(x[:1], type(text)(*(None if t is None else t[:1] for t in text)))
    torch.testing.assert_close(call(x, text)[:1], alone)


def test_ratios_are_of_the_same_round() -> None:
    shape = (1, 1, 1, 1)
    a, b = run.Row("a", shape, step=[2.0, 9.0]), run.Row("b", shape, step=[1.0, 3.0])
    assert ratios(a, b, "step") == [2.0, 3.0]
