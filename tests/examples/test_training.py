"""The trainer end to end, in miniature: what a run leaves, and that nothing is lost on the way."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers.miniature import shrink
from helpers.training import run, same, weights
from lightning.fabric import Fabric
from PIL import Image
from rich.console import Console

from examples.sdgan import sample
from examples.sdgan.config import from_json
from examples.sdgan.inference.export import load_image_encoder, load_sampler
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.training.callbacks import Callback, call_together
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.logger import NoLogger
from examples.sdgan.training.loop import Loop, NotFinite
from examples.sdgan.training.phase import Batches


@pytest.fixture(autouse=True)
def _few_birds(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


def test_a_run_leaves_what_it_promises(finished: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("samples.png", "attention.png", "losses.png"):
        with Image.open(finished / name) as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50

    def strict(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    metrics = json.loads((finished / "metrics.json").read_text(), parse_constant=strict)
    assert metrics["steps"] == 6
    for name in ("caption_fidelity", "novel_caption_fidelity", "chance"):
        assert metrics[name]["interval_95"][0] <= metrics[name]["value"] <= metrics[name]["interval_95"][1]
        assert metrics[name]["images"] == 30
    assert (
        set(metrics["reader_accuracy"])
        == set(metrics["sentence_probe"])
        == {"size", "crown", "wing", "belly", "beak"}
    )
    assert metrics["losses"]["gan/discriminator"] > 0
    assert not list(finished.glob("*.part"))
    config = from_json(json.dumps(metrics["config"]))
    assert config.generator.channels == (8, 8, 8)


def test_the_exported_model_is_the_averaged_one(finished: Path) -> None:
    sampler = Sampler.load(finished / "checkpoint.pt")
    ema = checkpoint.load(finished / "checkpoint.pt")["phases"]["gan"]["average"]
    assert all(torch.equal(p, ema[f"module.{name}"]) for name, p in sampler.generator.named_parameters())
    for path in (finished, finished / "model"):
        exported = load_sampler(path)
        assert same(exported.generator.state_dict(), sampler.generator.state_dict())
        assert same(exported.text.state_dict(), sampler.text.state_dict())
        assert exported.vocabulary.words == sampler.vocabulary.words
        assert exported.config.to_share() == sampler.config.to_share()
    image = checkpoint.load(finished / "checkpoint.pt")["image"]
    assert same(load_image_encoder(finished).state_dict(), image)
    assert same(load_image_encoder(finished / "checkpoint.pt").state_dict(), image)


def test_the_model_has_a_card_that_the_hub_reads(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="comes with the extra hf")
    card = hub.ModelCard.load(finished / "model" / "README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "text-to-image")
    metrics = json.loads((finished / "metrics.json").read_text())
    told = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert told["caption_fidelity"] == metrics["caption_fidelity"]["value"]
    low, high = metrics["caption_fidelity"]["interval_95"]
    assert f"[{low:.3f}, {high:.3f}]" in card.text
    assert (finished / "model" / "samples.png").is_file()
    code = re.findall(r"```python\n(.*?)```", card.text, re.S)
    monkeypatch.chdir(finished)
    names: dict[str, Any] = {}
    exec(code[0], names)
    assert names["images"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "must hold an object"),
        ("config.json", "{", "missing, or not JSON"),
        ("config.json", '{"nonsense": 1}', "unknown options"),
        ("config.json", "[" * 100000, "not JSON"),
        ("vocabulary.json", "[1]", "vocabulary.json"),
        ("vocabulary.json", '["bird", "bird"]', "vocabulary.json"),
        ("vocabulary.json", '["bird"]', "do not fit its options"),
        ("generator.safetensors", "", "not a safetensors file"),
        ("text_encoder.safetensors", None, "missing, or not a safetensors file"),
    ],
)
def test_a_broken_export_is_refused(
    name: str, content: str | None, message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(finished / "model", tmp_path / "model")
    if content is None:
        (tmp_path / "model" / name).unlink()
    else:
        (tmp_path / "model" / name).write_text(content)
    assert sample.main(["--checkpoint", str(tmp_path), "--caption", "a bird"]) == 2
    output = capsys.readouterr().out
    assert message in output
    assert str(tmp_path / "model") in output


def test_curves_and_pictures_go_to_tensorboard(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = {"images": 0, "scalars": 0}
    encoders, events = (EventAccumulator(str(finished / "tensorboard" / p), kept) for p in ("encoders", "gan"))
    encoders.Reload()
    events.Reload()
    assert "encoders/words" in encoders.Tags()["scalars"]
    assert {"gan/generator", "gan/distance_same", "gan/images_per_second"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("gan/generator")] == [0, 5]
    assert set(events.Tags()["images"]) == {"gan/samples", "gan/attention"}


def test_resuming_gives_bitwise_the_run_that_never_stopped(finished: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "--steps", "3") == 0
    assert not same(weights(tmp_path), weights(finished))
    assert run(tmp_path, "--resume") == 0
    assert same(weights(tmp_path), weights(finished))
    assert (
        json.loads((tmp_path / "metrics.json").read_text())["caption_fidelity"]
        == (json.loads((finished / "metrics.json").read_text())["caption_fidelity"])
    )


@pytest.mark.parametrize("phase", ["encoders", "gan"])
def test_ctrl_c_saves_and_says_so(
    phase: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from examples.sdgan.training.encoders import EncoderTraining

    kind, method = (GanTraining, "_learn_generator") if phase == "gan" else (EncoderTraining, "_match")
    original = getattr(kind, method)
    calls = []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 1:  # in the middle of a step, when half of it has happened
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kind, method, interrupted)
        assert run(tmp_path) == 130
    assert "continue with the same command and --resume" in capsys.readouterr().out
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["steps"] == ({"encoders": 7, "gan": 1} if phase == "gan" else {"encoders": 4})
    assert run(tmp_path, "--resume") == 0
    assert same(weights(tmp_path), weights(finished))


def test_resume_refuses_other_options_and_says_which(finished: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(finished, "--resume", "--seed", "1") == 2
    assert "seed was 0, is 1" in capsys.readouterr().out


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "text":
        path.write_text("hello")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        torch.save({"state_dict": {}}, path)
    elif how == "code":
        torch.save({"format": checkpoint.FORMAT, "x": Path("x")}, path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "no such checkpoint; train first"),
        ("truncated", "broken, or no checkpoint of this trainer"),
        ("text", "broken, or no checkpoint of this trainer"),
        ("empty", "broken, or no checkpoint of this trainer"),
        ("foreign", "no checkpoint of this trainer"),
        ("code", "broken, or no checkpoint of this trainer"),
    ],
)
def test_unusable_checkpoints_are_refused(
    how: str, message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes((finished / "checkpoint.pt").read_bytes())
    damage(path, how)
    assert run(tmp_path, "--resume") == 2
    assert message in capsys.readouterr().out
    assert sample.main(["--checkpoint", str(path), "--caption", "a bird"]) == 2
    assert message in capsys.readouterr().out


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save({"step": 1}, path)

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left on device\); the previous checkpoint is"):
        checkpoint.save({"step": 2}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_loss_that_is_not_finite_stops_with_step_and_losses(tmp_path: Path) -> None:
    def step(number, batch):
        return {"loss": torch.tensor(float("nan") if number >= 16 else 1.0)}

    class Saves(Callback):
        def on_checkpoint(self, trainer, phase):
            saved.append(phase.done)

    saved: list[int] = []
    message = r"gan, step 19: a loss is not finite: \{'loss': nan\}; the last good checkpoint is .*c, of step 15"
    path = tmp_path / "c"
    path.write_text("")
    phase = SimpleNamespace(name="gan", done=0, step=step, batches=Batches(2, 0.0, 0))
    workspace = SimpleNamespace(
        fabric=Fabric(accelerator="cpu", devices=1),
        config=SimpleNamespace(seed=0, checkpoint_every=5),
        console=Console(quiet=True),
        path=path,
        again="--resume",
        loader=lambda phase, start, stop: range(start, stop),
    )
    trainer: Any = SimpleNamespace(workspace=workspace, callbacks=[Saves()], history={}, logger=NoLogger())
    trainer.checkpoint = lambda phase: call_together(trainer, phase)
    with pytest.raises(NotFinite, match=message):
        Loop(trainer, cast(Any, phase), 50).run()
    assert saved == [5, 10, 15]  # what broke was not saved over what is whole


def test_weights_that_are_not_finite_are_not_saved(finished: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    original = GanTraining.step

    def breaks(self, step, batch):
        losses = original(self, step, batch)
        if step == 5:
            with torch.no_grad():
                next(self.average.module.parameters()).fill_(float("nan"))
        return losses

    monkeypatch.setattr(GanTraining, "step", breaks)
    assert run(tmp_path) == 2
    assert "weights are not finite (ema: " in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "checkpoint.pt")["steps"]["gan"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "cub"], "--data cub needs --root"),
        (["--data", "cub", "--root", "nowhere"], "nowhere: no such folder"),
        (["--data", "coco", "--root", "."], "holds no captions_train"),
        (
            ["--encoder.image", "inception", "--encoder.inception-weights", "nothing"],
            "neither a file nor the name",
        ),
    ],
)
def test_bad_data_exits_with_2(arguments: list[str], message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().out


def test_sampling(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = str(finished / "checkpoint.pt")
    out = tmp_path / "birds.png"
    caption = "a small bird with a red crown and blue wings"
    assert sample.main(["--checkpoint", source, "--caption", caption, "--out", str(out), "--count", "3"]) == 0
    assert f"look at {out}" in capsys.readouterr().out
    assert out.exists()
    assert (tmp_path / "birds-attention.png").exists()
    first = out.read_bytes()
    sample.main(["--checkpoint", source, "--caption", caption, "--out", str(out), "--count", "3", "--seed", "1"])
    assert out.read_bytes() != first
    capsys.readouterr()
    assert sample.main(["--checkpoint", source, "--caption", "a zebra bird", "--out", str(out)]) == 0
    assert "never saw, read as “unknown”: zebra" in capsys.readouterr().out
    assert sample.main(["--checkpoint", source, "--caption", "zwei Zebras", "--out", str(out)]) == 2
    assert "knows no word of “zwei Zebras”" in capsys.readouterr().out


def test_sampling_before_the_generator_is_trained(finished: Path, tmp_path: Path) -> None:
    state = checkpoint.load(finished / "checkpoint.pt")
    del state["ema"]
    checkpoint.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(checkpoint.CheckpointError, match="encoders only"):
        Sampler.load(tmp_path / "checkpoint.pt")


def test_folders_that_cannot_be_written_are_named(finished: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file") == 2
    assert "file" in capsys.readouterr().out
    source = str(finished / "checkpoint.pt")
    assert (
        sample.main(["--checkpoint", source, "--caption", "a bird", "--out", str(tmp_path / "no" / "x.png")]) == 2
    )
    assert sample.main(["--checkpoint", source, "--caption", "a bird", "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().out


def test_images_that_are_not_finite_are_no_picture(finished: Path, tmp_path: Path, capsys) -> None:
    state = checkpoint.load(finished / "checkpoint.pt")
    del state["format"]
    for name, value in state["ema"].items():
        if name.endswith("running_var"):
            value.fill_(-1.0)
    checkpoint.save(state, tmp_path / "checkpoint.pt")
    assert sample.main(["--checkpoint", str(tmp_path / "checkpoint.pt"), "--caption", "a red bird"]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "checkpoint.pt: its generator makes images that are not finite" in told
    assert not (tmp_path / "sample.png").exists()
