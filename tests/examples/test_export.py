"""A model that leaves this code: ONNX and exported programs compute what the model computes, for any batch and caption."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from helpers import trained
from helpers.text_models import text_model

from examples.sdgan import export
from examples.sdgan.config import Config
from examples.sdgan.inference import programs
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.models import checkpoint

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
CAPTIONS = [
    "a small red bird with blue wings",
    "a bird",
    "",
    "a large bird with a zebra and much more than it reads",
]


def config(kind: str, folder: Path) -> Config:
    if kind == "attngan":
        return trained.small(architecture="attngan", norm="both", residual_blocks=1)
    made = trained.small()
    if kind == "text model":
        pytest.importorskip("transformers")
        model = text_model(folder / "bert")
        return dataclasses.replace(made, encoder=dataclasses.replace(made.encoder, text=str(model)))
    return made


@pytest.mark.parametrize("kind", ["tree", "text model"])
def test_an_exported_program_runs_without_this_code(kind: str, tmp_path: Path) -> None:
    model = trained.model(tmp_path / "model", config(kind, tmp_path))
    assert export.main(["--checkpoint", str(model), "--format", "torch", "--out", str(tmp_path / "out")]) == 0
    sampler = load_sampler(model)
    asked = (CAPTIONS, CAPTIONS[:1])
    given = [programs.arguments(sampler, captions, seed=2) for captions in asked]
    torch.save(given, tmp_path / "inputs.pt")
    code = (
        "import sys; sys.modules['scbn'] = sys.modules['examples'] = None; import torch; found = []\n"
        "text, images = (torch.export.load(f'out/{n}.pt2').module() for n in ('text_encoder', 'generator'))\n"
        "for tokens, rest in torch.load('inputs.pt'):\n"
        "    encoded = text(*tokens)\n"
        "    found.append((encoded, images(rest[0], *encoded)))\n"
        "torch.save(found, 'found.pt')\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path, capture_output=True)
    for captions, (_, rest), (text, images) in zip(asked, given, torch.load(tmp_path / "found.pt"), strict=True):
        for got, want in zip(text, rest[1:], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(images, sampler.images(captions, rest[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rnn", ["lstm", "gru"])
def test_unrolled_it_computes_the_same(rnn: Literal["lstm", "gru"]) -> None:
    made = trained.small()
    sampler = trained.sampler(dataclasses.replace(made, encoder=dataclasses.replace(made.encoder, rnn=rnn)))
    for captions in (CAPTIONS, CAPTIONS[1:2]):
        tokens, rest = programs.arguments(sampler, captions)
        for got, want in zip(programs.modules(sampler)[0](*tokens), rest[1:], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["attngan", "text model"])
def test_onnx_computes_what_the_model_computes(kind: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = trained.model(tmp_path / "model", config(kind, tmp_path))
    assert export.main(["--checkpoint", str(model), "--out", str(tmp_path / "out")]) == 0
    sampler = load_sampler(model)
    told = json.loads((tmp_path / "out" / "model.json").read_text())
    sessions = {name: runtime.InferenceSession(tmp_path / "out" / f"{name}.onnx") for name in told["programs"]}

    def run(name: str, values: Any) -> list[Any]:
        given = {key: value.numpy() for key, value in zip(told["programs"][name], values, strict=True)}
        known = {entry.name for entry in sessions[name].get_inputs()}
        return sessions[name].run(None, {key: value for key, value in given.items() if key in known})

    for captions in (["a bird", "a blue bird with red wings", "a small bird"], CAPTIONS[:1]):
        tokens, rest = programs.arguments(sampler, captions, seed=2)
        text = [torch.from_numpy(value) for value in run("text_encoder", tokens)]
        for got, want in zip(text, rest[1:], strict=True):
            torch.testing.assert_close(got, want.detach(), rtol=1e-5, atol=1e-5)
        images = torch.from_numpy(run("generator", (rest[0], *text))[0])
        torch.testing.assert_close(images, sampler.images(captions, rest[0]), rtol=0, atol=1e-5)
        assert told["images"] == list(images.shape[1:])


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    trained.model(tmp_path / "runs" / "toy" / "model", trained.small(noise_dim=32))
    page = (Path(__file__).parents[2] / "docs" / "try.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    for kind, block in zip(("onnx", "torch"), blocks, strict=True):
        assert export.main(["--checkpoint", "runs/toy", "--format", kind]) == 0
        names: dict[str, Any] = {}
        exec(block, names)
        assert tuple(names["images"].shape) == (1, 3, 16, 16)
        if kind == "onnx":
            assert str(Path(__file__).parents[2]).encode() not in Path("runs/toy/onnx/generator.onnx").read_bytes()
            sampler = load_sampler(Path("runs/toy"))
            assert names["tokens"][0].tolist() == sampler.vocabulary.encode(names["caption"])
            want = sampler.images([names["caption"]], torch.from_numpy(names["noise"]))
            torch.testing.assert_close(torch.from_numpy(names["images"]), want, rtol=0, atol=1e-5)
    assert json.loads(Path("runs/toy/torch/words.json").read_text())["<padding>"] == 0


@pytest.mark.parametrize(
    ("checkpoint", "folder"),
    [
        ("run", "run/torch"),
        ("run/model", "run/torch"),
        ("run/checkpoint.pt", "run/torch"),
        ("run/BN.pt", "run/BN-torch"),
        ("model", "model/torch"),  # a run that is called so
    ],
)
def test_where_an_export_goes(checkpoint: str, folder: str, tmp_path: Path) -> None:
    for run in ("run", "model"):
        (tmp_path / run / "model").mkdir(parents=True)
    options = export.Options(tmp_path / checkpoint, format="torch")
    assert export._beside(options) == tmp_path / folder


def test_safetensors_are_a_model_again(tmp_path: Path) -> None:
    model = trained.model(tmp_path / "run" / "model", trained.small())
    (tmp_path / "run" / "safetensors.part").mkdir()
    (tmp_path / "run" / "safetensors.part" / "thesis.tex").write_text("years")
    assert export.main(["--checkpoint", str(tmp_path / "run"), "--format", "safetensors"]) == 0
    ours, again = load_sampler(model), load_sampler(tmp_path / "run" / "safetensors")
    assert (tmp_path / "run" / "safetensors.part" / "thesis.tex").read_text() == "years"
    noise = torch.randn(1, 6)
    assert torch.equal(ours.images(["a bird"], noise), again.images(["a bird"], noise))


def test_a_second_export_replaces_the_first_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained.model(tmp_path / "model", trained.small())
    arguments = ["--checkpoint", str(model), "--format", "torch", "--out"]
    assert export.main([*arguments, str(tmp_path / "out")]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "bert"}')  # as any model of the hub has
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    (tmp_path / "out.part").mkdir()
    for place in (tmp_path / "mine", model, tmp_path):
        assert export.main([*arguments, str(place)]) == 2
        assert "exists and is no earlier export" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    load_sampler(model)
    (tmp_path / "out" / "generator.pt2").write_bytes(b"of an earlier export")
    # A program that computes something else is not kept, and the one that was there stays.
    before = (tmp_path / "out" / "generator.pt2").read_bytes()
    monkeypatch.setattr(export, "_call", lambda program, values: tuple(v + 1 for v in _call(program, values)))
    assert export.main([*arguments, str(tmp_path / "out")]) == 2
    assert "differs from the model by 1.0e+00: not kept" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "generator.pt2").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model", "out", "out.part"]
    # A NaN is no small difference, wherever it is.
    nan = float("nan")
    monkeypatch.setattr(export, "_call", lambda program, values: (*_call(program, values)[:-1], torch.tensor(nan)))
    assert export.main([*arguments, str(tmp_path / "out")]) == 2
    assert "differs from the model by nan" in " ".join(capsys.readouterr().out.split())
    monkeypatch.undo()
    assert export.main([*arguments, str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "generator.pt2").read_bytes() != before


_call = export._call


def test_what_cannot_be_exported_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export.main(["--checkpoint", str(tmp_path / "none"), "--format", "torch"]) == 2
    assert "none" in capsys.readouterr().out
    parts: dict[str, Any] = {name: {} for name in ("image", "text", "history", "steps", "phases")} | {
        "seconds": 0.0
    }
    state = {"config": trained.small().to_json(), "vocabulary": [], **parts}
    checkpoint.save(state, tmp_path / "checkpoint.pt", again="start again")
    assert export.main(["--checkpoint", str(tmp_path), "--format", "torch"]) == 2
    assert "has trained encoders only" in capsys.readouterr().out
    model = trained.model(tmp_path / "model", trained.small())
    assert export.main(["--checkpoint", str(model), "--batch", "0"]) == 2
    assert "--batch must be from 1 to 4096, got 0" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export.main(["--checkpoint", str(model)]) == 2
    assert "pip install '.[onnx]'" in capsys.readouterr().out


def test_times_stand_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = lambda folder, sampler, given: export._running(folder, "torch", given, None)  # noqa: E731
    monkeypatch.setattr(export, "_compiled", compiled)
    model = trained.model(tmp_path / "model", trained.small())
    arguments = ["--checkpoint", str(model), "--format", "torch", "--out", str(tmp_path / "out"), "--timed"]
    assert export.main(arguments) == 0
    out = capsys.readouterr().out
    for name in ("this code", "torch", "AOTInductor"):
        assert name in out
