"""Options, presets and pictures: what needs no training."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest
import torch

from examples.sdgan import train
from examples.sdgan.config import Config, from_json
from examples.sdgan.plots import samples
from examples.sdgan.presets import preset


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "48"], "power of two"),
        (["--batch-size", "1"], "at least 2"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--encoder-steps", "-1"], "--encoder-steps must not be negative"),
        (["--data", "birds"], "invalid choice"),
        (["--stepz", "3"], "--stepz"),
        (["--encoder.words", "0"], "--encoder.words must be at least 1"),
        (["--encoder.dim", "7"], "must be even"),
        (["--encoder.batch-size", "1"], "--encoder.batch-size must be at least 2"),
        (["--discriminator.channels", "0"], "--discriminator.channels must be at least 1"),
        (["--generator.channels", "8", "0"], "--generator.channels must be at least 1"),
        (["--siamese.alpha", "3"], "--siamese.alpha must be between 0 and"),
        (["--seed", "-1"], "--seed must be between"),
        (["--encoder.label-share", "1"], "--encoder.label-share must be in"),
    ],
)
def test_bad_options_exit_with_2(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main([*arguments, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_presets_are_the_papers() -> None:
    bird, coco = preset("cub"), preset("coco")
    assert (bird.batch_size, coco.batch_size) == (20, 14)
    assert (bird.damsm_weight, coco.damsm_weight) == (5.0, 50.0)
    assert (bird.encoder.words, coco.encoder.words) == (18, 12)
    assert (bird.generator.channels, coco.generator.channels) == ((32,) * 3, (48,) * 3)
    assert (bird.generator.residual_blocks, coco.generator.residual_blocks) == (2, 3)
    assert (bird.discriminator.channels, coco.discriminator.channels) == (64, 96)
    for config in (bird, coco):
        assert config.sizes == [64, 128, 256]
        assert config.generator.lr == config.discriminator.lr == 2e-4
        assert config.generator.betas == (0.5, 0.999)
        assert config.generator.ema == 0.999
        assert (config.encoder.gamma1, config.encoder.gamma2, config.encoder.gamma3) == (4, 5, 10)
        assert (config.siamese.margin, config.siamese.alpha) == (1.0, 0.1)
    assert from_json(coco.to_json()) == coco


def test_flags_that_scripts_rely_on() -> None:
    config = train.parse(
        [
            "--data",
            "coco",
            "--root",
            "d",
            "--steps",
            "5",
            "--encoder-steps",
            "6",
            "--batch-size",
            "7",
            "--size",
            "128",
            "--seed",
            "8",
            "--out",
            "o",
            "--resume",
            "--checkpoint-every",
            "9",
        ]
    )
    assert isinstance(config, Config)
    got = (
        config.data,
        config.root,
        config.steps,
        config.encoder_steps,
        config.batch_size,
        config.size,
        config.seed,
    )
    assert got == ("coco", Path("d"), 5, 6, 7, 128, 8)
    assert (config.out, config.resume, config.checkpoint_every) == (Path("o"), True, 9)
    assert config.damsm_weight == 50  # the preset of --data coco
    assert train.parse(["--data=cub"]).damsm_weight == 5


def test_captions_are_drawn_as_they_are(tmp_path: Path) -> None:
    captions = ["for $5 and $6", r"a $\frac{ $ bird", "a \ud800 bird", "ein Vogel, \u9ce5"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fonts without these letters
        samples.sample_grid(torch.zeros(4, 3, 8, 8), captions, tmp_path / "grid.png")
        words = [caption.split() for caption in captions]
        samples.attention_sheet(torch.zeros(4, 3, 8, 8), torch.rand(4, 5, 4, 4), words, tmp_path / "sheet.png")
    assert (tmp_path / "grid.png").exists()
    assert (tmp_path / "sheet.png").exists()


DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMANDS = [
    (page.name, command)
    for page in sorted(DOCS.glob("*.md"))
    for command in re.findall(
        r"-m examples.sdgan.train((?: [^\n#`]*)?)", page.read_text(encoding="utf-8").replace("\\\n", " ")
    )
]


@pytest.mark.parametrize(("page", "arguments"), COMMANDS)
def test_documented_commands_parse_and_share_out_evenly(page: str, arguments: str) -> None:
    config = train.parse(shlex.split(arguments))
    processes = config.devices * config.nodes
    assert config.batch_size % (config.accumulate * processes) == 0
    assert config.encoder.batch_size // 2 % processes == 0


def test_documented_commands_are_found() -> None:
    assert len(COMMANDS) > 8
    assert any("--nodes 2" in arguments for _, arguments in COMMANDS)
