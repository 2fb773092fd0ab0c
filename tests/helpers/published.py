"""Small models with the names, shapes and outputs of AttnGAN's published classes, and a folder as its README makes it."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from helpers.files import picture
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from examples.attngan.generator import Generator

WORDS = dict(enumerate(["<end>", "a", "red", "bird", "blue", "small", "wing", "with", "green", "beak"]))
CAPTIONS = [
    "a red bird",
    "a small blue bird",
    "a bird with a green beak",
    "a blue bird with a red wing",
    "a small bird",
]


class PublishedTextEncoder(nn.Module):
    """``RNN_ENCODER``: called with sorted lengths; words come as (N, D, T)."""

    def __init__(self, words: int, embedding: int, dim: int, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.encoder = nn.Embedding(words, embedding)
        self.drop = nn.Dropout(0.5)
        self.rnn = kind(embedding, dim // 2, num_layers=1, batch_first=True, bidirectional=True)

    def forward(self, captions: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(self.drop(self.encoder(captions)), lengths, batch_first=True)
        output, hidden = self.rnn(packed)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        words = pad_packed_sequence(output, batch_first=True)[0]
        return words.transpose(1, 2), hidden.transpose(0, 1).reshape(len(captions), -1)


class PublishedImageEncoder(nn.Module):
    """``CNN_ENCODER``: the layers of Inception v3 without what follows, and two projections."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        inception = inception_v3(weights=None, init_weights=False, transform_input=False)
        for name, child in inception.named_children():
            if name.startswith(("Conv2d", "Mixed")):
                self.add_module(name, child)
        self.emb_features = nn.Conv2d(768, dim, 1, bias=False)
        self.emb_cnn_code = nn.Linear(2048, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, regions = nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False), None
        for name, child in self.named_children():
            if name.startswith("emb"):
                break
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = nn.functional.max_pool2d(x, 3, 2)
            x = child(x)
            if name == "Mixed_6e":
                regions = x
        assert regions is not None
        return self.emb_features(regions), self.emb_cnn_code(x.mean((2, 3)))


class PublishedDiscriminator(nn.Module):
    """``D_NET64``, ``D_NET128`` or ``D_NET256``; logits end in a sigmoid."""

    def __init__(self, stage: int, channels: int, dim: int, unconditional: bool = True) -> None:
        super().__init__()
        act = nn.LeakyReLU(0.2)
        c = channels

        def conv(before: int, after: int, kernel: int = 4, stride: int = 2) -> list[nn.Module]:
            return [nn.Conv2d(before, after, kernel, stride, 1, bias=False), nn.BatchNorm2d(after), act]

        first = [nn.Conv2d(3, c, 4, 2, 1, bias=False), act]
        self.img_code_s16 = nn.Sequential(*first, *conv(c, 2 * c), *conv(2 * c, 4 * c), *conv(4 * c, 8 * c))
        if stage == 1:
            self.img_code_s32 = nn.Sequential(*conv(8 * c, 16 * c))
            self.img_code_s32_1 = nn.Sequential(*conv(16 * c, 8 * c, 3, 1))
        if stage == 2:
            self.img_code_s32 = nn.Sequential(*conv(8 * c, 16 * c))
            self.img_code_s64 = nn.Sequential(*conv(16 * c, 32 * c))
            self.img_code_s64_1 = nn.Sequential(*conv(32 * c, 16 * c, 3, 1))
            self.img_code_s64_2 = nn.Sequential(*conv(16 * c, 8 * c, 3, 1))
        self.UNCOND_DNET, self.COND_DNET = nn.Module(), nn.Module()
        self.COND_DNET.jointConv = nn.Sequential(*conv(8 * c + dim, 8 * c, 3, 1))
        for head in (self.UNCOND_DNET, self.COND_DNET) if unconditional else (self.COND_DNET,):
            head.outlogits = nn.Sequential(nn.Conv2d(8 * c, 1, 4, 4), nn.Sigmoid())

    def forward(self, x: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
        for name, child in self.named_children():
            if name.startswith("img_code"):
                x = child(x)
        condition = sentence[:, :, None, None].expand(-1, -1, 4, 4)
        joint = self.COND_DNET.jointConv(torch.cat((x, condition), 1))
        return self.UNCOND_DNET.outlogits(x).flatten(), self.COND_DNET.outlogits(joint).flatten()


def write_folder(
    root: Path, dim: int = 8, stages: int = 2, channels: int = 2, single: bool = False, kind: str = "bird"
) -> Path:
    """A folder of birds at 128 px, or 64 px for one stage, with small models as they are when they are made.

    ``single``: of AttnDCGAN, with one image and one discriminator without its unconditional head.
    """
    torch.manual_seed(3)
    models, encoders, data = (
        root / "models",
        root / "DAMSMencoders" / kind,
        root / "data" / {"bird": "birds", "coco": "coco"}[kind],
    )
    for folder in (models, encoders, data):
        folder.mkdir(parents=True)
    generator = Generator(channels, dim, dim, 5, 6, residual_blocks=1, stages=stages, single=single)
    torch.save(generator.state_dict(), models / f"{kind}_{'AttnDCGAN' if single else 'AttnGAN'}2.pth")
    for i, stage in enumerate([stages - 1] if single else range(stages)):
        torch.save(PublishedDiscriminator(stage, 2, dim, not single).state_dict(), models / f"netD{i}.pth")
    torch.save(PublishedTextEncoder(len(WORDS), 4, dim).state_dict(), encoders / "text_encoder200.pth")
    torch.save(PublishedTextEncoder(len(WORDS), 4, dim).state_dict(), encoders / "text_encoder50.pth")
    torch.save(PublishedImageEncoder(dim).state_dict(), encoders / "image_encoder200.pth")
    numbers = {word: number for number, word in WORDS.items()}
    told: list[list[list[int]]] = []
    for split, count in (("train", 6), ("test", 4)):
        names = [f"00{i % 2 + 1}.{split}/bird{i}" for i in range(count)]
        if kind == "coco":
            names = [f"COCO_{split}2014_{i:012}" for i in range(count)]
        for i, name in enumerate(names):
            images = data / "images" if kind == "coco" else data / "CUB_200_2011" / "images"
            picture(images / f"{name}.jpg", (30 * i, 90, 200 - 20 * i))
        (data / split).mkdir()
        (data / split / "filenames.pickle").write_bytes(pickle.dumps(names, 2))
        each = 5 if kind == "coco" else 10
        told.append(
            [[numbers[w] for w in CAPTIONS[(i + k) % 5].split()] for i in range(count) for k in range(each)]
        )
    (data / "captions.pickle").write_bytes(pickle.dumps([*told, WORDS, numbers], 2))
    return root
