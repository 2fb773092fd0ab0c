"""Small generators with the structure of those people have; each with arguments for a call and what to retrofit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import scbn
from examples.attngan.generator import Generator, upsampling
from scbn import TextFeatures
from scbn.retrofitting.binding import Retrofitted

SENTENCE, WORDS, NOISE, CODE = 8, 8, 6, 5


def attngan(stages: int = 3) -> Generator:
    return Generator(2, SENTENCE, WORDS, CODE, NOISE, residual_blocks=1, stages=stages)


class DCGAN(nn.Module):
    """AttnGAN's G_DCGAN: one image, at the end."""

    def __init__(self) -> None:
        super().__init__()
        whole = attngan(2)
        self.ca_net, self.h_net1, self.h_net2, self.img_net = (
            whole.ca_net,
            whole.h_net1,
            whole.h_net2,
            whole.img_net2,
        )

    def forward(self, z_code, sent_emb, word_embs, mask):
        code, mu, logvar = self.ca_net(sent_emb)
        h, attention = self.h_net2(self.h_net1(z_code, code), word_embs, mask)
        return [self.img_net(h)], [attention], mu, logvar


class WithLengths(Generator):
    """DM-GAN's signature: caption lengths too."""

    def forward(self, z_code, sent_emb, word_embs, mask, cap_lens):
        return super().forward(z_code, sent_emb, word_embs, mask)


class WordsStage(nn.Module):
    """ControlGAN and MirrorGAN attend differently and have other names inside, but upsample alike."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WORDS, 2)
        self.upsample = upsampling(4, 2)

    def forward(self, h: Tensor, words: Tensor) -> Tensor:
        context = self.project(words.mean(2))[:, :, None, None].expand_as(h)
        return self.upsample(torch.cat((h, context), 1))


class OtherAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = attngan(1)
        self.ca_net, self.h_net1, self.img_net2 = first.ca_net, first.h_net1, first.img_net1
        self.h_net2 = WordsStage()

    def forward(self, z_code, sent_emb, word_embs, mask=None):
        code, mu, logvar = self.ca_net(sent_emb)
        return [self.img_net2(self.h_net2(self.h_net1(z_code, code), word_embs))], [], mu, logvar


class StackGAN(nn.Module):
    """StackGAN-v2: a sentence and no words, under another name."""

    def __init__(self) -> None:
        super().__init__()
        first = attngan(1)
        self.ca_net, self.h_net1, self.img_net1 = first.ca_net, first.h_net1, first.img_net1

    def forward(self, z_code, text_embedding=None):
        code, mu, logvar = self.ca_net(text_embedding)
        return [self.img_net1(self.h_net1(z_code, code))], mu, logvar


class OwnSyncBN(_BatchNorm):
    """As SSA-GAN brings one: a subclass with a forward of its own."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class SSAGAN(nn.Module):
    """Affine blocks after norms without weights, each norm of the model's own class."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(NOISE, 4 * 16)
        self.block0 = nn.ModuleDict({"bn": OwnSyncBN(4, affine=False), "conv": nn.Conv2d(4, 4, 3, padding=1)})
        self.out = nn.Sequential(OwnSyncBN(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 3, padding=1), nn.Tanh())

    def forward(self, x, c):
        h = self.fc(x).view(-1, 4, 4, 4)
        h = self.block0["conv"](self.block0["bn"](h) * (1 + c[:, :4, None, None]))
        return self.out(nn.functional.interpolate(h, scale_factor=2))


class Volumes(nn.Module):
    """A generator of one's own making, of volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.ConvTranspose3d(NOISE, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 1, 1))

    def forward(self, noise, caption, *, mask):
        return self.net(noise[:, :, None, None, None])


def volume_text(noise: Tensor, caption: Tensor, *, mask: Tensor) -> TextFeatures:
    return TextFeatures(words=caption, padding_mask=mask)


def ssa_text(x: Tensor, c: Tensor) -> TextFeatures:
    return TextFeatures(sentence=c)


def arguments(n: int = 3, t: int = 5) -> dict[str, Tensor]:
    mask = torch.zeros(n, t, dtype=torch.bool)
    mask[1:, t // 2 :] = True
    return {
        "z_code": torch.randn(n, NOISE),
        "sent_emb": torch.randn(n, SENTENCE),
        "word_embs": torch.randn(n, WORDS, t),
        "mask": mask,
    }


def four(n: int = 3, t: int = 5) -> tuple[Tensor, ...]:
    return tuple(arguments(n, t).values())


@dataclass(frozen=True)
class Host:
    """A model, a call and its retrofit."""

    make: Callable[[], nn.Module]
    call: Callable[[], tuple[Any, ...]] = four
    convert: Callable[[nn.Module], scbn.Retrofit] = scbn.retrofit_attngan
    keywords: dict[str, Any] = field(default_factory=dict)
    replaced: int = 6


def _generator() -> nn.Module:
    return attngan()


HOSTS = {
    "AttnGAN G_NET": Host(_generator),
    "AttnGAN G_DCGAN": Host(DCGAN, replaced=5),
    "DM-GAN": Host(
        lambda: WithLengths(2, SENTENCE, WORDS, CODE, NOISE, 1), lambda: (*four(), torch.tensor([5, 2, 2]))
    ),
    "ControlGAN, MirrorGAN": Host(OtherAttention, replaced=5),
    "StackGAN-v2": Host(StackGAN, lambda: four()[:2], replaced=4),
    "SSA-GAN": Host(
        SSAGAN,
        lambda: four()[:2],
        lambda m: scbn.retrofit(m, {"*": "sentence"}, text=ssa_text, sentence_dim=SENTENCE),
        replaced=2,
    ),
    "BatchNorm3d": Host(
        Volumes,
        lambda: (torch.randn(3, NOISE), torch.randn(3, 5, WORDS)),
        lambda m: scbn.retrofit(m, {"net.1": "word"}, text=volume_text, word_dim=WORDS),
        {"mask": arguments()["mask"]},
        replaced=1,
    ),
}


def images(output: Any) -> list[Tensor]:
    """Every image of a call, whatever the model returns."""
    if isinstance(output, Tensor):
        return [output]
    return list(output[0])


def seeded(model: nn.Module, *args, **kwargs):
    """A call with the same noise inside every time."""
    torch.manual_seed(5)
    return images(model(*args, **kwargs))


def wake(model: nn.Module, size: float = 0.3) -> nn.Module:
    """Heads away from zero, so that text matters."""
    torch.manual_seed(11)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, Retrofitted):
                for name, parameter in layer.named_parameters():
                    if not name.startswith("bn."):
                        parameter.add_(torch.randn_like(parameter) * size)
    return model


def awake() -> nn.Module:
    model = attngan()
    scbn.retrofit_attngan(model)
    return wake(model)


def loss(outputs) -> torch.Tensor:
    return sum((image * torch.linspace(-1, 1, image.numel()).view_as(image)).sum() for image in outputs)


def equal(a, b, **tolerance) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **(tolerance or {"rtol": 1e-4, "atol": 1e-5}))


def different(a, b) -> bool:
    return any((x - y).abs().max() > 1e-3 for x, y in zip(a, b, strict=True))
