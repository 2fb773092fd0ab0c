"""A retrofit run from end to end: resumed, compared with its control, and used by every command that takes a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.miniature import shrink
from helpers.retrofits import TINY
from helpers.training import same, weights
from rich.console import Console

import scbn
from examples.attngan import retrofit
from examples.attngan.adapter import Adapter
from examples.attngan.generator import Generator
from examples.attngan.run import CONTROL, FINE_TUNING, FineTuning
from examples.sdgan import evaluate, sample, train
from examples.sdgan.config import from_json
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.training.callbacks import SaveCheckpoint
from examples.sdgan.training.workspace import open_workspace

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STEPS = [*TINY, "--before-steps", "2", "--steps", "3", "--control", "--train.checkpoint-every", "2"]
# A text encoder that were still training would say something else of a caption each time.
STEPS += ["--train.encoder.dropout", "0.5"]


@pytest.fixture(autouse=True)
def _few_birds(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("retrofit")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        assert retrofit.main([*STEPS, "--out", str(out)]) == 0
    return out


def test_what_a_run_leaves(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["largest_change_at_step_0"] < 1e-4
    for name in ("before", "control", "retrofit"):
        assert {"r_precision", "caption_fidelity"} <= metrics[name].keys()
    assert metrics["learning_rates"] == {"pretrained": 5e-4 / 4, "new": 5e-4}
    for name in ("retrofit.png", "samples.png", "losses.png"):
        assert (finished / name).stat().st_size > 5_000
    state = checkpoint.load(finished / "checkpoint.pt")
    assert state["steps"] == {"encoders": 2, "attngan": 2, CONTROL: 3, FINE_TUNING: 3}
    assert "host.h_net2.upsample.2.to_gamma.weight" in state["ema"]
    groups = state["phases"][FINE_TUNING]["optimizer_g"]["param_groups"]
    assert [group["lr"] for group in groups] == [5e-4 / 4, 5e-4]


def test_commands_that_take_a_run_take_it(finished: Path, tmp_path: Path) -> None:
    for given in (finished, finished / "checkpoint.pt", finished / "model"):
        picture = str(tmp_path / "sample.png")
        arguments = ["--checkpoint", str(given), "--caption", "a red bird", "--count", "1", "--out", picture]
        assert sample.main(arguments) == 0
        out = ["--out", str(tmp_path / given.name), "--accelerator", "cpu"]
        assert evaluate.main(["--checkpoint", str(given), "--images", "20", *out]) == 0
    record = json.loads((tmp_path / "model" / "evaluation.json").read_text())
    assert {"r_precision", "caption_fidelity"} <= record["measures"].keys()


def test_their_own_script_gets_the_generator_back(finished: Path) -> None:
    mine = Generator(2, 8, 8, 32, 32, residual_blocks=1, stages=2, base_size=16)
    state = torch.load(finished / "netG_scbn.pth", weights_only=True)
    report = scbn.load_retrofitted(mine, state)
    assert [norm.cue for norm in report.replaced] == ["sentence", "sentence", "word"]
    sampler = load_sampler(finished)
    captions, noise = ["a red bird with a blue wing", "a bird"], fixed_noise(2, 32)
    text = sampler.encode(captions)
    images = Adapter(mine, 32).eval()(noise, text).images[-1]
    torch.testing.assert_close(images, sampler.images(captions, noise), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("phase", ["encoders", "attngan", CONTROL, FINE_TUNING])
def test_a_resumed_retrofit_is_the_one_that_never_stopped(
    phase: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = [*STEPS, "--out", str(tmp_path)]
    original = SaveCheckpoint.on_checkpoint

    def stops(self: SaveCheckpoint, trainer: Any, of: Any) -> None:
        original(self, trainer, of)
        if of.name == phase and of.done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SaveCheckpoint, "on_checkpoint", stops)
        assert retrofit.main(arguments) == 130
    assert checkpoint.load(tmp_path / "checkpoint.pt")["steps"][phase] == 2
    if phase != "encoders":  # a generator of whatever phase can be looked at
        assert sample.main(["--checkpoint", str(tmp_path / "checkpoint.pt"), "--caption", "a bird"]) == 0
    assert retrofit.main(arguments) == 2 and "holds a run" in capsys.readouterr().out
    assert retrofit.main([*arguments, "--train.resume"]) == 0
    assert same(weights(tmp_path), weights(finished))
    measured = [json.loads((out / "metrics.json").read_text()) for out in (tmp_path, finished)]
    for name in ("before", "control", "retrofit", "largest_change_at_step_0"):
        assert measured[0][name] == measured[1][name]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--fix-mask"], "generator.fix_mask was False, is True"),
        (["--pretrained-lr", "1e-3"], "--pretrained-lr was 0.000125, is 0.001"),
        (["--warm-up", "0"], "--warm-up was 1, is 0; repeat the command that began the run"),
        (["--before-steps", "3"], "--before-steps was 2, is 3"),
        (["--steps", "4"], "--steps was 3 for the control, which has ended; is 4"),
    ],
)
def test_a_retrofit_is_resumed_with_its_own_options(
    changed: list[str], told: str, finished: Path, capsys: pytest.CaptureFixture
) -> None:
    assert retrofit.main([*STEPS, "--train.resume", "--out", str(finished), *changed]) == 2
    assert told in capsys.readouterr().out


def test_a_retrofit_is_resumed_by_its_own_command(finished: Path) -> None:
    config = from_json(checkpoint.load(finished / "checkpoint.pt")["config"])
    with pytest.raises(checkpoint.CheckpointError, match="of another command, with a phase 'attngan'"):
        open_workspace(dataclasses.replace(config, resume=True), Console(quiet=True))


def test_the_average_goes_on_from_the_weights_that_came(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    original = FineTuning.step

    def watched(self: FineTuning, step: int, batch: Any) -> Any:
        name, before = "host.img_net1.img.0.weight", self.average.module.state_dict()
        start = before[name].clone()
        losses = original(self, step, batch)
        found.append((start, self.generator.state_dict()[name].clone(), before[name].clone()))
        return losses

    monkeypatch.setattr(FineTuning, "step", watched)
    arguments = [*TINY, "--warm-up", "0", "--steps", "1", "--out", str(tmp_path)]
    assert retrofit.main([*arguments, "--train.generator.ema", "0.9"]) == 0
    start, new, average = found[0]
    assert not torch.equal(start, new)
    torch.testing.assert_close(average, start.lerp(new, 0.1))


@pytest.mark.parametrize("norm", ["batch", "sentence", "word", "both"])
def test_the_trainer_itself_takes_an_attngan(norm: str, tmp_path: Path) -> None:
    tiny = [argument.replace("--train.", "--") for argument in TINY[6:]]
    arguments = ["--generator.architecture", "attngan", "--generator.norm", norm, "--steps", "1"]
    assert train.main(["--data", "toy", *tiny, *arguments, "--out", str(tmp_path)]) == 0
    cues = {norm.cue for norm in scbn.norm_layers(load_sampler(tmp_path).generator) if norm.cue}
    assert cues == {"batch": set(), "both": {"sentence", "word"}}.get(norm, {norm})
