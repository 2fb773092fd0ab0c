"""What is odd about a data set and would train without a word is told, and hints lead to what reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.files import picture, write_coco
from helpers.layouts import NAMES, WORDS, pickled, write
from helpers.miniature import shrink
from helpers.training import TINY

from examples.sdgan import train
from examples.sdgan.data import DataError
from examples.sdgan.data.coco import coco
from examples.sdgan.data.cub import cub


def annotated(root: Path, year: int, folder: str | None, kinds: Sequence[str] = ("train", "val")) -> Path:
    """Captions of a year, and its images in a folder, where there is one."""
    for kind in kinds:
        names = [f"{kind}{year}_{i}.jpg" for i in range(3)]
        content = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
            "annotations": [{"image_id": i, "caption": f"a dog of {year}"} for i in range(3)],
        }
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"captions_{kind}{year}.json").write_text(json.dumps(content))
        for name in names if folder is not None else ():
            picture(root / folder.format(kind=kind, year=year) / name)
    return root


def test_coco_is_not_read_as_cub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations/ holds MS-COCO's captions, so train with --data coco"):
        cub(write_coco(tmp_path), "train", 32)


@pytest.mark.parametrize("folder", ["{kind}{year}", "images/{kind}{year}"])
@pytest.mark.parametrize("kinds", [("train", "val"), ("train",)])
def test_of_two_years_the_one_with_images_is_read(folder: str, kinds: Sequence[str], tmp_path: Path) -> None:
    annotated(tmp_path, 2014, None, kinds)
    annotated(tmp_path, 2017, folder, kinds)
    assert coco(tmp_path, "train", 32).captions == [["a dog of 2017"]] * 3


def test_coco_s_images_may_all_be_in_one_folder(tmp_path: Path) -> None:
    annotated(tmp_path, 2014, "images")
    assert len(coco(tmp_path, "train", 32)) == len(coco(tmp_path, "test", 32)) == 3
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"looked for train2014, images/train2014 and images/ with images in it"):
        coco(tmp_path, "train", 32)


@pytest.mark.parametrize("above", ["", "images/"])
def test_attngan_s_lists_of_coco_find_images_of_2017(above: str, tmp_path: Path) -> None:
    names = [f"{i:012}" for i in range(3)]
    write(tmp_path, names)
    (tmp_path / f"{above}train2017").mkdir()
    for name in names:
        (tmp_path / "images" / f"{name}.jpg").rename(tmp_path / f"{above}train2017" / f"{name}.jpg")
    assert len(coco(tmp_path, "train", 32)) == 3


@pytest.mark.parametrize("filler", ["[PAD]", "[unk]", "#START#", "<s>"])
def test_fillers_of_every_spelling_are_no_words(filler: str, tmp_path: Path) -> None:
    root = pickled(tmp_path, NAMES, [[5, 1, 2, 3]] * 4, {**WORDS, 5: filler})
    assert cub(root, "train", 32, captions_per_image=1).captions == [["a red bird"]] * 4


def captioned(root: Path, *captions: str) -> tuple[str, ...]:
    for path, caption in zip(sorted((write(root, NAMES) / "text").rglob("*.txt")), captions, strict=True):
        path.write_text(caption, encoding="utf-8")
    return cub(root, "train", 32).notes


def test_captions_of_one_word_are_told(tmp_path: Path) -> None:
    *_, note = sorted(
        captioned(tmp_path / "a", "redbird", "bluebird", "bird!", "a bird"), key=lambda n: "one word" in n
    )
    assert "CUB (train): 3 of 4 captions are one word, such as 'redbird'" in note
    assert not any("one word" in note for note in captioned(tmp_path / "b", "x", "y", "a bird", "a bird"))


def test_letters_that_could_not_be_read_are_told(tmp_path: Path) -> None:
    notes = captioned(tmp_path / "a", "a bird\ufffds wing", "a bird", "a bird", "a bird")
    assert any("1 of 4 captions hold U+FFFD" in note and "wing" in note for note in notes)
    assert not any("U+FFFD" in note for note in captioned(tmp_path / "b", *["a b\u00efrd"] * 4))


def test_a_class_may_be_called_images(tmp_path: Path) -> None:
    names = ("images/a1", "images/a2", "002.B/b1", "002.B/b2")
    write(tmp_path, names)
    (tmp_path / "images.txt").write_text("".join(f"{i} {name}.jpg\n" for i, name in enumerate(names)))
    (tmp_path / "bounding_boxes.txt").write_text("".join(f"{i} 0 0 30 30\n" for i in range(4)))
    assert len(cub(tmp_path, "train", 32)) == 4


@pytest.mark.parametrize("listed", [True, False])
def test_two_names_of_one_file_are_refused(listed: bool, tmp_path: Path) -> None:
    write(tmp_path, NAMES)
    link = tmp_path / "images" / f"{NAMES[3]}.jpg"
    link.unlink()
    link.symlink_to(tmp_path / "images" / f"{NAMES[0]}.jpg")
    if not listed:
        (tmp_path / "train" / "filenames.txt").unlink()
    with pytest.raises(DataError, match=rf"'{NAMES[0]}' and '{NAMES[3]}' link to one file"):
        cub(tmp_path, "train", 32)


@pytest.mark.parametrize("above", ["", "CUB_200_2011"])
def test_a_split_that_is_not_read_is_told(above: str, tmp_path: Path) -> None:
    write(tmp_path, NAMES)
    (tmp_path / "train" / "filenames.txt").unlink()
    if above:
        (tmp_path / above).mkdir()
        (tmp_path / "images").rename(tmp_path / above / "images")
    (tmp_path / above / "train_test_split.txt").write_text("1 1\n2 0\n")
    notes = cub(tmp_path, "train", 32).notes
    assert any("train_test_split.txt: not read, every image is a training image" in note for note in notes)


def test_names_of_folders_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        out = tmp_path / "[red]run[blue]"
        assert train.main([*TINY, "--out", str(out), "--steps", "1", "--encoder-steps", "1", "--log", "none"]) == 0
    assert str(out) in capsys.readouterr().out
