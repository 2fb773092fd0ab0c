"""The harder drawn birds: truthfully described in many words, drawn as labelled, some combinations kept from training."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from helpers.miniature import shrink

from examples.sdgan import evaluate, train
from examples.sdgan.data.birds.attributes import COLOURS, Birds
from examples.sdgan.data.birds_hard import ATTRIBUTES, describe, draw, grammar, held_out, sample_birds
from examples.sdgan.data.birds_hard.attributes import NAMES, prototypes
from examples.sdgan.data.drawn import DRAWN
from examples.sdgan.data.toy import birds
from examples.sdgan.data.vocabulary import tokenize
from examples.sdgan.metrics.birds import unseen_fidelity
from examples.sdgan.presets import preset

_MEANT = {said: word for word, ways in grammar._WORDS.items() for said in ways}


def test_the_same_seed_gives_the_same_birds_whatever_the_count() -> None:
    first, other = sample_birds(300, 3), sample_birds(300, 4)
    assert torch.equal(first.labels, sample_birds(300, 3).labels)
    assert not torch.equal(first.labels, other.labels)
    few = Birds(first.labels[:7], first.species[:7])
    assert torch.equal(draw(first, 16, 1)[:7], draw(few, 16, 1))
    assert not torch.equal(draw(few, 16, 1), draw(few, 16, 2))


def test_training_birds_have_no_held_out_combination_and_others_do() -> None:
    assert not held_out(sample_birds(4000, 1).labels).any()
    share = held_out(sample_birds(4000, 2, training=False).labels).double().mean()
    assert 0.08 < share < 0.22
    # One colour of wings for each crown, so that every colour is seen on both parts.
    pairs = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    labels = torch.zeros(49, len(NAMES), dtype=torch.int64)
    labels[:, NAMES.index("crown")], labels[:, NAMES.index("wing")] = pairs.T
    kept = pairs[held_out(labels)]
    assert sorted(kept[:, 0].tolist()) == sorted(kept[:, 1].tolist()) == list(range(7))


def test_every_value_occurs_and_some_species_are_of_one_colour() -> None:
    labels = sample_birds(6000, 1).labels
    for column, values in enumerate(ATTRIBUTES.values()):
        assert set(labels[:, column].tolist()) == set(range(len(values)))
    plumage = prototypes()[:, [NAMES.index(part) for part in ("crown", "throat", "wing", "belly", "tail")]]
    assert 0.1 < (plumage == plumage[:, :1]).all(1).double().mean() < 0.4


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_every_attribute_shows(name: str) -> None:
    """Another value of it alone is another picture, in pixels enough to see."""
    column = NAMES.index(name)
    labels = sample_birds(40, 5).labels
    pictures = []
    for value in range(len(ATTRIBUTES[name])):
        labels = labels.clone()
        labels[:, column] = value
        pictures.append(draw(Birds(labels, torch.zeros(40)), 64, 6).int())
    for first, second in itertools.pairwise(pictures):
        changed = ((first - second).abs().amax(1) > 40).flatten(1).sum(1)
        assert changed.median() >= 20, name


def test_a_caption_names_what_it_says_it_names() -> None:
    """Read back by the words alone: each named attribute's value is said, no other value of a word that is one's own."""
    rng = random.Random(0)
    flock = sample_birds(300, 9)
    counts: dict[str, int] = dict.fromkeys(ATTRIBUTES, 0)
    whole = 0
    for labels in flock.labels.tolist():
        value = {name: values[label] for (name, values), label in zip(ATTRIBUTES.items(), labels, strict=True)}
        captions, named = describe(labels, rng, 4)
        for caption, names in zip(captions, named, strict=True):
            assert 2 <= len(names) <= 8 and len(tokenize(caption)) <= preset("birds-hard").encoder.words
            text = f" {caption.replace(',', '')} "
            for name in names:
                counts[name] += 1
                assert any(f" {said} " in text for said in grammar._WORDS[value[name]]), (
                    caption,
                    name,
                    value[name],
                )
            said = {colour for colour in COLOURS for way in grammar._WORDS[colour] if f" {way} " in text}
            allowed = {value[name] for name in names if name not in ("size",)}
            assert said <= allowed, caption
            whole += all(part in names for part in ("crown", "wing", "belly")) and "crown" not in text
    assert min(counts.values()) > 60 and whole > 5


def test_the_captions_of_a_bird_differ_in_words_and_form() -> None:
    rng = random.Random(1)
    captions = [describe(sample_birds(1, seed).labels[0].tolist(), rng)[0] for seed in range(60)]
    assert all(len(set(ten)) >= 9 for ten in captions)
    words = {word for ten in captions for caption in ten for word in tokenize(caption)}
    assert {"crimson", "barred", "speckled", "golden", "huge", "snowy"} <= words
    starts = {caption.split()[0] for ten in captions for caption in ten}
    assert {"a", "this", "look", "the"} <= starts


def test_as_a_data_set() -> None:
    train, test = birds("train", 16, 30, "birds-hard"), birds("test", 16, 20, "birds-hard")
    assert (len(train), len(test)) == (30, 20) and train.drawn is DRAWN["birds-hard"]
    assert train.labels is not None and not held_out(train.labels).any()
    assert train.captions != test.captions[:30]
    assert len(train.captions[0]) == len(train.named[0]) == 10


def test_unseen_combinations_are_those_held_out() -> None:
    asked: list[str] = []

    class Reader:
        def read(self, images: torch.Tensor) -> torch.Tensor:
            return images.long()

    class Wrong:
        """Gets every crown right and every wing wrong."""

        config = preset("birds-hard")

        def images(self, captions: list[str], noise: torch.Tensor) -> torch.Tensor:
            asked.extend(captions)
            read = torch.zeros(len(captions), len(NAMES))
            for row, caption in enumerate(captions):
                words = caption.split()
                crown, wing = COLOURS.index(words[4]), COLOURS.index(words[-2])
                assert wing == (2 * crown + 3) % 7
                read[row, NAMES.index("crown")], read[row, NAMES.index("wing")] = crown, (wing + 1) % 7
            return read

    found = unseen_fidelity(Wrong(), Reader(), 50, 0, DRAWN["birds-hard"])  # type: ignore[arg-type]
    assert len(asked) == found.images == 50 and found.value == 0.5
    assert (found.each["crown"], found.each["wing"]) == (1.0, 0.0)


def test_a_run_tells_what_it_draws_of_unseen_combinations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr, test=40)
    tiny = [
        "--batch-size",
        "2",
        "--steps",
        "2",
        "--encoder-steps",
        "2",
        "--encoder.batch-size",
        "4",
        "--size",
        "32",
    ]
    tiny += ["--generator.channels", "4", "4", "--discriminator.channels", "4", "--accelerator", "cpu"]
    assert train.main(["--data", "birds-hard", *tiny, "--encoder.dim", "8", "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["reader_accuracy"]) == set(metrics["sentence_probe"]) == set(ATTRIBUTES)
    low, high = metrics["unseen_caption_fidelity"]["interval_95"]
    assert low <= metrics["unseen_caption_fidelity"]["value"] <= high
    card = (tmp_path / "model" / "README.md").read_text()
    assert 'license: "mit"' in card and "no training bird has" in card
    assert evaluate.main(["--checkpoint", str(tmp_path), "--images", "20"]) == 0
    report = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert {"caption_fidelity", "unseen_caption_fidelity", "agreement_one"} <= report["measures"].keys()
    assert not any(name.startswith("likeliest") for name in report["measures"])
