"""Where curves and pictures go."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from examples.sdgan.presets import preset
from examples.sdgan.training.logger import NoLogger, TensorBoardLogger, open_logger

CONFIG = preset("toy")


class FakeWandb:
    def __init__(self) -> None:
        self.said: list = []

    def init(self, **options):
        self.said.append(("init", options["project"], options["config"]["data"]))
        return SimpleNamespace(log=lambda d: self.said.append(d), finish=lambda: self.said.append("finish"))

    def Image(self, path: str) -> str:
        return f"image of {Path(path).name}"


STEPS = {"encoders": 0, "gan": 0}


def options(tmp_path: Path, log: str):
    import dataclasses

    return dataclasses.replace(CONFIG, out=tmp_path, log=log)


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = open_logger(options(tmp_path, "wandb"), STEPS, True)
    logger.scalars("gan", 10, {"damsm": 2.0})
    logger.picture("gan", 10, tmp_path / "samples.png")
    logger.close()
    assert fake.said == [
        ("init", "scbn", "toy"),
        {"gan/damsm": 2.0, "gan/step": 10},
        {"gan/samples": "image of samples.png", "gan/step": 10},
        "finish",
    ]


def test_wandb_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        open_logger(options(tmp_path, "wandb"), STEPS, True)


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    for logger in (
        open_logger(options(tmp_path, "tensorboard"), STEPS, False),
        open_logger(options(tmp_path, "none"), STEPS, True),
    ):
        assert isinstance(logger, NoLogger)
        logger.scalars("gan", 0, {"x": 1.0})
        logger.picture("gan", 0, tmp_path / "no.png")
        logger.close()
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_replaces_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardLogger(options(tmp_path, "tensorboard"), STEPS)
    for step in (0, 10, 20, 30):
        first.scalars("encoders", step, {"x": 1.0})
    for step in (0, 10, 20):
        first.scalars("gan", step, {"x": 1.0})
    first.close()
    second = TensorBoardLogger(options(tmp_path, "tensorboard"), {"encoders": 31, "gan": 10})
    second.scalars("gan", 10, {"x": 2.0})
    Image.new("RGB", (8, 6), "red").save(tmp_path / "samples.png")
    second.picture("gan", 10, tmp_path / "samples.png")
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "encoders"), {"scalars": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("encoders/x")] == [0, 10, 20, 30]
    events = EventAccumulator(str(tmp_path / "tensorboard" / "gan"), {"scalars": 0, "images": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("gan/x")] == [(0, 1.0), (10, 2.0)]
    assert [(i.width, i.height) for i in events.Images("gan/samples")] == [(8, 6)]
