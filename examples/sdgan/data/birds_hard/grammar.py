"""Captions for them: any few of the attributes, in synonyms, and in sentences of several forms."""

from __future__ import annotations

import random

from examples.sdgan.data.birds_hard.attributes import ATTRIBUTES

_WORDS = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "red": ("red", "crimson", "scarlet"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "white": ("white", "snowy"),
    "black": ("black", "jet black"),
    "brown": ("brown", "chestnut"),
    "plain": ("plain", "unmarked"),
    "striped": ("striped", "barred"),
    "spotted": ("spotted", "speckled"),
    "short": ("short", "stubby"),
    "long": ("long", "lengthy"),
    "crown": ("crown", "cap"),
    "throat": ("throat", "face"),
    "belly": ("belly", "breast"),
    "wing": ("wings",),
    "tail": ("tail",),
    "beak": ("beak", "bill"),
    "legs": ("legs", "feet"),
    "upright": ("sitting upright", "sitting up"),
    "bent": ("leaning forward", "bending forward"),
    "branch": ("on a branch", "on a twig"),
    "rock": ("on a rock", "on a stone"),
    "grass": ("in the grass", "in a meadow"),
    "sky": ("under a clear sky", "before the sky"),
    "forest": ("in front of a forest", "before dark trees"),
    "sunset": ("at sunset", "in the evening light"),
}
_OF_A_PART = {
    "crown": ("crown",),
    "throat": ("throat",),
    "wing": ("wing pattern", "wing"),
    "belly": ("belly pattern", "belly"),
    "tail": ("tail length", "tail"),
    "beak": ("beak",),
    "legs": ("legs",),
}
"""The attributes that say something of a part, in the order of their adjectives."""
_PLURAL = ("wing", "legs")
_WHOLE = ("crown", "wing", "belly")
"""A bird "is blue" whose crown, wings and belly are."""
_AROUND = ("posture", "perch", "background")


def describe(labels: list[int], rng: random.Random, captions: int = 10) -> tuple[list[str], list[list[str]]]:
    """Describe one bird.

    Args:
        labels: an index into the values of each attribute, in the order of ``ATTRIBUTES``.
        rng: where the choices come from.
        captions: how many.

    Returns:
        The captions, and for each the attributes it names: two to six.
    """
    value = {name: values[label] for (name, values), label in zip(ATTRIBUTES.items(), labels, strict=True)}
    drawn = [_caption(value, rng) for _ in range(captions)]
    return [text for text, _ in drawn], [named for _, named in drawn]


def _caption(value: dict[str, str], rng: random.Random) -> tuple[str, list[str]]:
    named = set(rng.sample(list(value), rng.randint(2, 5)))
    said = [name for name in _WHOLE if name in named]
    whole = said and len({value[name] for name in _WHOLE}) == 1 and rng.random() < 0.7
    if whole:
        named |= set(_WHOLE)
    phrases = [
        _phrase(part, [(name, value[name]) for name in of if name in named], rng)
        for part, of in _OF_A_PART.items()
        if named & {*of} and not (whole and {*of} & named <= {*_WHOLE})
    ]
    rng.shuffle(phrases)
    size = _say(value["size"], rng) if "size" in named else ""
    colour = _say(value["crown"], rng) if whole else ""
    around = [_say(value[name], rng) for name in _AROUND if name in named]
    return _sentence(" ".join(filter(None, (size, colour))), phrases, around, rng), sorted(
        named, key=list(value).index
    )


def _sentence(adjectives: str, phrases: list[str], around: list[str], rng: random.Random) -> str:
    parts = " and ".join((", ".join(phrases[:-1]), phrases[-1])) if len(phrases) > 1 else "".join(phrases)
    parts = parts.replace(",", "") if rng.random() < 0.5 else parts
    bird = f"{adjectives} bird".strip()
    place = " ".join(around)
    forms = [f"a {bird}{f' with {parts}' if parts else ''}{f' {place}' if place else ''}"]
    if parts:
        forms += [f"this {bird} has {parts}{f' and is {place}' if place else ''}"]
        forms += [f"{place} there is a {bird} with {parts}"] if place else [f"look at this {bird} with {parts}"]
    elif adjectives:
        forms += [f"the bird is {adjectives}{f' and {place}' if place else ''}"]
    else:
        forms += [f"the bird is {place}"]
    return rng.choice(forms)


def _phrase(part: str, values: list[tuple[str, str]], rng: random.Random) -> str:
    """ "a long blue tail", "striped wings", "a belly that is white"; of a part's attributes those that are named."""
    words = [_say(value, rng) for _, value in values]
    noun, article = _say(part, rng), "" if part in _PLURAL else "a "
    if rng.random() < 0.2:
        return f"{article}{noun} that {'are' if part in _PLURAL else 'is'} {' and '.join(words)}"
    return f"{article}{' '.join(words)} {noun}"


def _say(word: str, rng: random.Random) -> str:
    return rng.choice(_WORDS.get(word, (word,)))
