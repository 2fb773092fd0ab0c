"""How a training step grows, measured in processes of its own; and what it would take elsewhere, counted."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import trained

from benchmarks import roofline, scale
from examples.sdgan.models import encoders

SMALL = {"pairs": 2, "size": 32, "words": 4}


def test_a_setting_is_measured_in_a_process_of_its_own() -> None:
    found = scale.run_apart(SMALL, steps=2)
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0
    assert found["peak_mib"] > 100 and found["processes"] == 1
    with pytest.raises(ValueError, match=r"(?s)'size': 33.*--size must be a power of two"):
        scale.run_apart({**SMALL, "size": 33}, steps=1)


def test_a_run_leaves_numbers_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def one(setting: dict[str, int], steps: int, processes: int = 1) -> dict[str, Any]:
        seconds = [0.1 * setting["pairs"] * processes**0.5] * steps
        return {"seconds": seconds, "peak_mib": 900, "processes": processes, **setting}

    monkeypatch.setattr(scale, "run_apart", one)
    monkeypatch.setattr(sys, "argv", ["scale", "--out", str(tmp_path), "--steps", "2"])
    assert scale.main() == 0
    record = json.loads((tmp_path / "scale.json").read_text())
    assert [p["size"] for p in record["axes"]["size"]] == list(scale.VALUES["size"])
    assert [r["processes"] for r in record["processes"]] == [1, 2]
    assert (tmp_path / "scale.png").stat().st_size > 10_000
    assert "71%" in capsys.readouterr().out  # two processes, each 1.41 times as slow


def test_an_operation_takes_what_limits_it() -> None:
    conv = torch.nn.Conv2d(64, 32, 3, padding=1, bias=False, device="meta")
    x = torch.empty(2, 64, 16, 16, device="meta")
    with roofline.Counting(tflops=1.0, tbytes=1.0) as counting, torch.no_grad():
        y = conv(x).view(2, -1)  # a view costs nothing
    cost = counting.cost
    assert cost.operations == 1
    assert cost.flops == 2 * 2 * 32 * 64 * 9 * 16 * 16
    assert cost.moved == 2 * (x.numel() + conv.weight.numel() + y.numel())
    assert cost.limited["compute"] == pytest.approx(cost.flops / 1e12)
    with roofline.Counting(tflops=1e6, tbytes=1.0) as counting, torch.no_grad():
        conv(x)
    assert counting.cost.limited["memory"] == pytest.approx(cost.moved / 1e12)


def test_a_training_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "InceptionImageEncoder", lambda dim, weights: encoders.SmallImageEncoder(dim))
    config = dataclasses.replace(trained.small(), batch_size=2)
    once = roofline.step_cost(config, 989.0, 3.35)
    twice = roofline.step_cost(dataclasses.replace(config, batch_size=4), 989.0, 3.35)
    assert 1.9 < twice.flops / once.flops < 2.1
    assert once.operations == twice.operations > 500
    assert once.parameters == twice.parameters > 10_000
    found = roofline.terms(once, roofline.Options(gpus=2, link=1.0, launch=1.0))
    assert found["all-reduce"] == pytest.approx(4 * once.parameters / 1e9)
    assert found["launches"] == pytest.approx(1e-6 * once.operations)
