"""Models as a run leaves them, with weights that make every part matter, without the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from examples.sdgan.config import Config, EncoderOptions, GeneratorOptions
from examples.sdgan.data.vocabulary import Vocabulary
from examples.sdgan.inference.export import write_model
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models.encoders import image_encoder, text_encoder
from examples.sdgan.models.generator import build_generator
from examples.sdgan.models.pretrained_text import PretrainedTextEncoder, revision
from examples.sdgan.presets import preset

VOCABULARY = Vocabulary(["a", "bird", "blue", "large", "red", "small", "wings", "with"])


def small(**generator: Any) -> Config:
    """Two stages, to 16 px."""
    toy = preset("toy")
    options = dataclasses.replace(toy.generator, channels=(4, 4), noise_dim=6, condition_dim=4)
    return dataclasses.replace(
        toy,
        size=16,
        encoder=EncoderOptions(words=7, embedding_dim=6, dim=8, dropout=0.0, image="small"),
        generator=GeneratorOptions(**{**dataclasses.asdict(options), **generator}),
    )


def sampler(config: Config) -> Sampler:
    """Of a model that no training has touched."""
    torch.manual_seed(0)
    options = config.encoder
    if options.text:
        config = dataclasses.replace(config, encoder=dataclasses.replace(options, text_revision=revision(options)))
    text = text_encoder(config.encoder, len(VOCABULARY)).eval()
    generator = build_generator(config).eval()
    for name, parameter in generator.named_parameters():
        if "norm" in name or "upsample" in name:  # the heads start at zero: no word would matter
            torch.nn.init.normal_(parameter, std=0.3)
    words = text.words() if isinstance(text, PretrainedTextEncoder) else VOCABULARY
    return Sampler(config, words, text, generator)


def model(folder: Path, config: Config) -> Path:
    """The same as ``OUT/model``."""
    write_model(folder, sampler(config), image_encoder(config, "random"))
    return folder
