"""The settings to begin with for each data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from examples.sdgan.config import (
    Config,
    Data,
    DiscriminatorOptions,
    EncoderOptions,
    GeneratorOptions,
    SiameseOptions,
)

SMALL = 128
"""Pixels up to which images of one's own are trained with the recipe of a small machine."""


def preset(data: Data, size: int | None = None) -> Config:
    """The settings for a data set: AttnGAN's and the paper's for cub and coco, a fast recipe for the toy birds.

    Images of one's own get that recipe up to 128 px (64 by default), and AttnGAN's beyond.
    """
    if data == "folder":
        size = size or 64
        if size > SMALL:
            return Config(data="folder", out=Path("runs/folder"), size=size)
        # Photographs have more to learn than drawn birds, and longer captions.
        small = preset("toy")
        encoder = dataclasses.replace(small.encoder, words=18, dropout=0.3, lr=2e-3)
        common: dict[str, Any] = {"data": "folder", "out": Path("runs/folder"), "size": size, "encoder": encoder}
        return dataclasses.replace(small, steps=1000, encoder_steps=800, batch_size=12, damsm_weight=2.0, **common)
    if data == "cub":
        return Config(data="cub", out=Path("runs/cub"))
    if data == "coco":
        return Config(
            data="coco",
            out=Path("runs/coco"),
            steps=700_000,
            batch_size=14,
            damsm_weight=50.0,
            encoder=EncoderOptions(words=12),
            generator=GeneratorOptions(channels=(48, 48, 48), residual_blocks=3),
            discriminator=DiscriminatorOptions(channels=96, max_channels=3072, head_channels=768),
        )
    if data == "birds-hard":
        return dataclasses.replace(preset("toy"), data=data, out=Path("runs/birds-hard"), steps=2000)
    return Config(
        data="toy",
        out=Path("runs/toy"),
        steps=800,
        encoder_steps=900,
        batch_size=24,
        size=64,
        checkpoint_every=200,
        workers=0,
        damsm_weight=1.0,
        encoder=EncoderOptions(
            words=27,
            embedding_dim=64,
            dim=128,
            dropout=0.0,
            batch_size=32,
            lr=4e-3,
            text_clip=1.0,
        ),
        generator=GeneratorOptions(
            channels=(64, 32, 16),
            residual_blocks=1,
            activation="leaky_relu",
            noise_dim=32,
            condition_dim=32,
            lr=5e-4,
            betas=(0.0, 0.9),
            ema=0.99,
        ),
        discriminator=DiscriminatorOptions(
            channels=32,
            max_channels=128,
            norm="spectral",
            condition="projection",
            loss="hinge",
            lr=1e-3,
            betas=(0.0, 0.9),
        ),
        siamese=SiameseOptions(weight=0.5),
    )
