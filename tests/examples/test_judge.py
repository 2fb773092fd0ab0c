"""Models measured by matching networks of other runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from helpers import trained
from helpers.miniature import shrink

from examples.sdgan import judge
from examples.sdgan.data import open_data
from examples.sdgan.inference.export import load_image_encoder, load_sampler
from examples.sdgan.metrics.r_precision import r_precision

COUNT = 20


@pytest.fixture(autouse=True)
def _few_birds(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [trained.model(root / norm, trained.small(norm=norm)) for norm in ("both", "batch")]


def _run(models: list[Path], judges: list[Path], *more: str) -> int:
    names = [[str(path) for path in paths] for paths in (models, judges)]
    return judge.main(["--models", *names[0], "--judges", *names[1], "--images", str(COUNT), *more])


def test_every_model_by_every_judge(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "judged.jsonl"
    for _ in range(2):
        assert _run(models, models, "--out", str(out)) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert records[:6] == records[6:]
    assert [r["model"] for r in records[:3]] == [judge.REAL, *map(str, models)]
    # By its own encoders, it is what the trainer measures.
    sampler, encoder = load_sampler(models[0]), load_image_encoder(models[0])
    _, test = open_data(sampler.config)
    assert records[1]["r_precision"] == r_precision(sampler, encoder, test, 0, COUNT)


def test_the_judge_reads_the_captions_and_the_model_draws(models: list[Path]) -> None:
    first, second = map(load_sampler, models)
    _, test = open_data(first.config)
    captions, noise = [test.captions[i][0] for i in test.spread(4)], torch.randn(4, 6)
    judged = judge.Judged(first, second)
    assert torch.equal(judged.images(captions, noise), second.images(captions, noise))
    ours, theirs = judged.encode(captions).sentence, first.encode(captions).sentence
    assert ours is not None and theirs is not None and torch.equal(ours, theirs)
    real = judge.Judged(first, test, test.spread(4)).images(captions, noise)
    want = test.images.load(test.spread(4), first.config.size, None).float() / 127.5 - 1
    assert torch.equal(real, want)


def test_what_cannot_be_compared(models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = trained.small()
    generator = dataclasses.replace(config.generator, channels=(4, 4, 4))
    larger = trained.model(tmp_path / "larger", dataclasses.replace(config, size=32, generator=generator))
    assert _run([larger], models[:1]) == 2
    assert "of toy at 32 px, but the first judge is of toy at 16 px" in " ".join(capsys.readouterr().out.split())
    assert _run([tmp_path / "none"], models[:1]) == 2
    assert _run([], models[:1]) == 2 and _run(models[:1], []) == 2
    assert "need at least one checkpoint each" in capsys.readouterr().out
    assert _run(models[:1], models[:1], "--out", str(tmp_path / "new" / "judged.jsonl")) == 0
    assert len((tmp_path / "new" / "judged.jsonl").read_text().splitlines()) == 2
    assert judge.main(["--models", str(models[0]), "--judges", str(models[0]), "--images", "1"]) == 2
