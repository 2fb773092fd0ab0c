"""Ten captions for a bird, in the manner of CUB's: lower case, no punctuation, each naming some attributes."""

from __future__ import annotations

import random

from examples.sdgan.data.birds.attributes import ATTRIBUTES

_WORDS = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big"),
    "short": ("short", "stubby"),
    "long": ("long", "pointy"),
    "crown": ("crown", "cap"),
    "wing": ("wings",),
    "belly": ("belly", "breast"),
    "beak": ("beak", "bill"),
}
_OPENINGS = ("this bird has", "the bird has", "a bird with", "this is a bird with", "bird with")
_SIZED = ("this {} bird has", "a {} bird with", "this is a {} bird with", "a very {} bird that has")
_JOINTS = (" and ", " with ", " and ", " as well as ")


def describe(labels: list[int], rng: random.Random, captions: int = 10) -> tuple[list[str], list[list[str]]]:
    """Describe one bird.

    Args:
        labels: an index into the values of each attribute, in the order of ``ATTRIBUTES``.
        rng: where the choices come from.
        captions: how many.

    Returns:
        The captions, and for each the attributes it names. Each names one to four, colours mostly.
    """
    value = {name: values[label] for (name, values), label in zip(ATTRIBUTES.items(), labels, strict=True)}
    drawn = [_caption(value, rng) for _ in range(captions)]
    return [text for text, _ in drawn], [named for _, named in drawn]


def _caption(value: dict[str, str], rng: random.Random) -> tuple[str, list[str]]:
    count = rng.choices((1, 2, 3, 4), (1, 4, 4, 2))[0]
    named = rng.sample(list(value), count)
    parts = [name for name in named if name != "size"]
    sized = "size" in named
    if not parts:
        return (
            f"{rng.choice(('this bird is', 'the bird is', 'this is a bird that is'))} {_say(value['size'], rng)}",
            named,
        )
    opening = rng.choice(_SIZED).format(_say(value["size"], rng)) if sized else rng.choice(_OPENINGS)
    phrases = [_phrase(part, value[part], rng) for part in parts]
    text = f"{opening} {phrases[0]}"
    for i, phrase in enumerate(phrases[1:], 2):
        text += (" and " if i == len(phrases) and rng.random() < 0.6 else rng.choice(_JOINTS)) + phrase
    return text, named


def _phrase(part: str, value: str, rng: random.Random) -> str:
    noun, adjective = _say(part, rng), _say(value, rng)
    article = "" if part == "wing" else "a "
    if part != "beak" and rng.random() < 0.2:
        return f"{article}{noun} that {'are' if part == 'wing' else 'is'} {adjective}"
    return f"{article}{adjective} {noun}"


def _say(word: str, rng: random.Random) -> str:
    return rng.choice(_WORDS.get(word, (word,)))
