"""The AttnGAN example: weights in every layout people have, a checkout as it is, and the run from end to end."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers.miniature import shrink
from helpers.retrofits import TINY

from examples.attngan import retrofit
from examples.attngan.adapter import Adapter
from examples.attngan.generator import Generator
from examples.attngan.hosts import HostError, build_host, load_weights
from examples.sdgan.config import Config, EncoderOptions, GeneratorOptions
from examples.sdgan.data import CaptionedImages
from examples.sdgan.metrics.r_precision import r_precision
from scbn import TextFeatures, retrofit_attngan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def small(**kwargs) -> Generator:
    return Generator(2, 8, 8, 5, 6, residual_blocks=1, stages=2, **kwargs)


@pytest.fixture(autouse=True)
def _few_birds(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr, train=64, test=32, measured=2)


def test_names_and_shapes_are_upstreams() -> None:
    state = Generator().state_dict()
    assert len(state) == 97
    for name, shape in {
        "ca_net.fc.weight": (400, 256),
        "h_net1.fc.0.weight": (16384, 200),
        "h_net1.fc.1.running_mean": (16384,),
        "h_net1.upsample1.1.weight": (512, 512, 3, 3),
        "h_net1.upsample4.2.weight": (64,),
        "img_net1.img.0.weight": (3, 32, 3, 3),
        "h_net2.att.conv_context.weight": (32, 256, 1, 1),
        "h_net2.residual.1.block.3.weight": (64, 64, 3, 3),
        "h_net3.residual.0.block.0.weight": (128, 64, 3, 3),
        "h_net3.upsample.1.weight": (64, 64, 3, 3),
        "h_net3.upsample.2.num_batches_tracked": (),
        "img_net3.img.0.weight": (3, 32, 3, 3),
    }.items():
        assert tuple(state[name].shape) == shape, name


@pytest.mark.parametrize("size", [8, 16, 64])
def test_sizes(size: int) -> None:
    model = small(base_size=size)
    images, maps, mu, _ = model(torch.randn(2, 6), torch.randn(2, 8), torch.randn(2, 8, 3), None)
    assert [image.shape[-1] for image in images] == [size, 2 * size]
    assert maps[0].shape == (2, 3, size, size)
    assert mu.shape == (2, 5)
    with pytest.raises(ValueError, match="power of two"):
        small(base_size=24)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"netG": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_load_in_every_layout(wrap, prefix: str, tmp_path: Path) -> None:
    source, target = small(), small()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save(wrap(state), tmp_path / "netG.pth")
    load_weights(target, tmp_path / "netG.pth")
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(a, b)


class Payload:
    """Runs code when unpickled: the test sees whether it did."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoints_that_cannot_be_used(tmp_path: Path) -> None:
    path, ran = tmp_path / "netG.pth", tmp_path / "ran"
    with pytest.raises(HostError, match="no such file"):
        load_weights(small(), path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(HostError, match="broken, or more than weights"):
        load_weights(small(), path)
    torch.save({"weights": Payload(ran)}, path)
    with pytest.raises(HostError, match="broken, or more than weights"):
        load_weights(small(), path)
    path.write_bytes(pickle.dumps(Payload(ran)))
    with pytest.raises(HostError, match="broken, or more than weights"):
        load_weights(small(), path)
    assert not ran.exists()
    torch.save([1, 2], path)
    with pytest.raises(HostError, match="neither a state dict"):
        load_weights(small(), path)
    torch.save(Generator(4, 8, 8, 5, 6, 1, 2).state_dict(), path)
    with pytest.raises(HostError, match=r"does not fit this generator.*--train\.generator"):
        load_weights(small(), path)


def config(size: int = 128) -> Config:
    generator = GeneratorOptions(channels=(2, 2), residual_blocks=1, noise_dim=6, condition_dim=5)
    return Config(size=size, encoder=EncoderOptions(dim=8), generator=generator)


def checkout(folder: Path) -> Path:
    """A stand-in for a clone of AttnGAN: its modules' names, its config object, its class."""
    (folder / "code" / "miscc").mkdir(parents=True)
    (folder / "code" / "miscc" / "__init__.py").touch()
    (folder / "code" / "miscc" / "config.py").write_text(
        "from easydict import EasyDict as edict\n"
        "cfg = edict()\ncfg.CUDA = True\ncfg.TREE = edict()\ncfg.GAN = edict()\ncfg.TEXT = edict()\n"
    )
    (folder / "code" / "model.py").write_text(
        "from miscc.config import cfg\n"
        "from examples.attngan.generator import Generator\n"
        "class G_NET(Generator):\n"
        "    def __init__(self):\n"
        "        assert not cfg.CUDA\n"
        "        d = cfg.TEXT.EMBEDDING_DIM\n"
        "        g = cfg.GAN\n"
        "        super().__init__(g.GF_DIM, d, d, g.CONDITION_DIM, g.Z_DIM, g.R_NUM, cfg.TREE.BRANCH_NUM)\n"
    )
    return folder


def test_a_checkout_is_used_as_it_is(tmp_path: Path) -> None:
    before = list(sys.path)
    host = build_host(config(), checkout(tmp_path))
    assert type(host).__module__ == "model"
    assert sys.path == before
    assert host.state_dict().keys() == small().state_dict().keys()
    assert len(retrofit_attngan(host).replaced) == 5
    with pytest.raises(HostError, match="its first image has 64 px, so 2 stages make 128 px"):
        build_host(config(64), tmp_path)
    with pytest.raises(HostError, match="no checkout of taoxugit/AttnGAN"):
        build_host(config(), tmp_path / "elsewhere")


def test_the_adapter_speaks_the_trainers_language() -> None:
    model = Adapter(small(base_size=8), 5).eval()
    report = retrofit_attngan(model.host)
    text = TextFeatures(torch.randn(3, 8), torch.randn(3, 4, 8), torch.tensor([[False] * 3 + [True]] * 3))
    noise, eps = torch.randn(3, 6), torch.randn(3, 5)
    first, again = model(noise, text), model(noise, text)
    assert torch.equal(first.images[-1], again.images[-1])  # the mean condition
    other = model(noise, text, condition_noise=eps)
    assert not torch.equal(first.images[-1], other.images[-1])
    assert torch.equal(other.images[-1], model(noise, text, condition_noise=eps).images[-1])
    output, maps = model.attention(noise, text)
    assert list(maps) == [norm.name for norm in report.replaced if norm.cue == "word"]
    torch.testing.assert_close(maps["h_net2.upsample.2"].sum(1), torch.ones(3, 16, 16))
    assert maps["h_net2.upsample.2"][:, 3].abs().max() == 0
    assert torch.equal(output.images[-1], first.images[-1])


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 1.0, 1.0), (1e6, 0.0, 0.3)])
def test_r_precision_counts_what_the_network_finds(noise: float, low: float, high: float) -> None:
    captions = [[f"bird {i}"] for i in range(200)]
    vectors = {caption[0]: torch.randn(16) for caption in captions}
    generator = SimpleNamespace(noise_dim=3)
    sampler = SimpleNamespace(
        config=SimpleNamespace(generator=generator),
        images=lambda texts, z: torch.stack([vectors[t] for t in texts]) + noise * torch.randn(len(texts), 16),
        encode=lambda texts: TextFeatures(torch.stack([vectors[t] for t in texts])),
    )

    class Encoder(torch.nn.Linear):
        def forward(self, images):
            return None, images

    data = CaptionedImages("birds", cast(Any, None), captions)
    found = r_precision(sampler, Encoder(1, 1), data, 0, 200)
    assert low <= found["value"] <= high
    assert found["images"] == 200


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--checkpoint", "nowhere.pth"], "no such file"),
        (["--repo", "nowhere"], "no checkout of taoxugit/AttnGAN"),
        (["--before-steps", "0"], "nothing to retrofit"),
        (["--warm-up", "-1"], "must not be negative"),
        (["--train.resume"], "no such checkpoint"),
        (["--train.generator.architecture", "tree"], "architecture must be attngan or attndcgan here"),
        (["--train.generator.norm", "batch"], "without a retrofit; to train one beside it, add --control"),
        (["--train.check"], "--train.check is of examples.sdgan.train"),
        (["--train.steps", "7"], "the steps of fine-tuning are --steps here"),
        (["--pretrained-lr", "-1"], "--pretrained-lr must be a finite number from 0"),
        (["--data", "cub"], "--root"),
    ],
)
def test_bad_options_end_with_status_2(arguments: list[str], told: str, tmp_path: Path, capsys) -> None:
    assert retrofit.main([*TINY, "--out", str(tmp_path), *arguments]) == 2
    assert told in capsys.readouterr().out


def test_channels_that_differ_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        retrofit.main([*TINY, "--out", str(tmp_path), "--train.generator.channels", "2", "4"])
    assert ended.value.code == 2
    assert "same channels in every stage, got (2, 4)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("or use --encoder.image small", "or use --train.encoder.image small"),
        ("--captions-per-image must", "--train.captions-per-image must"),
        ("--data cub needs --root DIR; --steps, --out", "--data cub needs --root DIR; --steps, --out"),
        ("--train.size, --size; a--size", "--train.size, --train.size; a--size"),
        ("--checkpoint x, --warm-up", "--checkpoint x, --warm-up"),
    ],
)
def test_options_are_named_as_this_command_spells_them(message: str, told: str) -> None:
    assert retrofit._as_spelled_here(message) == told
