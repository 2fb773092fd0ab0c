"""Checkpoints broken, foreign or made to do harm: refused with file and reason, and nothing runs."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.files import Strike, pipe
from safetensors.torch import save_file

from examples.sdgan import sample, train
from examples.sdgan.config import Config, DiscriminatorOptions, EncoderOptions, GeneratorOptions
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.models.encoders import TextEncoder
from examples.sdgan.models.generator import build_generator

BROKEN = "broken, or no checkpoint of this trainer"
CONFIG = Config(
    size=32,
    encoder=EncoderOptions(dim=8, embedding_dim=8),
    generator=GeneratorOptions(channels=(8, 8, 8), noise_dim=4, condition_dim=4),
    discriminator=DiscriminatorOptions(channels=8),
)
WORDS = ["bird", "red"]
WEIGHT = "embedding.weight"


def state() -> dict[str, Any]:
    """All that a sampler needs, untrained."""
    return {
        "config": CONFIG.to_json(),
        "vocabulary": list(WORDS),
        "text": dict(TextEncoder(2 + len(WORDS), CONFIG.encoder).state_dict()),
        "image": {"weight": torch.zeros(3)},
        "history": {"gan": {"step": [0, 10], "loss": [math.nan, 1.0]}},
        "seconds": 1.5,
        "steps": {"encoders": 3, "gan": 4},
        "phases": {"gan": {}},
        "ema": dict(build_generator(CONFIG).state_dict()),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


def refuse(path: Path, reason: str, load: Callable[[Path], Any] = checkpoint.load) -> None:
    with pytest.raises(CheckpointError, match=reason) as refused:
        load(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "weights_only" not in message  # torch's own message advises to run the code
    assert len(message) < 500 + len(str(path))


def test_a_whole_one_is_taken(path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint.save(state(), path)
    images = Sampler.load(path).images(["a red bird"], torch.zeros(1, 4))
    assert images.shape == (1, 3, 32, 32)
    assert sample.main(["--checkpoint", str(path), "--caption", "a red bird", "--count", "1"]) == 0
    assert path.with_name("sample.png").exists()


def legacy(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, "x": Strike(canary)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Pretender(dict):
    """A dict by another name."""


def with_pickle(content: bytes) -> bytes:
    """An archive as torch.save's, with a pickle of one's own."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(3)}))) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            new.writestr(
                entry.filename, content if entry.filename.endswith("data.pkl") else old.read(entry.filename)
            )
    return file.getvalue()


def deflated() -> bytes:
    """An archive that unpacks to a thousand times its size."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("archive/data.pkl", bytes(20_000_000))
    return file.getvalue()


def declaring(size: int) -> bytes:
    """An archive whose directory declares another size of each file."""
    data = bytearray(saved({"a": torch.ones(3)}))
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + 20 : at + 28] = struct.pack("<II", size, size)
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(data)


def flipped(content: bytes) -> bytes:
    at = content.index(b"data.pkl") + 64
    return content[:at] + bytes(value ^ 255 for value in content[at : at + 40]) + content[at + 40 :]


def safetensors(canary: Path) -> bytes:
    save_file({"a": torch.ones(3)}, canary.with_name("a.safetensors"))
    return canary.with_name("a.safetensors").read_bytes()


def struck(canary: Path) -> Any:
    return {"format": checkpoint.FORMAT, **state(), "x": [Strike(canary)]}


FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "code": (lambda canary: saved(struck(canary)), r"it asks for \w+.system, and only tensors, numbers and text"),
    "code within weights": (
        lambda canary: saved({**state(), "text": {WEIGHT: Strike(canary)}}),
        r"it asks for \w+.system, and only tensors",
    ),
    "code by name": (
        lambda canary: with_pickle(b"cos\nmkdir\n(V" + str(canary).encode() + b"\ntR."),
        "it asks for os.mkdir, and only tensors",
    ),
    "code in torch's old format": (legacy, "not the archive that torch.save writes"),
    "code in a bare pickle": (
        lambda canary: pickle.dumps(Strike(canary)),
        "not the archive that torch.save writes",
    ),
    "a class": (lambda canary: saved(Pretender(state())), r"it asks for \S+Pretender, and only tensors"),
    "a module": (lambda canary: saved(torch.nn.Linear(2, 2)), r"it asks for torch\S+Linear, and only tensors"),
    "safetensors": (safetensors, "it looks like safetensors, which holds weights alone"),
    "a picture": (lambda canary: b"\x89PNG\r\n\x1a\n" + bytes(100), "not the archive that torch.save writes"),
    "another archive": (lambda canary: zipped("word/document.xml", b"<w/>"), BROKEN),
    "TorchScript": (lambda canary: zipped("archive/constants.pkl", b"x"), BROKEN),
    "deflated": (lambda canary: deflated(), "its archive declares 20,000,000 bytes in a file of"),
    "sizes of 4 GB": (lambda canary: declaring(0xFFFFFFF0), r"its archive declares [\d,]{14,} bytes in a file of"),
    "sizes of nothing": (lambda canary: declaring(0), BROKEN),
    "a broken pickle": (lambda canary: flipped(saved(state())), BROKEN),
    "nested tuples as a key": (
        lambda canary: with_pickle(b"\x80\x02}N" + b"\x85" * 1_000_000 + b"Ns."),
        "data.pkl nests tuples as no run does",
    ),
    "a tuple of 2^100 as a key": (
        lambda canary: with_pickle(b"\x80\x02}N" + b"q\0h\0\x86" * 100 + b"Ns."),
        "data.pkl nests tuples as no run does",
    ),
    "an instruction torch does not know": (lambda canary: with_pickle(b"\x80\x02(\x91."), f"{BROKEN}.*145"),
    "a pickle of nothing": (lambda canary: with_pickle(b"."), BROKEN),
    "a storage that is not there": (
        lambda canary: with_pickle(pickle_of_tensor(canary).replace(b"\x01\x00\x00\x000q", b"\x01\x00\x00\x007q")),
        BROKEN,
    ),
    "a list": (lambda canary: saved([state()]), "its format is not"),
    "a tensor": (lambda canary: saved(torch.ones(3)), "its format is not"),
    "another format": (lambda canary: saved({**state(), "format": "scbn.examples.sdgan/9"}), "its format is not"),
    "a tensor for a format": (lambda canary: saved({**state(), "format": torch.ones(3)}), "its format is not"),
}


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def pickle_of_tensor(canary: Path) -> bytes:
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(3)}))) as archive:
        content = archive.read("archive/data.pkl")
    assert b"\x01\x00\x00\x000q" in content
    return content


@pytest.mark.filterwarnings("ignore:.*TorchScript")
@pytest.mark.parametrize("how", FILES)
def test_foreign_files_are_refused(how: str, path: Path, capsys: pytest.CaptureFixture) -> None:
    write, reason = FILES[how]
    canary = path.with_name("canary")
    path.write_bytes(write(canary))
    refuse(path, reason)
    refuse(path, reason, Sampler.load)
    assert sample.main(["--checkpoint", str(path), "--caption", "a bird"]) == 2
    assert train.main(["--resume", "--out", str(path.parent)]) == 2
    assert capsys.readouterr().out.count(f"error: {path}: ") == 2
    assert not canary.exists()
    assert not path.with_name("sample.png").exists()


@pytest.mark.parametrize("how", ["code", "code within weights", "code by name"])
def test_the_code_would_run(how: str, path: Path) -> None:
    path.write_bytes(FILES[how][0](path.with_name("canary")))
    torch.load(path, weights_only=False)
    assert path.with_name("canary").exists()


def test_what_is_no_file_is_no_checkpoint(path: Path) -> None:
    path.mkdir()
    refuse(path, "a folder or device, no checkpoint; point to OUT/checkpoint.pt of a run")
    path.rmdir()
    with pipe(path):
        refuse(path, "a folder or device, no checkpoint")
    path.unlink()
    path.symlink_to("/dev/zero")
    refuse(path, "a folder or device, no checkpoint")
    path.unlink()
    path.symlink_to(path)
    refuse(path, "no such checkpoint|cannot be read|symbolic links")


def test_an_unreadable_checkpoint_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(state(), path)

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("io.open", denied)  # to root, every file is readable
    refuse(path, f"{BROKEN}.*Permission denied")


def test_a_file_of_a_terabyte_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no space on the disk
    refuse(path, "not the archive that torch.save writes")


@pytest.mark.parametrize("part", checkpoint.PARTS)
def test_missing_parts_are_named(part: str, path: Path) -> None:
    content = state()
    del content[part]
    checkpoint.save(content, path)
    refuse(path, f"incomplete, it lacks {part}$")


WRONG_PARTS: list[tuple[dict[str, Any], str]] = [
    ({"config": {"size": 32}}, "config must be JSON text, got dict"),
    ({"config": "{"}, "the stored configuration is not JSON"),
    ({"config": "[]"}, r"the stored configuration must be a JSON object, got \[\]"),
    ({"vocabulary": "bird red"}, "vocabulary must be a list of words, got str"),
    ({"vocabulary": ["bird", 7]}, "a vocabulary is a list of words, each a string"),
    ({"vocabulary": ["bird", "bird"]}, "a vocabulary names each word once, got 'bird' twice"),
    ({"vocabulary": ["bird", "<padding>"]}, "a vocabulary names each word once, got '<padding>' twice"),
    ({"published_vocabulary": "no"}, "published_vocabulary must be true or false"),
    ({"text": [torch.ones(3)]}, "text must be a dict, got list"),
    ({"ema": torch.ones(3)}, "ema must be a dict, got Tensor"),
    ({"phases": 3}, "phases must be a dict, got int"),
    ({"phases": {"gan": None}}, "phase 'gan': must be a dict with steps, got NoneType"),
    ({"phases": {"other": {}}}, "phase 'other': must be a dict with steps, got dict"),
    ({"steps": None}, "steps must be a dict, got NoneType"),
    ({"image": {"w": 3}}, "image, 'w' must be a tensor, got int"),
    ({"image": {"w": torch.tensor([1.0, math.nan])}}, "image, 'w' is not finite"),
    ({"text": {WEIGHT: torch.tensor([math.inf])}}, "text, 'embedding.weight' is not finite"),
    ({"text": {WEIGHT: torch.ones(4, 8, device="meta")}}, "text, 'embedding.weight' must be a plain tensor"),
    ({"text": {WEIGHT: torch.eye(4).to_sparse()}}, "text, 'embedding.weight' must be a plain tensor"),
    (
        {"text": {WEIGHT: torch.ones(1).expand(1 << 40)}},
        "text, 'embedding.weight' claims 1,099,511,627,776 numbers and does not hold",
    ),
    ({"steps": {"gan": -1}}, "steps of 'gan': must be a number of steps, got -1"),
    ({"steps": {"gan": True}}, "steps of 'gan': must be a number of steps, got True"),
    ({"steps": {"gan": "4"}}, "steps of 'gan': must be a number of steps, got '4'"),
    ({"steps": {"gan": torch.tensor(4)}}, r"steps of 'gan': must be a number of steps, got tensor\(4\)"),
    ({"steps": {4: 4}}, "steps of 4: must be a number of steps, got 4"),
    ({"seconds": math.nan}, "seconds must be a finite number, got nan"),
    ({"seconds": "long"}, "seconds must be a finite number, got 'long'"),
    ({"history": []}, "history must be a dict of curves, got list"),
    ({"history": {"gan": [1.0]}}, "history of 'gan': must hold 'step'"),
    ({"history": {"gan": {"loss": [1.0]}}}, "history of 'gan': must hold 'step'"),
    ({"history": {"gan": {"step": [0, 1], "loss": [1.0]}}}, "history of 'gan': must hold 'step' and curves of as"),
    ({"history": {"gan": {"step": [0], "loss": ["1"]}}}, "history of 'gan': must hold 'step' and curves of as"),
]


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(("change", "reason"), WRONG_PARTS)
def test_parts_of_the_wrong_type_are_named(change: dict[str, Any], reason: str, path: Path) -> None:
    checkpoint.save({**state(), **change}, path)
    refuse(path, f"damaged, or changed by hand: {reason}")


def test_parts_that_change_nothing_are_taken(path: Path) -> None:
    checkpoint.save({**state(), "seconds": 3, "history": {}, "more": "of a later version"}, path)
    assert checkpoint.load(path)["seconds"] == 3


def reshaped(part: str, name: str, value: Any) -> Callable[[dict], None]:
    return lambda content: content[part].update({name: value})


def options(**change: Any) -> Callable[[dict], None]:
    def apply(content: dict) -> None:
        values = json.loads(content["config"])
        for name, value in change.items():
            group, _, option = name.rpartition("_of_")
            (values[group] if group else values)[option] = value
        content["config"] = json.dumps(values)

    return apply


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (reshaped("text", WEIGHT, torch.ones(3, 8)), r"text: embedding.weight is \(3, 8\).*must be \(4, 8\)"),
        (reshaped("text", WEIGHT, torch.ones(4, 8).long()), "torch.int64, must be .* torch.float32"),
        (reshaped("text", WEIGHT, torch.ones(4, 8).double()), "torch.float64, must be .* torch.float32"),
        (reshaped("text", WEIGHT, torch.ones(4, 8) * 1j), "torch.complex64, must be .* torch.float32"),
        (reshaped("text", "more", torch.ones(1)), "text: 'more' is unknown"),
        (reshaped("ema", 7, torch.ones(1)), "ema: 7 is unknown"),
        (lambda content: content["text"].pop(WEIGHT), "text: 'embedding.weight' is missing"),
        (lambda content: content["ema"].clear(), "weights of fewer"),
        (lambda content: content["vocabulary"].append("blue"), r"is \(4, 8\).*must be \(5, 8\)"),
        (options(encoder_of_dim=1 << 50), ""),
        (options(encoder_of_embedding_dim=1 << 40), r"is \(4, 8\).*must be \(4, 1099511627776\)"),
        (options(generator_of_residual_blocks=10**12), "1000000000000 residual blocks, and weights of fewer"),
        (options(generator_of_channels=[1 << 40] * 3), ""),
        (options(encoder_of_dropout=2.5), ""),
        (options(generator_of_norm="batch"), "ema: .* is (missing|unknown)"),
        (options(size=64), ""),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Callable[[dict], Any], reason: str, path: Path) -> None:
    content = state()
    change(content)
    checkpoint.save(content, path)
    refuse(path, rf"its weights do not fit its options \(.*{reason}", Sampler.load)
