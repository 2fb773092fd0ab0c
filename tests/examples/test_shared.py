"""What a run leaves to be shared says nothing of the machine that it was made on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from helpers.captioned import as_csv, images
from helpers.miniature import shrink
from helpers.training import TINY

from examples.sdgan import train
from examples.sdgan.config import from_json
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.presets import preset


def test_no_file_of_a_run_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shrink(monkeypatch.setattr)
    root, out = tmp_path / "photos of mine", tmp_path / "run"
    as_csv(root / "metadata.csv", [{"file_name": name, "text": text} for name, text in images(root, 40)])
    options = [*TINY, "--data", "folder", "--root", str(root), "--out", str(out), "--encoder.image", "small"]
    assert train.main(options) == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"config.json", "generator.safetensors", "metrics.json", "samples.png"} <= {path.name for path in files}
    for path in files:
        # The checkpoint stays here, for --resume, and knows where its data is.
        if path.name != "checkpoint.pt":
            assert str(tmp_path).encode() not in path.read_bytes(), path
    assert json.loads((out / "model" / "config.json").read_text())["root"] == "photos of mine"
    # On this machine nothing has to be said again.
    assert load_sampler(out / "model").config.root == root
    (out / "checkpoint.pt").unlink()
    assert load_sampler(out / "model").config.root == Path("photos of mine")
    capsys.readouterr()


def test_names_and_relative_paths_stay() -> None:
    config = preset("toy")
    encoder = dataclasses.replace(config.encoder, text="sentence-transformers/all-MiniLM-L6-v2")
    config = dataclasses.replace(config, root=Path("data/cub"), out=Path("runs/a"), encoder=encoder)
    assert from_json(config.to_share()) == config
    private = dataclasses.replace(encoder, text="/home/me/bert", inception_weights="/home/me/inception.pth")
    shared = from_json(dataclasses.replace(config, root=Path("/home/me/cub"), encoder=private).to_share())
    assert (shared.root, shared.encoder.text) == (Path("cub"), "bert")
    assert shared.encoder.inception_weights == "inception.pth"
