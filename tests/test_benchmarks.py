"""The benchmark: its correctness check lets only the same function through, and a run leaves its table and picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import generator, growth, run, trainer
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.plot import baseline, ratios
from benchmarks.timing import Setting
from examples.sdgan.training.gan import GanTraining

EAGER = [c for c in CANDIDATES if not c.compiled]


@pytest.mark.parametrize("layout", run.LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("candidate", [c for c in EAGER if c.same_as], ids=lambda c: c.name)
def test_candidates_agree_with_the_oracle(
    candidate: Candidate, dtype: str, layout: Literal["contiguous", "channels_last"]
) -> None:
    assert run.check_correctness(candidate, Setting(dtype=dtype, words=5, layout=layout)) < run.TOLERANCE[dtype]


@pytest.mark.parametrize("allocator", ["trimmed", "warm"])
@pytest.mark.parametrize("layout", run.LAYOUTS)
def test_x_lies_in_memory_as_was_asked(layout, allocator) -> None:
    seen: list[torch.Tensor] = []

    def make(layer):
        def call(x, text):
            seen.append(x)
            return layer(x, text)

        return call

    setting = Setting(words=3, rounds=1, layout=layout, allocator=allocator)
    run.measure((2, 4, 6, 5), [Candidate("seen", None, make)], setting, lambda text: None)
    assert seen and all(x.is_contiguous(memory_format=run.LAYOUTS[layout]) for x in seen)


@pytest.mark.parametrize("name", ["a rival", "WordSCBN, in a compiled model"])
def test_only_a_rival_that_does_not_compile_is_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(candidate, setting):
        raise RuntimeError("C++ compile error")

    monkeypatch.setattr(run, "check_correctness", broken)
    rivals = [Candidate(name, "word", lambda layer: layer, compiled=True)]
    if name != "a rival":
        with pytest.raises(RuntimeError, match="compile error"):
            run.measure((2, 4, 6, 5), rivals, Setting(words=3, rounds=1), lambda text: None)
        return
    assert run.measure((2, 4, 6, 5), rivals, Setting(words=3, rounds=1), lambda text: None) == []
    assert "a rival: left out, torch.compile fails" in capsys.readouterr().err


def test_the_trainers_parts_are_methods_of_it() -> None:
    assert all(callable(getattr(GanTraining, name)) for name in trainer.PARTS)


def test_what_a_comparison_of_trainers_leaves(tmp_path: Path) -> None:
    names = ["SD-GAN, ours", "SD-GAN, ours, bf16-mixed", "AttnGAN, published code"]
    record = {
        "images": 8,
        "seconds": {name: [8.0 / (i + 1), 9.0] for i, name in enumerate(names)},
        "images_per_second": dict.fromkeys(names, 1.0),
        "parameters": {name: [10**6, 10**7] for name in names},
        "ratio": dict.fromkeys(names[:2], 1.5),
        "parts_of_a_step": {
            name: {"step": 8.0} | {part.strip("_"): 1.0 for part in trainer.PARTS} for name in names[:2]
        },
        "device": "a CPU",
        "threads": 2,
        "torch": "2",
        "commit": "abc",
    }
    trainer.plot(record, tmp_path / "trainer.png")
    assert (tmp_path / "trainer.png").stat().st_size > 5000
    assert trainer.table(record).row_count == 3


def test_losses_that_precision_does_not_explain_get_no_time() -> None:
    assert trainer.same_losses({"a": 2.0, "b": 0.0}, {"a": 2.02, "b": 1e-5}) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="differ by 50% between precisions"):
        trainer.same_losses({"a": 2.0}, {"a": 1.0})


def test_the_gate_stops_what_computes_something_else() -> None:
    def detached(layer):
        return lambda x, text: layer(x, text) + 0 * x.detach()[:1].mean() + 1e-2 * x

    with pytest.raises(ValueError, match="off disagrees with the oracle"):
        run.check_correctness(Candidate("off", "word", detached), Setting(words=5))


def test_a_run_leaves_table_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(command, "CANDIDATES", EAGER)
    monkeypatch.setattr(command, "copy_bandwidth", lambda setting: 1e10)
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
    rows = generator.measure_generator(Setting(words=3, rounds=1), 2, 2, lambda s: None)
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
