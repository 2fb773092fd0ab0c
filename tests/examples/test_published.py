"""Files of a published AttnGAN: read into our classes they compute the same, and a folder of them is enough to begin."""

from __future__ import annotations

import dataclasses
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from helpers.published import (
    WORDS,
    PublishedDiscriminator,
    PublishedImageEncoder,
    PublishedTextEncoder,
    write_folder,
)

import scbn
from examples.attngan import retrofit
from examples.attngan.adapter import Adapter
from examples.attngan.generator import Generator
from examples.attngan.published import names, sizes
from examples.attngan.published.captions import vocabulary
from examples.attngan.published.folder import Files, find
from examples.sdgan import evaluate, sample
from examples.sdgan.config import DiscriminatorOptions, EncoderOptions, GeneratorOptions, SiameseOptions
from examples.sdgan.data import open_data
from examples.sdgan.data.pickles import read_plain_pickle
from examples.sdgan.data.vocabulary import Vocabulary, tokenize_as_published
from examples.sdgan.inference.export import load_sampler, write_model
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.models.discriminator import Discriminator
from examples.sdgan.models.encoders import InceptionImageEncoder, SmallImageEncoder, TextEncoder
from examples.sdgan.models.generator import build_generator
from examples.sdgan.presets import preset

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("attngan"))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """With statistics that are not those of a new norm."""
    for name, value in module.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_text_encoder_computes_the_same(kind: Literal["lstm", "gru"], tmp_path: Path) -> None:
    theirs = randomised(PublishedTextEncoder(9, 5, 6, {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]))
    torch.save({"module." + name: value for name, value in theirs.state_dict().items()}, tmp_path / "t.pth")
    found, words = sizes.of_text_encoder(tmp_path / "t.pth")
    assert (found, words) == ({"encoder.embedding_dim": 5, "encoder.dim": 6, "encoder.rnn": kind}, 9)
    ours = TextEncoder(9, EncoderOptions(embedding_dim=5, dim=6, rnn=kind)).eval()
    names.load(ours, tmp_path / "t.pth", names.of_text_encoder, "--text-encoder", "text encoder")
    tokens = torch.tensor([[3, 1, 4, 8, 5], [2, 6, 5, 0, 0], [7, 0, 0, 0, 0]])
    text, (want, sentence) = ours(tokens), theirs(tokens, [5, 3, 1])
    assert torch.equal(text.words.mT, want)
    assert torch.equal(text.sentence, sentence)


def test_the_image_encoder_computes_the_same(tmp_path: Path) -> None:
    theirs = randomised(PublishedImageEncoder(4))
    torch.save(theirs.state_dict(), tmp_path / "i.pth")
    assert sizes.of_image_encoder(tmp_path / "i.pth") == {"encoder.dim": 4, "encoder.image": "inception"}
    ours = InceptionImageEncoder(4, "random").eval()
    names.load(ours, tmp_path / "i.pth", names.of_image_encoder, "--image-encoder", "image encoder")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        for got, want in zip(ours(images), theirs(images), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_discriminators_compute_the_same(stage: int, tmp_path: Path) -> None:
    theirs, size = randomised(PublishedDiscriminator(stage, 3, 5)), 64 << stage
    torch.save({"netD": theirs.state_dict(), "epoch": 4}, tmp_path / "d.pth")
    found = sizes.of_discriminator(tmp_path / "d.pth")
    options = DiscriminatorOptions(
        **{name.removeprefix("discriminator."): v for name, v in found.items() if "discriminator" in name}
    )
    assert found["encoder.dim"] == 5
    ours = Discriminator(size, 5, options, SiameseOptions()).eval()
    before = ours.siamese.weight.clone()
    rename = partial(names.of_discriminator, size=size)
    assert names.load(ours, tmp_path / "d.pth", rename, "--discriminators", "discriminator") == "netD"
    images, sentence = torch.rand(2, 3, size, size) * 2 - 1, torch.randn(2, 5)
    with torch.no_grad():
        got = ours.heads(ours(images), sentence)
        for logits, probability in zip(got[:2], theirs(images, sentence), strict=True):
            torch.testing.assert_close(logits.sigmoid(), probability, rtol=1e-6, atol=1e-6)
    assert torch.equal(ours.siamese.weight, before)  # the one head that they do not have


def test_words_are_numbered_and_split_as_published(folder: Path) -> None:
    words = vocabulary(folder / "data" / "birds" / "captions.pickle", len(WORDS))
    assert words.words == ["<padding>", *[WORDS[i] for i in range(1, len(WORDS))]]
    assert words.encode("A small, red bird; with a zebra's beak") == [
        1,
        5,
        2,
        3,
        7,
        1,
        9,
    ]  # unknown words are left out
    assert "zebra" not in words
    assert words.encode("zebra") == []
    assert tokenize_as_published("na\u00efve birds\ufffd\ufffdof 2 colours_") == [
        "nave",
        "birds",
        "of",
        "2",
        "colours_",
    ]
    assert Vocabulary(["a", "b"]).encode("a c") == [2, 1]  # ours has an unknown word


def test_an_exported_model_numbers_words_as_published(tmp_path: Path) -> None:
    config = dataclasses.replace(
        preset("toy"),
        size=32,
        encoder=EncoderOptions(embedding_dim=4, dim=8),
        generator=GeneratorOptions(channels=(8, 8, 8)),
    )
    words = Vocabulary(["red", "bird"], published=True)
    generator = build_generator(config).eval()
    write_model(tmp_path, Sampler(config, words, TextEncoder(3, config.encoder), generator), SmallImageEncoder(8))
    again = load_sampler(tmp_path)
    assert again.vocabulary.encode("a red zebra bird") == [1, 2]
    assert again.unknown("a red zebra bird") == ["a", "zebra"]
    assert again.attention(["a red bird"], torch.zeros(1, 100))[2] == [["red", "bird"]]


def test_sizes_are_those_of_the_weights(folder: Path) -> None:
    options, config = retrofit.parse(["--data", "cub", "--attngan", str(folder)])
    assert options.checkpoint == folder / "models" / "bird_AttnGAN2.pth"
    assert options.text_encoder is not None and options.text_encoder.name == "text_encoder200.pth"
    assert [path.name for path in options.discriminators] == ["netD0.pth", "netD1.pth"]
    assert options.root == folder / "data" / "birds"
    assert (config.size, config.generator.channels, config.generator.residual_blocks) == (128, (2, 2), 1)
    assert (config.generator.condition_dim, config.generator.noise_dim) == (5, 6)
    assert (config.encoder.dim, config.encoder.embedding_dim, config.encoder.image) == (8, 4, "inception")
    assert (config.discriminator.channels, config.discriminator.head_channels) == (2, 16)
    assert config.encoder_steps == 0  # both encoders have learnt


def _broken(folder: Path, tmp_path: Path, how: str) -> list[str]:
    encoders = folder / "DAMSMencoders" / "bird"
    if how == "another vocabulary":
        content = pickle.loads((folder / "data" / "birds" / "captions.pickle").read_bytes())
        content[2] = {i: f"w{i}" for i in range(7)}
        (tmp_path / "captions.pickle").write_bytes(pickle.dumps(content, 2))
        return ["--captions", str(tmp_path / "captions.pickle")]
    if how == "another rnn":
        state = {"encoder.weight": torch.zeros(10, 4), "rnn.weight_hh_l0": torch.zeros(4, 4)}
        torch.save(state, tmp_path / "t.pth")
        return ["--text-encoder", str(tmp_path / "t.pth")]
    if how == "the wrong file":
        return ["--image-encoder", str(encoders / "text_encoder200.pth")]
    if how == "not finite":
        state = torch.load(encoders / "text_encoder200.pth", weights_only=True)
        state["rnn.bias_ih_l0"][0] = torch.nan
        torch.save(state, tmp_path / "t.pth")
        return ["--text-encoder", str(tmp_path / "t.pth")]
    if how == "another size":
        torch.save(PublishedTextEncoder(10, 4, 6).state_dict(), tmp_path / "t.pth")
        return ["--text-encoder", str(tmp_path / "t.pth")]
    if how == "another option":
        return ["--train.generator.noise-dim", "7"]
    if how == "too few discriminators":
        return ["--discriminators", str(folder / "models" / "netD0.pth")]
    assert how == "discriminators in another order"
    return ["--discriminators", *(str(folder / "models" / f"netD{i}.pth") for i in (1, 0))]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("another vocabulary", "7 words, but the text encoder knows 10"),
        ("another rnn", "its rnn is no LSTM and no GRU (4 x 4)"),
        ("the wrong file", "no tensor is called 'emb_features.weight'"),
        ("not finite", "is not finite"),
        ("another size", "encoder.dim is 6 in the one and 8 in the other"),
        ("another option", "--train.generator.noise-dim is 7, but the weights given are of 6"),
        ("too few discriminators", "1 files for 2 stages of [64, 128] px"),
        ("discriminators in another order", "no discriminator for 64 px of AttnGAN"),
    ],
)
def test_files_that_do_not_belong_together_are_named(
    how: str, told: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [
        "--data",
        "cub",
        "--attngan",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--train.accelerator",
        "cpu",
    ]
    arguments += ["--train.log", "none", "--train.workers", "0", "--train.batch-size", "2", "--steps", "1"]
    assert retrofit.main([*arguments, *_broken(folder, tmp_path, how)]) == 2
    assert told in " ".join(capsys.readouterr().out.split())


def test_folders_that_hold_nothing_or_too_much(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        names.PublishedError, match=r"nothing of an AttnGAN in it; expected models/bird_AttnGAN2.pth"
    ):
        find(tmp_path, "cub", Files())
    with pytest.raises(names.PublishedError, match="add --data cub or --data coco"):
        find(tmp_path, "toy", Files())
    (tmp_path / "models").mkdir()
    for name in ("bird_AttnGAN2.pth", "my_bird_AttnGAN2.pth"):
        (tmp_path / "models" / name).write_bytes(b"")
    with pytest.raises(names.PublishedError, match=r"several generators .* say which with --checkpoint"):
        find(tmp_path, "cub", Files())
    assert find(tmp_path, "cub", Files(checkpoint=Path("g.pth"))).checkpoint == Path("g.pth")


def _arguments(folder: Path, out: Path) -> list[str]:
    arguments = ["--data", "cub", "--attngan", str(folder), "--out", str(out), "--steps", "1"]
    return [
        *arguments,
        *["--train.accelerator", "cpu", "--train.log", "none", "--train.workers", "0", "--train.batch-size", "2"],
    ]


def test_four_commands_from_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retrofit.main(_arguments(folder, tmp_path)) == 0
    told = capsys.readouterr().out
    assert "text_encoder200.pth" in told and "netD1.pth" in told
    metrics: dict[str, Any] = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["largest_change_at_step_0"] < 1e-4
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["steps"] == {"encoders": 0, "fine-tune": 1}
    assert state["published_vocabulary"] is True
    encoder = torch.load(folder / "DAMSMencoders" / "bird" / "text_encoder200.pth", weights_only=True)
    assert torch.equal(state["text"]["embedding.weight"], encoder["encoder.weight"])  # nothing was pretrained

    assert sample.main(["--checkpoint", str(tmp_path), "--caption", "a red zebra bird", "--count", "1"]) == 0
    assert "zebra" in capsys.readouterr().out  # a word that their encoder does not know
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "check_enough", lambda *_: None)  # four images are not enough, and here they are
        arguments = [
            "--checkpoint",
            str(tmp_path),
            "--images",
            "20",
            "--inception",
            "none",
            "--accelerator",
            "cpu",
        ]
        assert evaluate.main(arguments) == 0
    assert "r_precision" in json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["measures"]

    theirs = Generator(2, 8, 8, 5, 6, residual_blocks=1, stages=2)  # as G_NET() of their script
    report = scbn.load_retrofitted(theirs, torch.load(tmp_path / "netG_scbn.pth", weights_only=True))
    assert len(report.replaced) == 5
    sampler, noise = load_sampler(tmp_path), torch.randn(2, 6)
    captions = ["a red bird", "a blue bird with a green beak"]
    text = sampler.encode(captions)
    torch.testing.assert_close(
        Adapter(theirs, 5).eval()(noise, text).images[-1], sampler.images(captions, noise), rtol=1e-6, atol=1e-6
    )


def test_a_folder_of_coco(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, kind="coco")
    options, config = retrofit.parse(["--data", "coco", "--attngan", str(folder), "--out", str(tmp_path / "out")])
    assert options.checkpoint == folder / "models" / "coco_AttnGAN2.pth"
    assert (options.root, options.captions) == (folder / "data/coco", folder / "data/coco/captions.pickle")
    assert (config.damsm_weight, config.encoder.words) == (50.0, 12)
    train, test = open_data(config)
    assert (len(train), len(test), len(train.captions[0])) == (6, 4, 5)


def test_an_attndcgan_has_one_image_and_one_discriminator(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, out = write_folder(tmp_path / "attngan", single=True), tmp_path / "out"
    options, config = retrofit.parse(_arguments(folder, out))
    assert (config.generator.architecture, config.sizes, config.base_size) == ("attndcgan", [128], 64)
    assert [path.name for path in options.discriminators] == ["netD0.pth"]
    assert retrofit.main([*_arguments(folder, out), "--train.discriminator.lr", "0"]) == 0
    assert "5 of" in capsys.readouterr().out
    state = checkpoint.load(out / "checkpoint.pt")
    assert "host.img_net.img.0.weight" in state["ema"] and "host.img_net1.img.0.weight" not in state["ema"]
    given = torch.load(folder / "models" / "netD0.pth", weights_only=True)["COND_DNET.outlogits.0.weight"]
    assert torch.equal(state["phases"]["fine-tune"]["discriminators"]["stages.0.fits.weight"], given)
    assert set(state["phases"]["fine-tune"]["kept"]) == {"before"}
    assert load_sampler(out).images(["a red bird"], torch.randn(1, 6)).shape == (1, 3, 128, 128)


def test_real_captions_get_the_numbers_that_the_real_pickle_has(real_data: Path) -> None:
    meta, words = real_data / "cub_attngan_meta", 5450
    train, test, _, _ = cast("list[Any]", read_plain_pickle(meta / "captions.pickle"))
    known = vocabulary(meta / "captions.pickle", words)
    compared = 0
    for split, numbered in (("train", train), ("test", test)):
        names = cast("list[str]", read_plain_pickle(meta / split / "filenames.pickle"))
        for i, name in enumerate(names):
            text = real_data / "cub" / "text" / f"{name}.txt"
            if i % 5 or not text.is_file():
                continue
            lines = [line for line in text.read_text(encoding="utf-8").split("\n") if tokenize_as_published(line)]
            for line, numbers in zip(lines[:10], numbered[10 * i : 10 * i + 10], strict=True):
                assert known.encode(line) == list(numbers), (name, line)
                compared += 1
    assert compared > 8000
