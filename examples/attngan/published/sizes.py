"""Sizes: what the weights of an AttnGAN say about the options that they were trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from examples.attngan.published.names import PublishedError
from examples.sdgan.models.weights import WeightsError, read_weights, tensors_named

Sizes = dict[str, Any]
"""From the name of a trainer's option (``generator.channels``) to its value."""


@dataclass(frozen=True)
class _File:
    option: str
    path: Path
    tensors: Mapping[str, Tensor]

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.tensors:
            known = ", ".join(repr(key) for key in list(self.tensors)[:3])
            raise PublishedError(
                f"{self.option} {self.path}: has no {name!r}, so it is not AttnGAN's; it holds {known} ..."
            )
        return tuple(self.tensors[name].shape)

    def count(self, pattern: str) -> int:
        return len({m[1] for name in self.tensors if (m := re.match(pattern, name))})


def _read(option: str, path: Path, name: str) -> _File:
    if not path.is_file():
        raise PublishedError(f"{option} {path}: no such file")
    try:
        return _File(option, path, tensors_named(read_weights(path), name))
    except WeightsError as error:
        raise PublishedError(f"{option} {path}: {error}") from error


def of_generator(path: Path, option: str = "--checkpoint") -> Sizes:
    """Channels, stages, residual blocks, noise, condition, text and image size of ``G_NET`` or ``G_DCGAN``."""
    file = _read(option, path, "ca_net.fc.weight")
    condition, dim = file.shape("ca_net.fc.weight")
    condition //= 4
    stages, single = file.count(r"h_net(\d+)\."), "img_net.img.0.weight" in file.tensors
    channels = file.shape("img_net.img.0.weight" if single else "img_net1.img.0.weight")[1]
    base = 4 << file.count(r"h_net1\.(upsample\d+)\.")
    sizes: Sizes = {
        "generator.architecture": "attndcgan" if single else "attngan",
        "generator.channels": (channels,) * stages,
        "generator.condition_dim": condition,
        "generator.noise_dim": file.shape("h_net1.fc.0.weight")[1] - condition,
        "encoder.dim": dim,
        "size": base << (stages - 1),
    }
    if stages > 1:
        sizes["generator.residual_blocks"] = file.count(r"h_net2\.residual\.(\d+)\.")
    return sizes


def of_text_encoder(path: Path, option: str = "--text-encoder") -> tuple[Sizes, int]:
    """Sizes of ``RNN_ENCODER``, and of its vocabulary."""
    file = _read(option, path, "rnn.weight_hh_l0")
    words, embedding = file.shape("encoder.weight")
    gates, hidden = file.shape("rnn.weight_hh_l0")
    if gates not in (3 * hidden, 4 * hidden):
        raise PublishedError(f"{option} {path}: its rnn is no LSTM and no GRU ({gates} x {hidden})")
    if "rnn.weight_hh_l0_reverse" not in file.tensors or "rnn.weight_hh_l1" in file.tensors:
        raise PublishedError(f"{option} {path}: its rnn must have one layer and two directions, as AttnGAN's")
    rnn = "lstm" if gates == 4 * hidden else "gru"
    return {"encoder.embedding_dim": embedding, "encoder.dim": 2 * hidden, "encoder.rnn": rnn}, words


def of_image_encoder(path: Path, option: str = "--image-encoder") -> Sizes:
    """Sizes of ``CNN_ENCODER``."""
    file = _read(option, path, "emb_features.weight")
    return {"encoder.dim": file.shape("emb_features.weight")[0], "encoder.image": "inception"}


def of_discriminator(path: Path, option: str = "--discriminators") -> Sizes:
    """Sizes of a discriminator, ``D_NET64`` to ``D_NET256``."""
    file = _read(option, path, "img_code_s16.0.weight")
    channels = file.shape("img_code_s16.0.weight")[0]
    head = file.shape("COND_DNET.jointConv.0.weight")
    return {
        "discriminator.channels": channels,
        "discriminator.max_channels": 32 * channels,
        "discriminator.head_channels": 8 * channels,
        "discriminator.norm": "batch",
        "discriminator.condition": "concat",
        "discriminator.loss": "bce",
        "encoder.dim": head[1] - head[0],
    }


def has_unconditional(path: Path, option: str = "--discriminators") -> bool:
    """Whether a discriminator also judges images without their caption, which AttnDCGAN's does not."""
    return "UNCOND_DNET.outlogits.0.weight" in _read(option, path, "img_code_s16.0.weight").tensors


def merged(found: Mapping[str, Sizes]) -> Sizes:
    """The sizes of all files, by what each is called; raises where two of them differ."""
    together: dict[str, tuple[Any, str]] = {}
    for what, sizes in found.items():
        for name, value in sizes.items():
            before = together.setdefault(name, (value, what))
            if before[0] != value:
                raise PublishedError(
                    f"{what} and {before[1]} do not belong together: {name} is {value} in the one and {before[0]} in the "
                    "other"
                )
    return {name: value for name, (value, _) in together.items()}
