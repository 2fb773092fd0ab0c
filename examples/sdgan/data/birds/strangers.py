"""Captions that the grammar cannot make: other words for what it names, and other sentences around them."""

from __future__ import annotations

import random

from examples.sdgan.data.birds.attributes import ATTRIBUTES

_WORDS = {
    "small": ("miniature", "petite", "minute"),
    "large": ("huge", "enormous", "giant"),
    "short": ("stumpy", "brief"),
    "long": ("lengthy", "elongated"),
    "red": ("crimson", "scarlet", "ruby"),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "olive"),
    "blue": ("azure", "navy", "sapphire"),
    "white": ("snowy", "ivory"),
    "black": ("ebony", "jet"),
    "brown": ("chestnut", "chocolate"),
    "crown": ("forehead", "top of the head"),
    "wing": ("feathers on its sides",),
    "belly": ("stomach", "chest"),
    "beak": ("mandible", "nib"),
}
"""None of them is a word of the grammar's, so a text encoder that was trained on it alone never met one."""
_SENTENCES = (
    "its {part} {be} {value}",
    "look at the {value} {part} of this bird",
    "notice how {value} the {part} {be}",
)
_SIZED = ("it is {value}", "what a {value} bird", "birds as {value} as this are seldom seen")


def reworded(labels: list[int], rng: random.Random, synonyms: bool) -> tuple[str, list[str]]:
    """Describe one bird in one or two sentences of a form that no training caption has.

    Args:
        labels: an index into the values of each attribute, in the order of ``ATTRIBUTES``.
        rng: where the choices come from.
        synonyms: name values and parts by words that no training caption has, too.

    Returns:
        The caption, and the attributes that it names: one or two.
    """
    value = {name: values[label] for (name, values), label in zip(ATTRIBUTES.items(), labels, strict=True)}
    named = rng.sample(list(value), rng.choice((1, 2)))
    return " and ".join(_sentence(name, value[name], rng, synonyms) for name in named), named


def _sentence(name: str, value: str, rng: random.Random, synonyms: bool) -> str:
    def say(word: str) -> str:
        return rng.choice(_WORDS[word]) if synonyms else {"wing": "wings"}.get(word, word)

    form = rng.choice(_SIZED if name == "size" else _SENTENCES)
    return form.format(
        part=say(name) if name != "size" else "", value=say(value), be="are" if name == "wing" else "is"
    )
