"""Diversity: how much do pictures of one caption differ when the noise does?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from examples.sdgan.data.dataset import CaptionedImages
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.consistency import Features


def diversity(
    sampler: Sampler, data: CaptionedImages, features: Features, captions: int = 50, noises: int = 8
) -> dict[str, Any]:
    """Mean distance between pictures of one caption, over that between pictures of different captions.

    Consistency can be had for nothing by a generator that ignores all it is given; this is the price that shows.
    """
    chosen = data.spread(captions)
    captions = len(chosen)
    texts = [data.captions[i][0] for i in chosen for _ in range(noises)]
    noise = fixed_noise(noises, sampler.config.generator.noise_dim, seed=5).repeat(captions, 1)
    found = features(sampler.images(texts, noise)).double().unflatten(0, (captions, noises))
    within = _mean_distance(found)
    between = _mean_distance(found.transpose(0, 1))
    return {
        "value": round(within / max(between, 1e-12), 4),
        "within_caption": round(within, 4),
        "between_captions": round(between, 4),
        "images": captions * noises,
    }


def _mean_distance(groups: Tensor) -> float:
    """Mean distance of two different members of a group; (G, M, F)."""
    members = groups.shape[1]
    return float(torch.cdist(groups, groups).sum() / (len(groups) * members * (members - 1)))
