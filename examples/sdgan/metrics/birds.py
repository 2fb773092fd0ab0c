"""The numbers a run on drawn birds leaves: does the picture show what the caption names?"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.sdgan.data.dataset import CaptionedImages, to_float
from examples.sdgan.data.drawn import Drawn
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.caption_fidelity import (
    AttributeReader,
    CaptionFidelity,
    caption_fidelity,
    train_reader,
)

IMAGES = 1000


def measure(
    sampler: Sampler,
    train: CaptionedImages,
    test: CaptionedImages,
    seed: int,
    report: Callable[[int], None],
    reader: AttributeReader | None = None,
) -> dict[str, Any]:
    """Caption fidelity of generated images, with all it takes to judge the number.

    Args:
        sampler: the trained generator.
        train: what the attribute reader learns from.
        test: held-out birds, whose captions are generated from.
        seed: of the reader.
        report: called with the reader's training step.
        reader: one that is trained already.

    Returns:
        ``caption_fidelity`` on held-out captions (the first of each bird); ``novel`` on captions of birds whose
        attributes were drawn independently, so that the species help with nothing; ``chance``, the same images
        against each other's captions; the reader's accuracy on real held-out images; what a linear probe reads
        from the sentence vector.
    """
    assert test.labels is not None and test.named is not None and test.drawn is not None
    drawn, names = test.drawn, test.drawn.names
    count = min(IMAGES, len(test))
    reader = reader or train_reader(train, sampler.config.size, seed, report)
    real = reader.read(to_float(test.images.load(list(range(len(test))), sampler.config.size, None)))
    truth, named = test.labels[:count], [captions[0] for captions in test.named[:count]]
    noise = fixed_noise(count, sampler.config.generator.noise_dim)
    read = reader.read(sampler.images([captions[0] for captions in test.captions[:count]], noise))
    # Half way round: a neighbour could share nothing but its place, and so can this one.
    chance = caption_fidelity(read.roll(count // 2, 0), truth, named, names)

    captions, strangers, stranger_named = novel_captions(count, seed, drawn)
    novel = reader.read(sampler.images(captions, noise))
    found = {
        "caption_fidelity": as_dict(caption_fidelity(read, truth, named, names)),
        "novel_caption_fidelity": as_dict(caption_fidelity(novel, strangers, stranger_named, names)),
        "chance": as_dict(chance),
        "reader_accuracy": {
            name: round(float(share), 4)
            for name, share in zip(names, (real == test.labels).double().mean(0), strict=True)
        },
        "sentence_probe": _probe(sampler, train, test),
    }
    if drawn.held_out is not None:
        found["unseen_caption_fidelity"] = as_dict(unseen_fidelity(sampler, reader, count, seed, drawn))
    return found


def unseen_fidelity(
    sampler: Sampler, reader: AttributeReader, count: int, seed: int, drawn: Drawn
) -> CaptionFidelity:
    """Caption fidelity of combinations of crown and wings that no training bird has, named in the plainest way."""
    assert drawn.held_out is not None
    labels = drawn.independent(40 * count, torch.Generator().manual_seed(seed + 7))
    labels = labels[drawn.held_out(labels)][:count]
    values, names = drawn.attributes, drawn.names
    captions = [
        f"a bird with a {values['crown'][row[names.index('crown')]]} crown and "
        f"{values['wing'][row[names.index('wing')]]} wings"
        for row in labels.tolist()
    ]
    noise = fixed_noise(len(labels), sampler.config.generator.noise_dim)
    read = reader.read(sampler.images(captions, noise))
    return caption_fidelity(read, labels, [["crown", "wing"]] * len(labels), names)


Captions = tuple[list[str], Tensor, list[list[str]]]
"""Captions, the labels of the birds that they are of, and what each caption names."""


def novel_captions(count: int, seed: int, drawn: Drawn) -> Captions:
    """Captions of birds whose attributes were drawn independently."""
    rng, labels = random.Random(seed), _strangers(count, seed, drawn)
    described = [drawn.describe(row, rng, 1) for row in labels.tolist()]
    return [texts[0] for texts, _ in described], labels, [named[0] for _, named in described]


def reworded_captions(count: int, seed: int, synonyms: bool, drawn: Drawn) -> Captions:
    """The same birds in sentences of other forms, with ``synonyms`` in other words too."""
    assert drawn.reworded is not None
    rng, labels = random.Random(seed), _strangers(count, seed, drawn)
    described = [drawn.reworded(row, rng, synonyms) for row in labels.tolist()]
    return [text for text, _ in described], labels, [named for _, named in described]


def _strangers(count: int, seed: int, drawn: Drawn) -> Tensor:
    return drawn.independent(count, torch.Generator().manual_seed(seed))


def as_dict(result: CaptionFidelity) -> dict[str, Any]:
    """For JSON, rounded to what the number of images can tell."""
    return {
        "value": round(result.value, 4),
        "interval_95": [round(result.low, 4), round(result.high, 4)],
        "images": result.images,
        "each": {name: round(value, 4) for name, value in result.each.items()},
    }


def _probe(sampler: Sampler, train: CaptionedImages, test: CaptionedImages) -> dict[str, float]:
    """Accuracy of a ridge regression from sentence vectors to each attribute, where the caption names it."""
    assert train.drawn is not None
    fit, held = (_sentences(sampler, data) for data in (train, test))
    result = {}
    for i, (name, values) in enumerate(train.drawn.attributes.items()):
        (x, labels, asked), (x_held, labels_held, asked_held) = fit, held
        x, target = x[asked[:, i]], F.one_hot(labels[asked[:, i], i], len(values)).double()
        weights = torch.linalg.solve(x.T @ x + 1e-2 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ target)
        right = (x_held[asked_held[:, i]] @ weights).argmax(1) == labels_held[asked_held[:, i], i]
        result[name] = round(float(right.double().mean()), 4)
    return result


def _sentences(sampler: Sampler, data: CaptionedImages, count: int = 2000) -> tuple[Tensor, Tensor, Tensor]:
    assert data.labels is not None and data.named is not None and data.drawn is not None
    sentence = sampler.encode([captions[0] for captions in data.captions[:count]]).sentence
    assert sentence is not None
    x = F.pad(sentence.double().cpu(), (0, 1), value=1.0)
    asked = torch.tensor(
        [[name in captions[0] for name in data.drawn.attributes] for captions in data.named[:count]]
    )
    return x, data.labels[:count], asked
