"""R-precision, and distances in the space of the matching network."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.sdgan.data.dataset import CaptionedImages, to_float
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.consistency import Features
from examples.sdgan.metrics.interval import bootstrap
from examples.sdgan.models.encoders import InceptionImageEncoder, SmallImageEncoder

CANDIDATES, DRAWS = 100, 10
ImageEncoder = SmallImageEncoder | InceptionImageEncoder


def matching_features(encoder: ImageEncoder) -> Features:
    """Images, in [-1, 1] or uint8, to the matching network's unit-length image codes, (N, D)."""

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        encoder.eval()
        device = next(encoder.parameters()).device
        return F.normalize(
            torch.cat([encoder(to_float(part).to(device))[1].float().cpu() for part in images.split(50)]), dim=1
        )

    return features


def r_precision(
    sampler: Sampler, encoder: ImageEncoder, data: CaptionedImages, seed: int, count: int
) -> dict[str, Any]:
    """Share of generated images whose own caption is, to the matching network, the nearest of 100 captions.

    Protocol: one image for the first caption of each of ``count`` test images, evenly apart; its 99 negatives are drawn
    from the captions of other images, of other classes where there are classes, and of another text; 10 draws, whose
    hits are averaged. AttnGAN's protocol, but for the exclusion of classes and the repeated draws.

    Returns:
        The share with a 95 % interval (bootstrap over images), the number of images, the candidates, and the draws'
        own standard deviation.
    """
    chosen = data.spread(count)
    captions = [data.captions[i][0] for i in chosen]
    count = len(chosen)
    features, noise = matching_features(encoder), fixed_noise(count, sampler.config.generator.noise_dim, seed=2)
    parts = [slice(i, i + 64) for i in range(0, count, 64)]
    codes = torch.cat([features(sampler.images(captions[part], noise[part])) for part in parts])
    sentences = [sampler.encode(captions[part]).sentence for part in parts]
    texts = F.normalize(torch.cat([s.float().cpu() for s in sentences if s is not None]), dim=1)
    classes = torch.arange(count) if data.classes is None else data.classes[chosen]
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    same_text = torch.tensor([numbers[caption] for caption in captions])
    rng = random.Random(seed)
    hits = torch.zeros(count, DRAWS, dtype=torch.float64)
    fewest = CANDIDATES
    for i in range(count):
        others = ((classes != classes[i]) & (same_text != same_text[i])).nonzero()[:, 0].tolist()
        scores = texts @ codes[i]
        fewest = min(fewest, 1 + len(others))
        for draw in range(DRAWS):
            negatives = rng.sample(others, min(CANDIDATES - 1, len(others)))
            hits[i, draw] = float(bool(negatives) and bool(scores[i] > scores[negatives].max()))
    each = hits.mean(1)
    low, high = bootstrap(count, lambda draws: each[draws].mean(1))
    return {
        "value": round(float(each.mean()), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "images": count,
        "candidates": fewest,
        "draws": DRAWS,
        "draws_std": round(float(hits.mean(0).std()), 4),
    }
