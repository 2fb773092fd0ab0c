"""From captions to images with a trained generator, and nothing else of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.attngan.adapter import Adapter
from examples.sdgan.config import Config, from_json
from examples.sdgan.data.pairs import pad
from examples.sdgan.data.vocabulary import Vocabulary
from examples.sdgan.models import checkpoint
from examples.sdgan.models.encoders import AnyTextEncoder, text_encoder
from examples.sdgan.models.generator import build_generator
from examples.sdgan.models.pretrained_text import PretrainedTextEncoder, PretrainedWords, TextModelError, revision
from scbn import TextFeatures, TreeGenerator

_BATCH = 64


@dataclass(frozen=True)
class Sampler:
    """A generator in eval mode with the text encoder and the vocabulary it is conditioned through."""

    config: Config
    vocabulary: Vocabulary | PretrainedWords
    text: AnyTextEncoder
    generator: TreeGenerator | Adapter

    @classmethod
    def load(cls, path: Path) -> Sampler:
        """From a checkpoint of a run that has trained its generator.

        Raises:
            checkpoint.CheckpointError: the file is missing, broken, foreign, or holds no generator yet.
        """
        state = checkpoint.load(path)
        if "ema" not in state:
            raise checkpoint.CheckpointError(
                f"{path}: its run has trained encoders only, no generator yet; continue it with --resume"
            )
        # Of a retrofit, the model before it is another than the options' own.
        config = from_json(state.get("ema_config", state["config"]))
        vocabulary = Vocabulary(state["vocabulary"], state.get("published_vocabulary", False))
        return cls.of(path, state, config, vocabulary)

    @classmethod
    def of(cls, path: Path, state: dict[str, Any], config: Config, vocabulary: Vocabulary) -> Sampler:
        """From the weights of a text encoder, ``text``, and of a generator, ``ema``.

        Raises:
            checkpoint.CheckpointError: they do not fit the options, or the text model they are for cannot be had.
        """
        check_fit(path, state, config, len(vocabulary))
        try:
            text = text_encoder(config.encoder, len(vocabulary))
        except TextModelError as error:
            raise checkpoint.CheckpointError(f"{path}: {error}") from error
        text.load_state_dict(state["text"])
        generator = build_generator(config)
        generator.load_state_dict(state["ema"])
        words = text.words() if isinstance(text, PretrainedTextEncoder) else vocabulary
        return cls(config, words, text.eval(), generator.eval())

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that the encoder never saw."""
        return [word for word in self.vocabulary.tokenize(caption) if word not in self.vocabulary]

    def tokens(self, captions: list[str]) -> Tensor:
        """Word indices (N, T), 0 = padding; words beyond the longest caption that training allowed are cut off."""
        return pad([self.vocabulary.encode(caption) for caption in captions], self.config.encoder.words)

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextFeatures:
        """Text features of :meth:`tokens`."""
        return self.text(self.tokens(captions).to(next(self.text.parameters()).device))

    @torch.no_grad()
    def images(self, captions: list[str], noise: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1], of the last stage, one for each caption and row of noise."""
        parts = []
        for start in range(0, len(captions), _BATCH):
            text = self.encode(captions[start : start + _BATCH])
            part = noise[start : start + _BATCH].to(text.sentence.device)  # pyright: ignore[reportOptionalMemberAccess]
            parts.append(self.generator(part, text).images[-1].float().cpu())
        return torch.cat(parts)

    def attention(self, captions: list[str], noise: Tensor) -> tuple[Tensor, dict[str, Tensor], list[list[str]]]:
        """Images, the word maps of every layer that has them, and the words the maps are of."""
        text = self.encode(captions)
        output, maps = self.generator.attention(noise.to(text.sentence.device), text)  # pyright: ignore[reportOptionalMemberAccess]
        words = [self.vocabulary.split(caption)[: self.config.encoder.words] for caption in captions]
        return output.images[-1].float().cpu(), {name: m.cpu() for name, m in maps.items()}, words


def check_fit(path: Path, state: dict[str, Any], config: Config, words: int) -> None:
    """Compare with modules that hold no memory: options can ask for more than any machine has."""
    options = config.generator
    try:
        if config.encoder.text and config.encoder.text_revision not in ("", found := revision(config.encoder)):
            raise ValueError(
                f"--encoder.text {config.encoder.text} is revision {found}, the run learnt with {config.encoder.text_revision}"
            )
        if options.residual_blocks * len(options.channels) > len(state["ema"]):
            raise ValueError(f"{options.residual_blocks} residual blocks, and weights of fewer")
        with torch.device("meta"):
            modules = {"text": text_encoder(config.encoder, words, True), "ema": build_generator(config)}
        for part, module in modules.items():
            expected, given = module.state_dict(), state[part]
            odd = sorted(expected.keys() ^ given.keys(), key=str)
            if odd:
                raise ValueError(f"{part}: {odd[0]!r} is {'missing' if odd[0] in expected else 'unknown'}")
            for name, value in expected.items():
                if (value.shape, value.dtype) != (given[name].shape, given[name].dtype):
                    raise ValueError(
                        f"{part}: {name} is {tuple(given[name].shape)} {given[name].dtype}, "
                        f"must be {tuple(value.shape)} {value.dtype}"
                    )
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise checkpoint.CheckpointError(f"{path}: its weights do not fit its options ({error})") from error
