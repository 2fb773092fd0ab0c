"""The embedded birds: deterministic, correlated, and truthfully described."""

from __future__ import annotations

import random
import time

import torch

from examples.sdgan.data.birds import ATTRIBUTES, Birds, describe, draw, reworded, sample_birds, strangers
from examples.sdgan.data.birds.attributes import COLOURS
from examples.sdgan.data.birds.drawing import RGB
from examples.sdgan.data.birds.grammar import _WORDS
from examples.sdgan.data.toy import birds
from examples.sdgan.data.vocabulary import tokenize


def test_the_same_seed_gives_the_same_birds() -> None:
    first, again, other = sample_birds(50, 3), sample_birds(50, 3), sample_birds(50, 4)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    assert torch.equal(draw(first, 32, 1), draw(again, 32, 1))
    assert not torch.equal(draw(first, 32, 1), draw(first, 32, 2))


def test_a_picture_does_not_depend_on_how_many_are_drawn_at_once() -> None:
    flock = sample_birds(300, 5)
    assert torch.equal(draw(flock, 16, 0)[:10], draw(Birds(flock.labels[:10], flock.species[:10]), 16, 0))


def test_attributes_of_a_species_go_together() -> None:
    flock = sample_birds(6000, 1)
    for i, values in enumerate(ATTRIBUTES.values()):
        assert flock.labels[:, i].min() == 0
        assert flock.labels[:, i].max() == len(values) - 1
        modes = torch.stack([flock.labels[flock.species == s, i].mode().values for s in range(60)])
        agree = (flock.labels[:, i] == modes[flock.species]).double().mean()
        # 0.85 keep their species' value, the others hit it by chance.
        expected = 0.85 + 0.15 / len(values)
        assert abs(agree - expected) < 0.03


def test_colours_are_where_the_labels_say() -> None:
    """The belly's colour fills most of a large bird's middle."""
    flock = sample_birds(400, 2)
    images = draw(flock, 64, 0).double() / 255
    palette = torch.tensor([RGB[name] for name in COLOURS], dtype=torch.float64)
    belly, wing = list(ATTRIBUTES).index("belly"), list(ATTRIBUTES).index("wing")
    plain = (flock.labels[:, 0] == 1) & (flock.labels[:, belly] == flock.labels[:, wing])
    assert plain.sum() > 10
    middle = images[plain][:, :, 30:42, 26:38].mean((2, 3))
    nearest = (middle[:, None] - palette).norm(dim=2).argmin(1)
    assert (nearest == flock.labels[plain, belly]).double().mean() > 0.95


def test_large_birds_are_larger() -> None:
    labels = torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    small, large = draw(Birds(labels, torch.zeros(2)), 64, 0).double() / 255
    red = [((image[0] > 0.7) & (image[1] < 0.3)).sum() for image in (small, large)]
    assert red[1] > 1.5 * red[0]


def test_captions_name_what_is_there_and_nothing_else() -> None:
    names = list(ATTRIBUTES)
    nouns = {word: name for name in names if name != "size" for word in _WORDS[name]}
    adjectives = {word: value for value, words in _WORDS.items() for word in words if value not in names}
    rng = random.Random(0)
    seen = set()
    for labels in sample_birds(200, 7).labels.tolist():
        value = {name: values[label] for (name, values), label in zip(ATTRIBUTES.items(), labels, strict=True)}
        texts, named = describe(labels, rng)
        assert len(texts) == len(named) == 10
        for text, attributes in zip(texts, named, strict=True):
            words = tokenize(text)
            assert text == " ".join(words)
            assert {nouns[word] for word in words if word in nouns} == set(attributes) - {"size"}
            said = [adjectives.get(word, word) for word in words]
            assert sorted(w for w in said if w in {*COLOURS, "small", "large", "short", "long"}) == sorted(
                value[name] for name in attributes
            )
            assert 1 <= len(attributes) <= 4
            seen.add(text)
    assert len(seen) > 1000  # varying words and order


def test_the_readmes_caption_is_of_the_grammar() -> None:
    known = {
        word for captions in birds("train", 16, 300).captions for caption in captions for word in tokenize(caption)
    }
    assert set(tokenize("a small bird with a red crown and blue wings")) <= known


def test_drawing_is_never_the_bottleneck() -> None:
    flock = sample_birds(512, 1)
    began = time.process_time()
    draw(flock, 64, 0)
    assert 512 / (time.process_time() - began) > 100  # images a second and core; training takes far fewer


def test_reworded_captions_are_none_of_the_grammar() -> None:
    rng = random.Random(0)
    spoken = {
        word for row in sample_birds(400, 1).labels.tolist() for c in describe(row, rng)[0] for word in tokenize(c)
    }
    labels = [1, 0, 3, 4, 0]  # large, red crown, blue wings, white belly, short beak
    plain = [reworded(labels, rng, False) for _ in range(200)]
    other = [reworded(labels, rng, True) for _ in range(200)]
    own = {
        name: {values[label], *_WORDS.get(values[label], ())}
        for (name, values), label in zip(ATTRIBUTES.items(), labels, strict=True)
    }
    meant = {word for name, values in own.items() for word in (*values, *_WORDS.get(name, ()))}
    for text, named in plain:
        assert all(set(tokenize(text)) & own[name] for name in named)
    for text, named in other:
        assert 1 <= len(named) <= 2
        assert not set(tokenize(text)) & meant
    # What the synonyms add is unknown to whoever learnt the grammar.
    assert not {word for words in strangers._WORDS.values() for phrase in words for word in phrase.split()} & (
        spoken - {"of", "the", "on"}
    )
    assert len({text for text, _ in other}) > 100
