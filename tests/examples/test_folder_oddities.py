"""Folders as they come: empty cells, names that lead astray, links that lead back, other spellings, labels that tell nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.captioned import COLOURS, as_csv, as_jsonl, both, images
from helpers.files import picture

from examples.sdgan.data import DataError
from examples.sdgan.data.folder import folder


def test_images_with_an_empty_caption_are_left_out(tmp_path: Path) -> None:
    made = images(tmp_path, 8)
    rows = [{"file_name": name, "text": ["", " ... ", text][min(i, 2)]} for i, (name, text) in enumerate(made)]
    as_csv(tmp_path / "metadata.csv", [*rows, {"file_name": "", "text": ""}])
    learnt, held_out = both(tmp_path)
    assert len(learnt) + len(held_out) == 6
    assert any("left out 2 of 8 images without a caption" in note for note in learnt.notes)


def test_names_and_letters_that_lead_astray(tmp_path: Path) -> None:
    for name, colour in (("a.jpg", "red"), ("a.jpg.jpg", "blue"), ("B.JPG", "green"), ("c.jpg", "grey")):
        picture(tmp_path / name, COLOURS[colour])
    rows = [
        {"file_name": n, "text": f"{c}\u2028thing", "split": split}
        for n, c, split in (("a.jpg", "red", "train"), ("B.JPG", "green", "train"), ("c.jpg", "grey", "test"))
    ]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8"
    )
    learnt, held_out = both(tmp_path)
    found = {
        p.name: c[0] for data in (learnt, held_out) for p, c in zip(data.images.paths, data.captions, strict=True)
    }
    assert found == {"a.jpg": "red thing", "B.JPG": "green thing", "c.jpg": "grey thing"}


def test_text_files_of_other_spellings_and_links_that_lead_back(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / f"caf\u00e9{i}.jpg", (1, 2, 3))
        (tmp_path / f"cafe\u0301{i}.TXT").write_text(f"a place, {i}")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path)
    assert sum(map(len, both(tmp_path))) == 6


def test_labels_of_one_class_are_none(tmp_path: Path) -> None:
    made = images(tmp_path, 8)
    as_jsonl(tmp_path / "metadata.jsonl", [{"file_name": n, "text": t, "label": 3} for n, t in made])
    learnt = folder(tmp_path, "train", 32, classes="label")
    assert learnt.classes is None and any("have the label '3'; trained without" in note for note in learnt.notes)
    as_jsonl(tmp_path / "metadata.jsonl", [{"file_name": n, "text": t, "label": float("nan")} for n, t in made])
    with pytest.raises(DataError, match="has no label"):
        folder(tmp_path, "train", 32, classes="label")
