"""Data sets as people have them: layouts, lists and names that vary are read, and what cannot be right is refused."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.files import picture
from helpers.layouts import NAMES, WORDS, numbered, pickled, write
from PIL import Image

from examples.sdgan.config import EncoderOptions
from examples.sdgan.data import DataError, open_data
from examples.sdgan.data.classes import classes_of
from examples.sdgan.data.coco import coco
from examples.sdgan.data.cub import cub
from examples.sdgan.presets import preset

# Classes


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["birds/0", "birds/1", "birds/2"], r"all 3 images are in one folder \(birds\)"),
        (["all/birds/0", "all/birds/1"], r"all 2 images are in one folder \(all/birds\)"),
        (["0", "1", "2"], "3 of 3 images lie in no folder"),
        (["A/0", "A/1", "B/2", "3"], "1 of 4 images lie in no folder"),
        (["A/0", "A/B/1", "A/C/2"], "1 of 3 images lie in no folder"),
        (["train/0", "val/1"], "2 of 2 images lie in no folder"),
        (["0/0", "1/1", "2/2"], "each of the 3 images has a folder of its own"),
        ([*(f"A/{i}" for i in range(40)), "B/0"], r"40 of 41 images are in one folder \(A\)"),
    ],
)
def test_folders_that_are_no_classes(names: list[str], why: str, tmp_path: Path) -> None:
    data = cub(write(tmp_path, names), "train", 32)
    assert data.classes is None
    (note,) = data.notes
    assert note.startswith("CUB (train): no classes: ")
    with pytest.raises(AssertionError, match=why):  # the same words, as a pattern
        raise AssertionError(note)
    (tmp_path / "train" / "filenames.txt").unlink()
    assert cub(tmp_path, "train", 32).classes is None


def test_folders_that_are_classes() -> None:
    for above in ("", "birds/", "data/birds/"):
        classes, why = classes_of([above + name for name in NAMES])
        assert classes is not None
        assert classes.tolist() == [0, 0, 1, 1]
        assert not why


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["gulls/A/0", "gulls/A/1", "gulls/B/2", "terns/A/3", "terns/A/4"], [0, 0, 1, 2, 2]),
        (["train/A/0", "val/A/1", "train/B/2", "test/B/3"], [0, 0, 1, 1]),
        (["birds/train/A/0", "birds/val/A/1", "birds/train/B/2"], [0, 0, 1]),
    ],
)
def test_a_class_is_the_folder_that_the_image_lies_in(names: list[str], expected: list[int]) -> None:
    classes, why = classes_of(names)
    assert classes is not None, why
    assert classes.tolist() == expected


def test_how_many_classes_there_are_is_told(tmp_path: Path) -> None:
    assert cub(write(tmp_path, NAMES), "train", 32).notes == (
        "CUB (train): 2 classes, which are the folders of the images",
    )


@pytest.mark.parametrize(
    ("names", "labelled"),
    [
        (NAMES, True),
        (["A/0", "A/1", "B/2", "C/3", "D/4"], False),  # nearly each its own
        (["birds/0", "birds/1", "birds/2", "birds/3"], False),
    ],
)
def test_the_image_encoder_learns_classes_only_where_they_tell_something(
    names: Sequence[str], labelled: bool, tmp_path: Path
) -> None:
    from lightning.fabric import Fabric

    from examples.sdgan.models.encoders import SmallImageEncoder, TextEncoder
    from examples.sdgan.training.encoders import EncoderTraining

    config = dataclasses.replace(preset("cub"), encoder=EncoderOptions(embedding_dim=4, dim=8), encoder_steps=10)
    data = cub(write(tmp_path, names), "train", 32)
    fabric = Fabric(accelerator="cpu", devices=1)
    training = EncoderTraining(fabric, config, TextEncoder(9, config.encoder), SmallImageEncoder(8), data)
    assert bool(training.label_steps) == labelled


# Captions by their order


def test_captions_of_a_part_of_the_names_are_not_guessed(tmp_path: Path) -> None:
    root = pickled(tmp_path, NAMES[:2], numbered(4, 2), WORDS)
    with pytest.raises(
        DataError,
        match=r"8 train captions are not 10 for each of 2 images.*the trainer's option captions-per-image",
    ):
        cub(root, "train", 32)
    data = cub(pickled(root, NAMES, numbered(4, 2), WORDS), "train", 32, captions_per_image=2)
    assert data.captions == [[f"a word{i} bird"] * 2 for i in range(4)]
    assert data.notes[0] == f"{root / 'captions.pickle'}: 2 captions for each of 4 train images"


@pytest.mark.parametrize(("names", "total"), [(2, 100), (4, 20), (3, 10), (4, 39), (1, 50), (4, 0)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_other_numbers_of_captions_are_refused(names: int, total: int, split: str, tmp_path: Path) -> None:
    root = pickled(
        tmp_path, NAMES[:names], numbered(total, 1), {**WORDS, **dict.fromkeys(range(100, 200), "x")}, split
    )
    with pytest.raises(DataError, match=r"captions.pickle: \d+ \w+ captions (are not|do not divide evenly)"):
        cub(root, split, 32)


def test_ten_captions_an_image_of_cub_and_five_of_coco(tmp_path: Path) -> None:
    config = dataclasses.replace(
        preset("cub"), root=pickled(tmp_path / "a", NAMES, numbered(4, 10), WORDS), size=32
    )
    assert [len(c) for c in open_data(config)[0].captions] == [10] * 4
    flat = [Path(name).name for name in NAMES]
    pickled(tmp_path / "b", flat, numbered(4, 5), WORDS)
    assert [len(c) for c in coco(tmp_path / "b", "train", 32).captions] == [5] * 4
    pickled(tmp_path / "c", NAMES, numbered(4, 3), WORDS)
    config = dataclasses.replace(config, root=tmp_path / "c", captions_per_image=3)
    assert open_data(config)[0].captions[3] == ["a word3 bird"] * 3


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ([1, 2, 3, 0, 0, 0], "a red bird"),
        ([0, 1, 2, 3, 0], "a red bird"),
        ([1, 3, 0, 2], "a bird red"),
        ([7, 1, 8, 3, 9], "a bird"),
    ],
)
@pytest.mark.parametrize("zero", ["<end>", None, "<pad>"])
def test_what_fills_captions_up_is_no_word(
    caption: list[int], text: str, zero: str | None, tmp_path: Path
) -> None:
    words = {**WORDS, 7: "<start>", 8: "<unk>", 9: "<eos>", 0: zero}
    if zero is None:
        del words[0]
    root = pickled(tmp_path, NAMES, [caption] * 4, words)
    assert cub(root, "train", 32, captions_per_image=1).captions == [[text]] * 4


def test_a_caption_of_nothing_but_padding_is_empty(tmp_path: Path) -> None:
    root = pickled(tmp_path, NAMES, [[1], [2], [0, 0, 0], [3]], WORDS)
    with pytest.raises(DataError, match="train caption 2 is empty"):
        cub(root, "train", 32, captions_per_image=1)


def test_a_hidden_name_takes_its_captions_with_it(tmp_path: Path) -> None:
    root = pickled(tmp_path, ["001.A/._a1", *NAMES], numbered(5, 2), WORDS)
    data = cub(root, "train", 32, captions_per_image=2)
    assert [c[0] for c in data.captions] == [f"a word{i} bird" for i in range(1, 5)]
    assert "left out 1 hidden" in data.notes[0]


def reordered(tmp_path: Path, listed: Sequence[str]) -> Path:
    root = pickled(tmp_path, NAMES, numbered(4, 2), WORDS)
    (root / "train" / "filenames.txt").write_text("\n".join(listed))
    return root


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (2, 0)])
def test_captions_are_in_the_order_of_the_list_they_came_with(order: tuple[int, ...], tmp_path: Path) -> None:
    root = reordered(tmp_path, [f"{NAMES[i]}.jpg" for i in order])
    data = cub(root, "train", 32, captions_per_image=2)
    assert data.captions == [[f"a word{i} bird"] * 2 for i in order]
    assert f"in the order of {root / 'train' / 'filenames.pickle'}" in data.notes[0]
    assert ("of which" in data.notes[0]) == (len(order) < 4)


def test_a_list_with_names_that_have_no_place_in_the_captions_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "002.B" / "b3.jpg")
    root = reordered(tmp_path, [*NAMES[:3], "002.B/b3"])
    with pytest.raises(
        DataError, match=r"train.filenames.txt: names '002.B/b3', which .*filenames.pickle does not"
    ):
        cub(root, "train", 32, captions_per_image=2)


def test_coco_s_captions_are_in_the_order_of_their_list_too(tmp_path: Path) -> None:
    root = flat(tmp_path, False)
    names = [f"COCO_train2014_{i:012}" for i in (4, 1, 0)]
    (root / "train" / "filenames.txt").write_text("\n".join(names))
    assert [c[0] for c in coco(root, "train", 32).captions] == ["a word4 bird", "a word1 bird", "a word0 bird"]


# Bounding boxes


def with_boxes(root: Path, *boxes: str, size: tuple[int, int] = (227, 227), ending: str = ".jpg") -> Path:
    names = [f"00{i % 2}.A/a bird {i}" for i in range(len(boxes))]
    write(root, names)
    for name in names:
        Image.new("RGB", size, (200, 30, 30)).save(root / "images" / f"{name}.jpg")
    (root / "images.txt").write_text("".join(f"{i} {name}{ending}\n" for i, name in enumerate(names, 1)))
    (root / "bounding_boxes.txt").write_text("\n".join(f"{i} {box}" for i, box in enumerate(boxes, 1)))
    return root


@pytest.mark.parametrize(
    "box", ["250 150 200 150", "100 100 200 50", "100 100 50 200", "-30 10 60 60", "10 -30 60 60", "0 0 240 240"]
)
def test_a_box_of_another_size_of_image_is_refused(box: str, tmp_path: Path) -> None:
    root = with_boxes(tmp_path, "0 0 227 227", "10 10 50 50", box)
    with pytest.raises(DataError) as refused:
        cub(root, "train", 32)
    told = str(refused.value)
    assert told.startswith(f"{root / 'bounding_boxes.txt'}: line 3: ")
    assert "a bird 2.jpg: its bounding box" in told
    assert "227 x 227 pixels" in told


@pytest.mark.parametrize("box", ["0 0 227 227", "-1 -1 229 229", "0.4 0.6 227.0 227.5", "200 200 28 28"])
def test_boxes_may_touch_the_border_and_be_rounded(box: str, tmp_path: Path) -> None:
    assert len(cub(with_boxes(tmp_path, box, box), "train", 32)) == 2


def test_boxes_of_smaller_images_are_told(tmp_path: Path) -> None:
    boxes = [f"{i} {i} {227 / 2 - i} {200 / 2 - i}" for i in range(24)]
    *_, note = cub(with_boxes(tmp_path / "a", *boxes), "train", 32).notes
    assert "no bounding box of 24 reaches beyond 50% of its image" in note
    notes = cub(with_boxes(tmp_path / "b", *boxes, "100 100 127 50"), "train", 32).notes
    assert not any("box" in note for note in notes)


def test_boxes_in_fractions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"boxes.txt: all 3 boxes lie within 1, so they are fractions.*multiply"):
        cub(with_boxes(tmp_path, "0.1 0.2 0.5 0.5", "0 0 1 1", "0.5 0.5 0.5 0.25"), "train", 32)


@pytest.mark.parametrize("box", ["10 10 3.9 60", "10 10 60 1"])
def test_boxes_of_no_size_are_refused(box: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"bounding_boxes.txt: line 2: a bounding box of .* needs at least 4 on a side"
    ):
        cub(with_boxes(tmp_path, "0 0 90 90", box), "train", 32)


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("bounding_boxes.txt", "1 5 5 50 50", r"line 4: a box of number 1 again, after line 1"),
        ("images.txt", "1 000.A/other.jpg", r"line 4: names number 1 again, after line 1"),
        ("images.txt", "9 001.A/a bird 1.png", r"line 4: names image '001.A/a bird 1' again, after line 2"),
    ],
)
def test_lists_of_boxes_say_each_thing_once(file: str, line: str, told: str, tmp_path: Path) -> None:
    root = with_boxes(tmp_path, *["0 0 90 90"] * 3)
    text = (root / file).read_text()
    (root / file).write_text(f"{text.rstrip()}\n{line}\n")
    with pytest.raises(DataError, match=rf"{file}: {told}"):
        cub(root, "train", 32)


def test_boxes_of_names_with_spaces_and_other_endings(tmp_path: Path) -> None:
    assert len(cub(with_boxes(tmp_path, "0 0 50 50", "1 1 60 60", ending=".png"), "train", 32)) == 2
    (tmp_path / "images.txt").write_text("1\t000.A/a bird 0.jpg\n2  001.A/a bird 1.jpg\n")
    assert len(cub(tmp_path, "train", 32)) == 2
    (tmp_path / "images.txt").write_text("1 000.A/a bird 0.jpg\n2\n")
    with pytest.raises(DataError, match=r"images.txt: line 2: expected 'number CLASS/NAME.jpg', got '2'"):
        cub(tmp_path, "train", 32)


# COCO in AttnGAN's layout


def flat(root: Path, texts: bool, ending: str = "pickle") -> Path:
    for split, ids in (("train", range(6)), ("test", range(6, 9))):
        names = [f"COCO_{split}2014_{i:012}" for i in ids]
        write(root, names, split)
        if ending == "pickle":
            (root / split / "filenames.txt").unlink()
            (root / split / "filenames.pickle").write_bytes(pickle.dumps(names, 2))
    if not texts:
        for path in (root / "text").iterdir():
            path.unlink()
        (root / "text").rmdir()
        content = [numbered(6, 5), numbered(3, 5), WORDS, {}]
        (root / "captions.pickle").write_bytes(pickle.dumps(content, 2))
    return root


@pytest.mark.parametrize("ending", ["pickle", "txt"])
@pytest.mark.parametrize("texts", [True, False])
def test_coco_in_attngans_layout(texts: bool, ending: str, tmp_path: Path) -> None:
    config = dataclasses.replace(preset("coco"), root=flat(tmp_path, texts, ending), size=32)
    train, test = open_data(config)
    assert (len(train), len(test)) == (6, 3)
    assert train.name.startswith("COCO")
    assert train.classes is None
    assert train.captions[1][0] == (f"a bird called COCO_train2014_{1:012}" if texts else "a word1 bird")
    with pytest.raises(DataError, match=r"MS-COCO's .*so train with --data coco"):
        cub(tmp_path, "train", 32)


def test_coco_in_attngans_layout_with_its_images_in_coco_s_folders(tmp_path: Path) -> None:
    root = flat(tmp_path, True)
    (root / "images" / "train2014").mkdir()
    for path in sorted((root / "images").glob("COCO_train*")):
        path.rename(root / "images" / "train2014" / path.name)
    assert len(coco(root, "train", 32)) == 6


def test_cub_is_not_read_as_coco(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"in folders of classes, as CUB's .*so train with --data cub"):
        coco(write(tmp_path, NAMES), "train", 32)


def test_a_folder_that_is_no_coco_names_both_layouts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no captions_train\*.json; expected that, or AttnGAN's layout"):
        coco(tmp_path, "train", 32)


def test_real_cub_with_its_boxes_and_in_one_folder(real_data: Path, tmp_path: Path) -> None:
    (note,) = cub(real_data / "cub", "test", 32).notes
    assert note.endswith("classes, which are the folders of the images")
    names = (real_data / "cub" / "test" / "filenames.txt").read_text().split("\n")[:20]
    for name in filter(None, names):
        for folder, ending in (("images", "jpg"), ("text", "txt")):
            link = tmp_path / folder / "birds" / f"{Path(name).name}.{ending}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(real_data / "cub" / folder / f"{name}.{ending}")
    data = cub(tmp_path, "train", 32)
    assert len(data) == 20
    assert data.classes is None
