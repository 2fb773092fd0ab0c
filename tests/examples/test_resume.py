"""A continuation: what may differ from the run it continues, and what of the data and the options may not."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.files import picture
from helpers.layouts import write
from helpers.miniature import shrink
from helpers.training import TINY, run
from PIL import Image
from rich.console import Console

from examples.sdgan import train
from examples.sdgan.config import EncoderOptions
from examples.sdgan.data.cub import cub
from examples.sdgan.models import checkpoint
from examples.sdgan.training.workspace import open_workspace

CUB = ["--data", "cub", "--log", "none", "--workers", "0", "--accelerator", "cpu"]
NAMES = [f"00{i % 3}.A/bird {i}" for i in range(9)]


def photographs(root: Path) -> Path:
    write(root, NAMES)
    for i, name in enumerate(NAMES):
        picture(root / "images" / f"{name}.jpg", (20 * i, 90, 30))
    return write(root, ["009.T/t0", "009.T/t1", "008.T/t2"], "test")


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step; its data lies beside it."""
    folder = tmp_path_factory.mktemp("began")
    photographs(folder / "cub")
    arguments = [*TINY, *CUB, "--steps", "1", "--encoder-steps", "1", "--checkpoint-every", "1"]
    assert train.main([*arguments, "--root", str(folder / "cub"), "--out", str(folder / "out")]) == 0
    return folder


def go_on(began: Path, folder: Path, *arguments: str, change: Callable[[Path], Any] = lambda root: None) -> int:
    """Copy run and data elsewhere, change the data, and take one more step."""
    shutil.copytree(began / "out", folder / "out")
    shutil.copytree(began / "cub", folder / "moved")
    change(folder / "moved")
    options = [*TINY, *CUB, "--steps", "2", "--encoder-steps", "1", "--resume", *arguments]
    return train.main([*options, "--root", str(folder / "moved"), "--out", str(folder / "out")])


def reordered(root: Path) -> None:
    (root / "train" / "filenames.txt").write_text("\n".join(NAMES[::-1]))


def pixel(root: Path) -> None:
    """Another image in a file of the same size."""
    path = root / "images" / f"{NAMES[0]}.jpg"
    data = bytearray(path.read_bytes())
    size = len(data)
    Image.new("RGB", (40, 40), (10, 91, 30)).save(path, format="JPEG", quality=95)
    new = path.read_bytes()
    path.write_bytes(new[:size] + b"\0" * (size - len(new)))
    assert path.stat().st_size == size


def without(root: Path) -> None:
    (root / "train" / "filenames.txt").write_text("\n".join(NAMES[:-1]))


def deleted(root: Path) -> None:
    for folder, ending in (("images", "jpg"), ("text", "txt")):
        (root / folder / f"{NAMES[4]}.{ending}").unlink()
    (root / "train" / "filenames.txt").write_text("\n".join(NAMES[:4] + NAMES[5:]))


def more(root: Path) -> None:
    write(root, [*NAMES, "000.A/new"])


def text(how: Callable[[str], str]) -> Callable[[Path], Any]:
    def change(root: Path) -> None:
        path = root / "text" / f"{NAMES[2]}.txt"
        path.write_text(how(path.read_text()))

    return change


def boxes(root: Path) -> None:
    (root / "images.txt").write_text("".join(f"{i} {name}.jpg\n" for i, name in enumerate(NAMES)))
    (root / "bounding_boxes.txt").write_text("".join(f"{i} 5 5 20 20\n" for i in range(len(NAMES))))
    (root / "test" / "filenames.txt").unlink()


def test_the_folder_of_the_data_may_have_moved(began: Path, tmp_path: Path, capsys) -> None:
    assert go_on(began, tmp_path) == 0, capsys.readouterr().out
    state = checkpoint.load(tmp_path / "out" / "checkpoint.pt")
    assert state["steps"]["gan"] == 2
    assert json.loads(state["config"])["root"] == str(tmp_path / "moved")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without, "8 images, were 9"),
        (deleted, "8 images, were 9"),
        (more, "10 images, were 9"),
        (reordered, "other captions, classes, files"),
        (pixel, "other files"),
        (text(lambda t: t.replace("red", "blue")), "other captions"),
        (text(lambda t: "\n".join(t.splitlines()[::-1])), "other captions"),
        (text(lambda t: t + "a third one\n"), "other captions"),
        (boxes, "other boxes"),
    ],
)
def test_other_data_is_refused(
    change: Callable[[Path], Any], told: str, began: Path, tmp_path: Path, capsys
) -> None:
    assert go_on(began, tmp_path, change=change) == 2
    output = " ".join(capsys.readouterr().out.split())
    assert f"learnt from other data ({told})" in output
    assert "--root may lie elsewhere, but must hold the same images and captions" in output
    assert checkpoint.load(tmp_path / "out" / "checkpoint.pt")["steps"]["gan"] == 1


def test_other_held_out_data_is_told(began: Path, tmp_path: Path, capsys) -> None:
    def fewer(root: Path) -> None:
        (root / "test" / "filenames.txt").write_text("009.T/t0\n008.T/t2")

    assert go_on(began, tmp_path, change=fewer) == 0
    assert "not the held-out data that the run began with (2 images, were 3)" in capsys.readouterr().out


def test_a_checkpoint_from_before_data_was_compared_goes_on(began: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(began, tmp_path / "before")
    path = tmp_path / "before" / "out" / "checkpoint.pt"
    state = checkpoint.load(path)
    del state["data"], state["held_out"], state["format"]
    checkpoint.save(state, path)
    assert go_on(tmp_path / "before", tmp_path) == 0
    assert "from before data was compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told", "untold"),
    [
        (["--encoder.lr", "0.5"], "(encoder.lr was 0.002, is 0.5)", "embedding_dim"),
        (["--generator.channels", "8", "8", "16"], "generator.channels was [8, 8, 8], is [8, 8, 16]", "residual"),
        (["--siamese.weight", "2", "--seed", "3"], "(seed was 0, is 3; siamese.weight was 1.0, is 2.0)", "margin"),
    ],
)
def test_of_changed_options_only_these_are_told(
    arguments: list[str], told: str, untold: str, began: Path, tmp_path: Path, capsys
) -> None:
    assert go_on(began, tmp_path, *arguments) == 2
    output = " ".join(capsys.readouterr().out.split())
    assert told in output
    assert untold not in output
    assert "root was" not in output


def test_where_inceptions_weights_lay_does_not_matter(began: Path, tmp_path: Path) -> None:
    assert EncoderOptions().inception_weights != "gone.pth"
    assert go_on(began, tmp_path, "--encoder.inception-weights", "gone.pth") == 0


def test_equal_data_has_equal_fingerprints(tmp_path: Path) -> None:
    prints = [
        cub(photographs(tmp_path / name), "train", size).fingerprint() for name, size in (("a", 32), ("b", 64))
    ]
    assert prints[0] == prints[1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["generator", "optimizer_g", "optimizer_d", "average"])
def test_what_only_a_continuation_reads_is_looked_into(
    part: str, value: float, began: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(began, tmp_path / "before")
    path = tmp_path / "before" / "out" / "checkpoint.pt"
    state = checkpoint.load(path)
    name, tensor = [
        (n, t)
        for n, t in checkpoint.tensors_within("gan", state["phases"]["gan"])
        if part in n and t.is_floating_point()
    ][-1]
    tensor.view(-1)[0] = value
    del state["format"]
    checkpoint.save(state, path)
    assert go_on(tmp_path / "before", tmp_path) == 2
    assert f"checkpoint.pt: damaged: {name} is no plain tensor of finite numbers" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_broken_optimizer_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from examples.sdgan.training.gan import GanTraining

    shrink(monkeypatch.setattr)
    original = GanTraining.step

    def breaks(self, step, batch):
        losses = original(self, step, batch)
        if step == 5:
            next(iter(self.optimizer_d.state.values()))["exp_avg_sq"].fill_(torch.inf)
        return losses

    monkeypatch.setattr(GanTraining, "step", breaks)
    assert run(tmp_path, "--log", "none") == 2
    assert "weights are not finite (phases: gan.optimizer_d." in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "checkpoint.pt")["steps"]["gan"] == 3


def test_captions_longer_than_the_encoder_reads_are_told(tmp_path: Path, capsys) -> None:
    root = photographs(tmp_path / "cub")
    for path in (root / "text").glob("00?.A/*.txt"):
        path.write_text("\u8fd9\u53ea\u9e1f" * 9, encoding="utf-8")
    arguments = [*TINY, *CUB, "--steps", "1", "--encoder-steps", "1", "--root", str(root)]
    config = train.parse([*arguments, "--out", str(tmp_path / "out")])
    open_workspace(config, Console(soft_wrap=True))
    assert "100% of the captions are longer than the option encoder.words, 18" in capsys.readouterr().out
