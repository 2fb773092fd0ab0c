"""Too few images to measure on: refused before anything is generated or trained, with the number that is needed."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from helpers.files import picture
from helpers.layouts import WORDS, numbered, pickled, write
from helpers.training import TINY

from examples.attngan import retrofit
from examples.sdgan import ablate, evaluate, train
from examples.sdgan.data.classes import classes_of
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.sample_size import check_enough
from examples.sdgan.models import checkpoint

CUB = ["--data", "cub", "--log", "none", "--workers", "0", "--accelerator", "cpu"]


def photographs(root: Path, held_out: int) -> Path:
    """Held-out images of as many classes as two."""
    write(root, [f"00{i % 3}.A/bird {i}" for i in range(9)])
    names = [f"10{i % 2}.T/t{i}" for i in range(held_out)]
    write(root, names, "test")
    for i, name in enumerate(names):
        picture(root / "images" / f"{name}.jpg", (60 * i % 256, 90, 30))
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    photographs(folder / "cub", 4)
    arguments = [*TINY, *CUB, "--steps", "1", "--encoder-steps", "1"]
    assert train.main([*arguments, "--root", str(folder / "cub"), "--out", str(folder)]) == 0
    return folder


def measured(trained: Path, root: Path, out: Path) -> int:
    options = ["--images", "20", "--inception", "none", "--accelerator", "cpu"]
    return evaluate.main(["--checkpoint", str(trained), "--root", str(root), "--out", str(out), *options])


@pytest.mark.parametrize("held_out", [1, 2, 3])
def test_too_few_held_out_images(held_out: int, trained: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def generated(self, *arguments) -> None:
        raise AssertionError("generated")

    monkeypatch.setattr(Sampler, "images", generated)
    assert measured(trained, photographs(tmp_path / "cub", held_out), tmp_path) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert f"CUB (test): {held_out} images to measure on, needs at least 4" in told


def test_four_are_enough(trained: Path, tmp_path: Path) -> None:
    assert measured(trained, photographs(tmp_path / "cub", 4), tmp_path) == 0
    assert (tmp_path / "evaluation.json").is_file()


def change_captions(root: Path, caption: str, *others: str) -> None:
    for path in (root / "text").glob("10*.T/*.txt"):
        path.write_text("\n".join((caption, *others)))


@pytest.mark.parametrize(
    ("captions", "told"),
    [
        (["a red bird"], "paraphrases need two held-out images with two different captions each, found 0"),
        (["a red bird", "another"], "R-precision needs at least two .*'a red bird' has none among 4 images"),
    ],
)
def test_captions_that_cannot_be_compared(
    captions: list[str], told: str, trained: Path, tmp_path: Path, capsys
) -> None:
    root = photographs(tmp_path / "cub", 4)
    change_captions(root, *captions)
    assert measured(trained, root, tmp_path) == 2
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(" ".join(capsys.readouterr().out.split()))


def test_images_that_are_not_finite_are_no_images(trained: Path, tmp_path: Path, capsys) -> None:
    state = checkpoint.load(trained / "checkpoint.pt")
    name = next(name for name in state["ema"] if name.endswith("running_var"))
    state["ema"][name].fill_(-1.0)
    del state["format"]
    checkpoint.save(state, tmp_path / "checkpoint.pt")
    assert measured(tmp_path / "checkpoint.pt", trained / "cub", tmp_path / "out") == 2
    assert "its generator makes images that are not finite" in " ".join(capsys.readouterr().out.split())


def test_ablation_and_retrofit_ask_before_they_train(tmp_path: Path, capsys, monkeypatch) -> None:
    def trained(self, *arguments) -> None:
        raise AssertionError("trained")

    for command in ("examples.attngan.run", "examples.sdgan.ablate"):
        monkeypatch.setattr(f"{command}.train_encoders", trained)
    root = str(photographs(tmp_path / "cub", 3))
    options = ["--data", "cub", "--root", root, "--steps", "1", "--measure-every", "1", "--encoder-steps", "1"]
    assert ablate.main([*options, "--out", str(tmp_path / "ablation")]) == 2
    assert "3 images to measure on, needs at least 4" in " ".join(capsys.readouterr().out.split())
    change_captions(tmp_path / "cub", "a red bird")
    small = ["--train.size", "64", "--train.generator.channels", "2", "2", "--train.encoder.dim", "8"]
    assert retrofit.main(["--data", "cub", "--root", root, "--out", str(tmp_path / "retrofit"), *small]) == 2
    assert "R-precision needs at least two images" in " ".join(capsys.readouterr().out.split())


def test_a_class_for_all_leaves_r_precision_rivals() -> None:
    from helpers.layouts import described

    data = described(4)
    for names in (["A/0", "A/1", "B/2", "B/3"], ["A/0", "A/1", "A/2", "A/3"]):
        check_enough(dataclasses.replace(data, classes=classes_of(names)[0]), 20)
    one = dataclasses.replace(data, classes=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="another class and another caption"):
        check_enough(one, 20)


def record_of(trained: Path, root: Path, out: Path) -> dict:
    assert measured(trained, root, out) == 0
    return json.loads((out / "evaluation.json").read_text())


def as_held_out(root: Path) -> Path:
    """What was trained on, listed as held out, beside other training images."""
    photographs(root, 4)
    names = (root / "train" / "filenames.txt").read_text()
    (root / "train" / "filenames.txt").write_text((root / "test" / "filenames.txt").read_text())
    (root / "test" / "filenames.txt").write_text(names)
    return root


@pytest.mark.parametrize("model", [False, True])
def test_images_that_the_run_learnt_from_are_not_held_out(
    model: bool, trained: Path, tmp_path: Path, capsys
) -> None:
    source = trained / "model" if model else trained
    assert record_of(source, photographs(tmp_path / "a", 4), tmp_path)["held_out"] is True
    assert "held out" not in capsys.readouterr().out
    assert record_of(source, as_held_out(tmp_path / "b"), tmp_path)["held_out"] is False
    told = " ".join(capsys.readouterr().out.split())
    assert "CUB (test): these are the images that the run learnt from; they are not held out" in told


def test_whether_images_beside_others_are_held_out_is_not_known(trained: Path, tmp_path: Path, capsys) -> None:
    root = photographs(tmp_path / "cub", 4)
    picture(root / "images" / "000.A" / "bird 0.jpg", (9, 9, 200))
    assert record_of(trained, root, tmp_path)["held_out"] is None
    assert "it is not known whether it learnt from these" in " ".join(capsys.readouterr().out.split())


def test_captions_an_image_are_those_of_the_run(tmp_path: Path) -> None:
    names = [f"00{i % 3}.A/bird {i}" for i in range(9)]
    root = pickled(tmp_path / "cub", names, numbered(9, 3), WORDS)
    (root / "test").mkdir()
    held_out = [f"10{i % 2}.T/t{i}" for i in range(4)]
    (root / "test" / "filenames.pickle").write_bytes(pickle.dumps(held_out, 2))
    for i, name in enumerate(held_out):
        picture(root / "images" / f"{name}.jpg", (60 * i, 90, 30))
    texts = [[1, 10 + i, 20 + k] for i in range(4) for k in range(3)]
    (root / "captions.pickle").write_bytes(pickle.dumps([numbered(9, 3), texts, WORDS, {}], 2))
    arguments = [*TINY, *CUB, "--steps", "1", "--encoder-steps", "1", "--captions-per-image", "3"]
    assert train.main([*arguments, "--root", str(root), "--out", str(tmp_path)]) == 0
    assert measured(tmp_path, root, tmp_path / "measured") == 0
