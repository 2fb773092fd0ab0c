"""Anybody's images: every layout that people have, what is held out, and what is wrong said by file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.captioned import COLOURS, as_csv, as_jsonl, as_parquet, both, images
from helpers.files import picture

from examples.sdgan import sample, train
from examples.sdgan.config import Config
from examples.sdgan.data import DataError, SiamesePairs, open_data
from examples.sdgan.data.folder import folder
from examples.sdgan.data.vocabulary import Vocabulary
from examples.sdgan.presets import preset

WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "csv": as_csv,
    "jsonl": as_jsonl,
    "parquet": as_parquet,
}


@pytest.mark.parametrize("column", ["text", "caption", "captions"])
@pytest.mark.parametrize("kind", WRITERS)
def test_tables_of_every_kind(kind: str, column: str, tmp_path: Path) -> None:
    made = images(tmp_path)
    WRITERS[kind](tmp_path / f"metadata.{kind}", [{"file_name": name, column: text} for name, text in made])
    learnt, held_out = both(tmp_path)
    assert len(learnt) + len(held_out) == 20 and len(held_out) >= 1
    assert sorted(c for data in (learnt, held_out) for cs in data.captions for c in cs) == sorted(
        t for _, t in made
    )
    assert any(f"{len(held_out)} of 20 images are held out, by a hash" in note for note in learnt.notes)
    first = learnt.images.load([0], 32, None)[0].float().mean((1, 2))
    assert (first - torch.tensor(COLOURS[learnt.captions[0][0].split()[1]])).abs().max() < 10  # its own caption


def test_several_captions_as_rows_or_as_lists(tmp_path: Path) -> None:
    made = images(tmp_path, 4)
    rows = [{"file_name": name, "text": f"{text}, {k}"} for name, text in made for k in "ab"]
    as_csv(tmp_path / "metadata.csv", rows)
    one = both(tmp_path)
    (tmp_path / "metadata.csv").unlink()
    as_jsonl(tmp_path / "metadata.jsonl", [{"file_name": n, "captions": [f"{t}, a", f"{t}, b"]} for n, t in made])
    two = both(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    lists = [{"file_name": n, "captions": json.dumps([f"{t}, a", f"{t}, b"])} for n, t in made]
    as_csv(tmp_path / "metadata.csv", lists)
    for other in (two, both(tmp_path)):
        assert [data.captions for data in one] == [data.captions for data in other]
    assert all(len(captions) == 2 for captions in one[0].captions)


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "cp1252")])
def test_tables_as_spreadsheets_write_them(delimiter: str, encoding: str, tmp_path: Path) -> None:
    made = images(tmp_path, 3)
    rows = [
        {"file_name": name, "text": f"une chose dorée, {i}\nsur deux lignes"} for i, (name, _) in enumerate(made)
    ]
    as_csv(tmp_path / "metadata.csv", rows, delimiter=delimiter, encoding=encoding)
    learnt, _ = both(tmp_path)
    assert learnt.captions[0][0].startswith("une chose dorée, ") and learnt.captions[0][0].endswith(
        "sur deux lignes"
    )


def test_a_text_file_beside_each_image(tmp_path: Path) -> None:
    for name, text in images(tmp_path, 12, "holiday/"):
        (tmp_path / name).with_suffix(".txt").write_text(f"{text}\n\nanother line\n", encoding="utf-8")
    picture(tmp_path / "silent.jpg", (1, 2, 3))
    learnt, held_out = both(tmp_path)
    assert len(learnt) + len(held_out) == 12
    assert learnt.captions[0][1] == "another line"
    assert any(
        "left out 1 of 13 images without a caption in a text file beside them" in note for note in learnt.notes
    )


@pytest.mark.parametrize("how", ["column", "folders of tables", "folders", "val"])
def test_given_splits(how: str, tmp_path: Path) -> None:
    if how == "column":
        made = images(tmp_path, 6)
        rows = [
            {"file_name": n, "text": t, "split": "Train" if i < 4 else "validation"}
            for i, (n, t) in enumerate(made)
        ]
        as_csv(tmp_path / "metadata.csv", rows)
    elif how == "folders of tables":
        for place, count in (("train", 4), ("test", 2)):
            made = images(tmp_path / place, count)
            as_jsonl(tmp_path / place / "metadata.jsonl", [{"file_name": n, "text": t} for n, t in made])
    else:
        for place, count in (("train/", 4), ("test/", 2), *((("val/", 3),) if how == "val" else ())):
            for name, text in images(tmp_path, count, place):
                (tmp_path / name).with_suffix(".txt").write_text(text)
    learnt, held_out = both(tmp_path)
    assert (len(learnt), len(held_out)) == (4, 2)
    assert any("3 images of the validation split are not used" in note for note in learnt.notes) == (how == "val")


def test_who_is_held_out_stays_held_out_when_images_come(tmp_path: Path) -> None:
    for name, text in images(tmp_path, 40):
        (tmp_path / name).with_suffix(".txt").write_text(text)
    before = {path.name for path in folder(tmp_path, "test", 32).images.paths}
    for name, text in images(tmp_path, 30, "more/"):
        (tmp_path / name).with_suffix(".txt").write_text(text)
    after = {path.name for path in folder(tmp_path, "test", 32).images.paths if path.parent == tmp_path}
    assert before == after


@pytest.mark.parametrize("classes", ["none", "label", "folders"])
def test_classes_on_request(classes: Any, tmp_path: Path) -> None:
    made = [*images(tmp_path, 6, "cats/"), *images(tmp_path, 6, "dogs/")]
    as_csv(
        tmp_path / "metadata.csv",
        [{"file_name": n, "text": t, "label": t.split()[1], "split": "train"} for n, t in made],
    )
    learnt = folder(tmp_path, "train", 32, classes=classes)
    found = None if learnt.classes is None else len(set(learnt.classes.tolist()))
    assert found == {"none": None, "label": 4, "folders": 2}[classes]


def broken(root: Path, how: str) -> None:
    made = images(root, 4)
    rows: list[dict[str, Any]] = [{"file_name": name, "text": text} for name, text in made]
    lines = [json.dumps(row) for row in rows]
    if how == "no caption at all":
        return
    if how == "two tables":
        as_csv(root / "metadata.csv", rows)
    if how == "image missing":
        rows.append({"file_name": "gone.png", "text": "a thing"})
    if how == "outside":
        rows.append({"file_name": "../secret.png", "text": "a thing"})
    if how == "another ending":
        rows[2]["file_name"] = "photo 02.jpg"
    if how == "another kind":
        (root / "notes.heic").write_bytes(b"heic")
        rows.append({"file_name": "notes.heic", "text": "a thing"})
    if how == "too few":
        rows = rows[:2]
    if how == "two captions columns":
        (root / "metadata.csv").write_text("file_name,text,text\nphoto 00.png,a,b\n")
        return
    if how == "no file_name":
        rows = [{"image": row["file_name"], "text": row["text"]} for row in rows]
    if how == "no captions":
        rows = [{"file_name": row["file_name"], "prompt": row["text"]} for row in rows]
    if how == "captions twice":
        rows = [{**row, "caption": "b"} for row in rows]
    if how == "a number":
        rows[1]["text"] = 7
    if how == "another split":
        rows[3]["split"] = "holdout"
    if how == "two splits":
        rows = [{**row, "split": split} for row in rows for split in ("train", "test")]
    if how == "some in a split":
        rows[0]["split"] = "train"
    if how == "empty":
        rows = []
    lines = [json.dumps(row) for row in rows]
    if how == "not JSON":
        lines[1] = "{file_name: photo}"
    if how == "a list":
        lines[1] = "[1, 2]"
    (root / "metadata.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("no caption at all", "4 images, and no caption for any; expected a table of the images"),
        ("two tables", "has metadata.jsonl and metadata.csv; leave one"),
        ("image missing", r"metadata.jsonl, line 5: .*gone.png is not there; file_name is relative to the table"),
        ("outside", "lies outside"),
        ("another ending", "line 3: photo 02.jpg is not there; there is photo 02.png"),
        ("another kind", r"notes.heic is not of a kind that is read \(.jpg, "),
        ("two captions columns", "has two columns 'text'"),
        ("too few", "2 images with captions, of which 1 would be held out"),
        ("no file_name", "has no column 'file_name' with the images' names; its columns are 'image', 'text'"),
        (
            "no captions",
            r"no column of captions \(text, caption, captions\); its columns are 'file_name', 'prompt'",
        ),
        ("captions twice", r"several columns of captions, \['text', 'caption'\]"),
        ("a number", "line 2: text must be a caption or a list of captions, got 7"),
        ("another split", "line 4: split must be one of .* got 'holdout'"),
        ("two splits", "photo 00.png is in several splits, test and train"),
        ("some in a split", "3 of 4 images are in no split, such as photo 01.png"),
        ("empty", "holds no rows"),
        ("not JSON", "line 2: not JSON"),
        ("a list", "line 2: must be an object with file_name and text"),
    ],
)
def test_what_is_wrong_is_said_by_file_and_line(how: str, told: str, tmp_path: Path) -> None:
    broken(tmp_path, how)
    with pytest.raises(DataError, match=told):
        folder(tmp_path, "train", 32)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("file_name,text\nphoto 00.png,a red, round thing\n", "line 2: has more columns than the first line"),
        ('file_name,text\n"photo 00.png,a\n', "not CSV"),
        ("file_name,captions\nphoto 00.png,[a\n", "begins as a list in JSON, but is none"),
        ("\0\0", "NUL bytes"),
    ],
)
def test_broken_csv(content: str, told: str, tmp_path: Path) -> None:
    images(tmp_path, 2)
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(DataError, match=told):
        folder(tmp_path, "train", 32)


def test_broken_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    images(tmp_path, 2)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match="not a readable parquet file"):
        folder(tmp_path, "train", 32)
    as_parquet(tmp_path / "metadata.parquet", [{"file_name": "a", "image": {"bytes": b"x"}}])
    with pytest.raises(DataError, match=r"no column of captions .* its columns are 'file_name'"):
        folder(tmp_path, "train", 32)


def test_pairs_of_one_image_only_where_there_are_two_captions(tmp_path: Path) -> None:
    for i, (name, text) in enumerate(images(tmp_path, 12, "train/")):
        (tmp_path / name).with_suffix(".txt").write_text(f"{text}\nanother of {i}" if i < 3 else f"{text}\n{text}")
    data = folder(tmp_path, "train", 32)
    vocabulary = Vocabulary.of(c for cs in data.captions for c in cs)
    pairs = SiamesePairs(data, vocabulary, 10, 8, 32, seed=1)
    for step in range(20):
        batch = pairs[step]
        first, second = batch.indices.chunk(2)
        assert batch.same.tolist() == [True] * 4 + [False] * 4
        assert torch.equal(first == second, batch.same)
        assert all(len(set(data.captions[i])) == 2 for i in first[batch.same].tolist())
        a, b = batch.tokens.chunk(2)
        assert not any(torch.equal(a[i], b[i]) for i in range(4))
    alone = folder(tmp_path, "train", 32)
    alone = type(alone)(alone.name, alone.images, [[captions[0]] for captions in alone.captions])
    assert not SiamesePairs(alone, vocabulary, 10, 8, 32, seed=1)[0].same.any()


def test_the_preset_fits_the_size() -> None:
    assert preset("folder").size == 64
    assert train.parse(["--data", "folder", "--size", "32"]).generator.channels == (64, 32, 16)
    large = train.parse(["--data", "folder", "--size", "256"])
    assert (large.generator, large.discriminator, large.size) == (Config().generator, Config().discriminator, 256)


def test_from_a_folder_to_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root, out = tmp_path / "mine", tmp_path / "out"
    as_csv(root / "metadata.csv", [{"file_name": n, "text": t} for n, t in images(root, 24)])
    arguments = [
        "--data",
        "folder",
        "--root",
        str(root),
        "--out",
        str(out),
        "--accelerator",
        "cpu",
        "--log",
        "none",
    ]
    assert train.main([*arguments, "--check"]) == 0
    told = capsys.readouterr().out
    assert "images with two different captions" in told
    assert "every Siamese pair is of two images" in told and "images are few" in told
    assert (out / "data.png").stat().st_size > 5_000 and not (out / "checkpoint.pt").exists()
    tiny = [
        "--size",
        "32",
        "--steps",
        "2",
        "--encoder-steps",
        "2",
        "--batch-size",
        "4",
        "--encoder.dim",
        "8",
        "--encoder.batch-size",
        "4",
    ]
    tiny += ["--generator.channels", "8", "8", "--discriminator.channels", "8", "--checkpoint-every", "10"]
    assert train.main([*arguments, *tiny]) == 0
    assert "of the 4 Siamese pairs a step, 0 are of one of these, and 4 of two images" in capsys.readouterr().out
    assert sample.main(["--checkpoint", str(out), "--caption", "a red thing", "--count", "1"]) == 0


def test_real_photographs_in_this_layout(real_data: Path, tmp_path: Path) -> None:
    rows = []
    for split, kind in (("train", "train"), ("test", "val")):
        told = json.loads((real_data / "coco" / "annotations" / f"captions_{kind}.json").read_text())
        names = {image["id"]: image["file_name"] for image in told["images"]}
        for caption in told["annotations"]:
            found = next((real_data / "coco" / kind).glob(f"{Path(names[caption['image_id']]).stem}.*"))
            link = tmp_path / "images" / found.name
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                link.symlink_to(found)
            rows.append({"file_name": f"images/{found.name}", "caption": caption["caption"], "split": split})
    as_jsonl(tmp_path / "metadata.jsonl", rows)
    ours = open_data(Config(data="folder", root=tmp_path, size=64))
    coco = open_data(Config(data="coco", root=real_data / "coco", size=64))
    for a, b in zip(ours, coco, strict=True):
        assert len(a) == len(b) > 5
        assert {tuple(sorted(captions)) for captions in a.captions} == {
            tuple(sorted(captions)) for captions in b.captions
        }


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert train.main(["--data", "folder", "--out", str(tmp_path / "out")]) == 2
    assert "--data folder needs --root DIR" in capsys.readouterr().out
    assert (
        train.main(["--data", "folder", "--root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    )
    assert "no such folder; --root must hold a table" in capsys.readouterr().out
    images(tmp_path, 3)
    with pytest.raises(DataError, match="--classes is of --data folder"):
        open_data(Config(data="cub", root=tmp_path, classes="label"))
