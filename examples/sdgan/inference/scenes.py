"""What the page shows: images of a caption with their word maps, between two captions, and with one word swapped."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.data.vocabulary import Vocabulary
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.plots.samples import finest
from scbn import TextFeatures


class SceneError(ValueError):
    """There is nothing to draw; the message is for whoever typed the caption."""


@dataclass(frozen=True)
class Scene:
    """Images (N, 3, S, S) of one caption, its words, and where the finest layer attends to each: (N, T, H, W) or None."""

    images: Tensor
    words: list[str]
    maps: Tensor | None
    note: str = ""


def scene(sampler: Sampler, caption: str, count: int, seed: int) -> Scene:
    """Images of one caption from ``count`` noises.

    Raises:
        SceneError: the model knows no word of it.
    """
    note = check(sampler, caption)
    images, maps, words = sampler.attention([caption] * count, _noise(sampler, count, seed))
    found = finest(maps)
    return Scene(images, words[0], None if found is None else found[1], note)


def between(sampler: Sampler, first: str, second: str, share: float, count: int, seed: int) -> Tensor:
    """Images (N, 3, S, S) of a text between two captions: 0 is the first, 1 the second.

    Sentences are mixed, and words place by place; what the longer caption has more belongs to the text from half-way on.

    Raises:
        SceneError: the model knows no word of one of them.
    """
    for caption in (first, second):
        check(sampler, caption)
    text = mixed(sampler.encode([first]), sampler.encode([second]), share)
    noise = _noise(sampler, count, seed).to(text.sentence.device)  # pyright: ignore[reportOptionalMemberAccess]
    with torch.no_grad():
        return sampler.generator(noise, _repeated(text, count)).images[-1].float().cpu()


def mixed(first: TextFeatures, second: TextFeatures, share: float) -> TextFeatures:
    """Text of one caption each, mixed; exactly the one or the other at 0 and 1."""
    a, b = first.padding_mask, second.padding_mask
    assert first.sentence is not None and second.sentence is not None and a is not None and b is not None
    assert first.words is not None and second.words is not None
    both = torch.lerp(first.words, second.words, share)
    words = torch.where((a | b)[:, :, None], first.words if share < 0.5 else second.words, both)
    return TextFeatures(torch.lerp(first.sentence, second.sentence, share), words, a if share < 0.5 else b)


def swapped(
    sampler: Sampler, caption: str, word: str, others: list[str], count: int, seed: int
) -> list[tuple[str, Tensor]]:
    """For the caption and for each of some words in the place of one of its own: the caption, and images.

    Raises:
        SceneError: the caption does not have the word, or the model knows none of its words.
    """
    pattern = re.compile(rf"(?<!\w){re.escape(word.strip())}(?!\w)", re.IGNORECASE)
    if not word.strip() or not pattern.search(caption):
        raise SceneError(f"“{word.strip()}” is not a word of “{caption}”")
    swaps = (pattern.sub(lambda found, other=other: other, caption, count=1) for other in others)
    captions = list(dict.fromkeys([caption, *swaps]))
    for each in captions:
        check(sampler, each)
    noise = _noise(sampler, count, seed)
    # One caption at a time: AttnGAN's mask mixes captions of different length in a batch.
    return [(each, sampler.images([each] * count, noise)) for each in captions]


def check(sampler: Sampler, caption: str) -> str:
    """What to tell about a caption: words that are unknown, or beyond the longest that is read; nothing if all is well.

    Raises:
        SceneError: no word is known.
    """
    words = sampler.vocabulary.tokenize(caption)
    unknown = sampler.unknown(caption)
    if not re.search(r"\w", caption):
        raise SceneError("Type a caption: a sentence that says what to draw.")
    if len(unknown) == len(words):
        known = ", ".join(known_words(sampler)[:30])
        raise SceneError(f"This model knows no word of “{caption}”. It knows, for example: {known}")
    told = []
    if unknown:
        how = "left out" if sampler.vocabulary.published else "read as “unknown”"
        told.append(f"Words that this model never saw, {how}: {', '.join(dict.fromkeys(unknown))}")
    read, most = sampler.vocabulary.split(caption), sampler.config.encoder.words
    cut = len(read) > most or (not isinstance(sampler.vocabulary, Vocabulary) and len(words) > len(read))
    if cut:
        told.append(f"Only the first {most} words are read")
    return ". ".join(told)


def notes(sampler: Sampler, captions: list[str]) -> str:
    """What to tell about several captions, each thing once."""
    return ". ".join(dict.fromkeys(note for caption in captions if (note := check(sampler, caption))))


def known_words(sampler: Sampler) -> list[str]:
    """Words of a model, for example: the vocabulary's, or whole words of its tokenizer."""
    if isinstance(sampler.vocabulary, Vocabulary):
        return sampler.vocabulary.known
    return [word for word in sampler.vocabulary.words if word.isalpha() and len(word) > 3]


def _noise(sampler: Sampler, count: int, seed: int) -> Tensor:
    return fixed_noise(count, sampler.config.generator.noise_dim, seed)


def _repeated(text: TextFeatures, count: int) -> TextFeatures:
    return TextFeatures(*(None if part is None else part.expand(count, *part.shape[1:]) for part in text))
