"""A run written as the published code has it: their classes load it strictly and compute the same, and we read it back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.published import PublishedDiscriminator, PublishedImageEncoder, PublishedTextEncoder, write_folder

from examples.attngan import publish, retrofit
from examples.attngan.adapter import Adapter
from examples.attngan.generator import Generator
from examples.attngan.hosts import build_host, load_weights
from examples.attngan.published.captions import vocabulary
from examples.attngan.published.names import PublishedError
from examples.attngan.published.writing import check_publishable, write_published
from examples.sdgan import train
from examples.sdgan.data import open_data
from examples.sdgan.data.pickles import read_plain_pickle
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.models.encoders import InceptionImageEncoder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CAPTIONS = ["a red bird", "a blue bird with a green beak"]


def _train(out: Path, root: Path, *options: str) -> None:
    arguments = f"""--data cub --root {root} --out {out} --size 128 --steps 1 --encoder-steps 1 --batch-size 2
        --generator.architecture attngan --generator.norm batch --generator.channels 2 2 --generator.noise-dim 6
        --generator.condition-dim 5 --generator.residual-blocks 1 --encoder.dim 8 --encoder.embedding-dim 4
        --encoder.image small --encoder.batch-size 2 --discriminator.channels 2 --discriminator.head-channels 16
        --accelerator cpu --log none --workers 0"""
    assert train.main([*arguments.split(), *options]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    _train(root / "run", write_folder(root / "given") / "data" / "birds")
    return root / "run"


def test_their_classes_load_it_and_compute_the_same(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "AttnGAN"
    assert publish.main(["--checkpoint", str(run), "--out", str(out)]) == 0
    sampler, read = load_sampler(run), lambda name: torch.load(out / name, weights_only=True)
    words = vocabulary(out / "data/birds/captions.pickle", len(sampler.vocabulary.words) - 1)
    encoder = PublishedTextEncoder(len(words), 4, 8).eval()
    encoder.load_state_dict(read("DAMSMencoders/bird/text_encoder200.pth"))
    tokens = torch.tensor([words.encode(CAPTIONS[1]), [*words.encode(CAPTIONS[0]), 0, 0, 0, 0]])
    got, sentence = encoder(tokens, [7, 3])
    want = sampler.encode(CAPTIONS[::-1])
    assert want.words is not None
    assert torch.equal(got.mT, want.words[:, :7])
    assert torch.equal(sentence, want.sentence)

    generator, noise = Generator(2, 8, 8, 5, 6, residual_blocks=1, stages=2), torch.randn(2, 6)
    generator.load_state_dict(read("models/bird_AttnGAN2.pth"))
    images = Adapter(generator, 5).eval()(noise, want).images[-1]
    assert torch.equal(images, sampler.images(CAPTIONS[::-1], noise))

    state = checkpoint.load(run / "checkpoint.pt")["phases"]["gan"]["discriminators"]
    assert (out / "models/netD0.pth").read_bytes()[:2] != b"PK"  # a zip file, which no torch of Python 2 reads
    for i in (0, 1):
        discriminator = PublishedDiscriminator(i, 2, 8)
        discriminator.load_state_dict(read(f"models/netD{i}.pth"))
        assert torch.equal(discriminator.COND_DNET.outlogits[0].weight, state[f"stages.{i}.fits.weight"])


def test_captions_are_numbered_and_read_back(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "AttnGAN"
    assert publish.main(["--checkpoint", str(run / "checkpoint.pt"), "--out", str(out)]) == 0
    config = checkpoint.from_json(checkpoint.load(run / "checkpoint.pt")["config"])
    train_split, test_split = open_data(config)
    told = read_plain_pickle(out / "data/birds/captions.pickle")
    assert isinstance(told, list)
    for numbered, split, name in zip(told, (train_split, test_split), ("train", "test"), strict=False):
        assert [" ".join(told[2][n] for n in c) for c in numbered] == [c for each in split.captions for c in each]
        files = read_plain_pickle(out / "data/birds" / name / "filenames.pickle")
        assert isinstance(files, list) and files[0].startswith("001.") and len(files) == len(split)
        assert read_plain_pickle(out / "data/birds" / name / "class_info.pickle") == split.classes.tolist()
    # What retrofit makes of the folder is what was written.
    assert config.root is not None
    arguments = [
        "--data",
        "cub",
        "--attngan",
        str(out),
        "--root",
        str(config.root),
        "--train.encoder.image",
        "small",
    ]
    options, found = retrofit.parse([*arguments, "--out", str(tmp_path / "out")])
    assert (found.size, found.generator.channels, found.encoder.dim) == (128, (2, 2), 8)
    assert (options.image_encoder, len(options.discriminators)) == (None, 2)
    assert options.checkpoint is not None
    host = build_host(found, None)
    load_weights(host, options.checkpoint)
    again, sampler = Adapter(host, 5).eval(), load_sampler(run)
    noise = torch.randn(2, 6)
    assert torch.equal(again(noise, sampler.encode(CAPTIONS)).images[-1], sampler.images(CAPTIONS, noise))


def test_captions_are_found_by_counting(run: Path, tmp_path: Path) -> None:
    """The published code takes caption 10 i + k of image i, however many an image has."""
    config = checkpoint.from_json(checkpoint.load(run / "checkpoint.pt")["config"])
    sampler, (train_split, test_split) = load_sampler(run), open_data(config)
    captions = [list(each) for each in train_split.captions]
    captions[0].append("a green bird")
    captions[1] = ["a small bird", "zebra", "a red bird"]
    odd = dataclasses.replace(train_split, captions=captions)
    missing = write_published(tmp_path / "odd", config, sampler, None, None, (odd, test_split))
    assert "other than 10 captions: of 2 images" in missing[-1]
    told = read_plain_pickle(tmp_path / "odd/data/birds/captions.pickle")
    assert isinstance(told, list) and len(told[0]) == 10 * len(captions)
    spelled = [" ".join(told[2][n] for n in caption) for caption in told[0]]
    assert spelled[:10] == captions[0][:10]
    assert spelled[10:14] == ["a small bird", "a red bird"] * 2
    assert spelled[20:30] == captions[2]
    captions[2] = ["zebra"]
    with pytest.raises(PublishedError, match="no word of its captions is one that the text encoder knows"):
        write_published(tmp_path / "none", config, sampler, None, None, (odd, test_split))


def test_an_inception_is_written_too(run: Path, tmp_path: Path) -> None:
    sampler, image = load_sampler(run), InceptionImageEncoder(8, "random").eval()
    splits = open_data(checkpoint.from_json(checkpoint.load(run / "checkpoint.pt")["config"]))
    missing = write_published(tmp_path / "AttnGAN", sampler.config, sampler, image, None, splits)
    assert [line.partition(":")[0] for line in missing] == ["discriminators"]
    theirs = PublishedImageEncoder(8).eval()
    theirs.load_state_dict(
        torch.load(tmp_path / "AttnGAN/DAMSMencoders/bird/image_encoder200.pth", weights_only=True)
    )
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(theirs(images)[1], image(images)[1], rtol=1e-5, atol=1e-5)


def test_what_their_classes_cannot_hold_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def told(*arguments: str) -> str:
        assert publish.main([*arguments]) == 2
        return " ".join(capsys.readouterr().out.split())

    kept = tmp_path / "kept"
    kept.mkdir()
    assert "exists; nothing is overwritten" in told("--checkpoint", str(run), "--out", str(kept))
    config = checkpoint.from_json(checkpoint.load(run / "checkpoint.pt")["config"])
    assert config.root is not None
    _train(
        tmp_path / "ours",
        config.root,
        *["--generator.norm", "both", "--discriminator.head-channels", "8", "--discriminator.norm", "spectral"],
    )
    message = told("--checkpoint", str(tmp_path / "ours"), "--out", str(tmp_path / "out"))
    for reason in (
        "its norms are both: netG_scbn.pth",
        "--discriminator.norm spectral",
        "head-channels 8 is not 8",
    ):
        assert reason in message
    assert not (tmp_path / "out").exists()
    for size, architecture in ((512, "attndcgan"), (32, "attndcgan")):
        generator = dataclasses.replace(config.generator, architecture=architecture)
        other = dataclasses.replace(config, size=size, generator=generator)
        with pytest.raises(PublishedError, match=rf"its images have \[{size}\] px; theirs have 64, 128 and 256"):
            check_publishable(other, load_sampler(run))
    assert "no such checkpoint" in told("--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
