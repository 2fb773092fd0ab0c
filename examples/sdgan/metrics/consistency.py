"""Paraphrase consistency: do two captions of one image, from the same noise, give pictures that agree?

For every held-out image three pictures are generated from one noise: of two of its captions, and of a caption of
another image.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from examples.sdgan.data.dataset import CaptionedImages
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.interval import bootstrap

Features = Callable[[Tensor], Tensor]
"""Images (N, 3, S, S) to features (N, F), whose distance says how unlike two pictures are."""


@dataclass(frozen=True)
class Triples:
    """Three pictures for each of N images.

    Args:
        first, second: (N, 3, S, S), of two captions of the image.
        other: (N, 3, S, S), of a caption of another image.
        images: which images they are of.
        captions: of ``first`` and of ``second``, as indices into the image's captions.
    """

    first: Tensor
    second: Tensor
    other: Tensor
    images: list[int]
    captions: list[tuple[int, int]]


def generate_triples(sampler: Sampler, data: CaptionedImages, count: int, seed: int) -> Triples:
    """Pictures of ``count`` images that have two different captions; the noise is one for all three."""
    rng = random.Random(seed)
    eligible = data.spread(count, paraphrased=True)
    if len(eligible) < 2:
        raise ValueError(f"{data.name}: consistency needs two images with two different captions each")
    chosen: list[tuple[int, int]] = []
    texts: list[list[str]] = [[], [], []]
    for place, i in enumerate(eligible):
        captions = data.captions[i]
        a = rng.randrange(len(captions))
        b = rng.choice([k for k in range(len(captions)) if captions[k] != captions[a]])
        chosen.append((a, b))
        texts[0].append(captions[a])
        texts[1].append(captions[b])
        # Half way round: images may be sorted by class, and a neighbour would be of the same one.
        texts[2].append(rng.choice(data.captions[eligible[(place + len(eligible) // 2) % len(eligible)]]))
    noise = fixed_noise(len(eligible), sampler.config.generator.noise_dim, seed=4)
    return Triples(*(sampler.images(captions, noise) for captions in texts), eligible, chosen)  # pyright: ignore


def distance_ratio(triples: Triples, features: Features) -> dict[str, Any]:
    """Mean distance of two captions of one image over that of captions of two images; 0 = the same, 1 = as strangers.

    Returns:
        The ratio with a 95 % interval (bootstrap over images, 2,000 draws, seed 0), and both mean distances.
    """
    first, second, other = (features(images).double() for images in (triples.first, triples.second, triples.other))
    same, apart = (first - second).norm(dim=1), (first - other).norm(dim=1)
    low, high = bootstrap(len(same), lambda draws: same[draws].mean(1) / apart[draws].mean(1).clamp(min=1e-12))
    return {
        "value": round(float(same.mean() / apart.mean().clamp(min=1e-12)), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "distance_same": round(float(same.mean()), 4),
        "distance_other": round(float(apart.mean()), 4),
        "images": len(same),
    }


def attribute_agreement(
    triples: Triples, data: CaptionedImages, read: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """Share of attributes read alike in the pictures of two captions of one image.

    Split by who names the attribute: an attribute that both captions name agrees where caption fidelity is high; one that a
    single caption names, or neither, agrees where the generator draws from the two captions what they have in common.

    Args:
        triples: the pictures.
        data: with ``named``.
        read: pictures to attribute values, (N, A).

    Returns:
        For ``all``, ``both``, ``one`` and ``neither`` the share with a 95 % interval (bootstrap over images), and
        ``strangers``: the agreement of captions of two images.
    """
    named = _named(triples, data)
    mentions = named.sum(0)
    first, second, other = read(triples.first), read(triples.second), read(triples.other)
    result = _agreements(first, second, mentions)
    result["strangers"] = _share((first == other).double(), torch.ones(first.shape, dtype=torch.float64))
    return result


def likeliest_agreement(triples: Triples, data: CaptionedImages) -> dict[str, Any]:
    """The agreement of a generator that shows what each caption names, and the likeliest bird otherwise.

    What two captions of one bird have in common, given how species settle attributes; a generator can agree more often
    than this only by ignoring the caption, or by guessing alike where the likeliest value differs.
    """
    assert data.labels is not None and data.drawn is not None and data.drawn.likeliest is not None
    likeliest, labels = data.drawn.likeliest, data.labels[triples.images]
    named = _named(triples, data).bool()
    first, second = (likeliest(labels, mask) for mask in named)
    return _agreements(first, second, named.sum(0))


def _named(triples: Triples, data: CaptionedImages) -> Tensor:
    """(2, N, A) int64, whether the first and the second caption name the attribute."""
    assert data.named is not None and data.drawn is not None
    which = zip(triples.images, triples.captions, strict=True)
    pairs = [[[n in data.named[i][k] for n in data.drawn.attributes] for k in (a, b)] for i, (a, b) in which]
    return torch.tensor(pairs).transpose(0, 1).long()


def _agreements(first: Tensor, second: Tensor, mentions: Tensor) -> dict[str, Any]:
    alike = (first == second).double()
    result = {"all": _share(alike, torch.ones_like(alike))}
    for name, times in (("both", 2), ("one", 1), ("neither", 0)):
        result[name] = _share(alike, (mentions == times).double())
    return result


def _share(hits: Tensor, asked: Tensor) -> dict[str, Any]:
    found, of = (hits * asked).sum(1), asked.sum(1)
    low, high = bootstrap(len(of), lambda draws: found[draws].sum(1) / of[draws].sum(1).clamp(min=1))
    return {
        "value": round(float(found.sum() / of.sum().clamp(min=1)), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "pairs": int(of.sum()),
    }
