"""One discriminator a stage: is the image real, does it fit the caption, and where does it lie (Siamese feature)?"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from examples.sdgan.config import DiscriminatorOptions, SiameseOptions


class Verdict(NamedTuple):
    """What a discriminator says of a batch: logits (N,) each, and the Siamese feature (N, F)."""

    real: Tensor
    fits: Tensor
    feature: Tensor


class Discriminator(nn.Module):
    """Strided convolutions down to 4x4, then an unconditional head, a conditional head and the Siamese head.

    Args:
        size: pixels of the images, 8, 16, 32, ...
        sentence_dim: of the condition.
    """

    def __init__(
        self, size: int, sentence_dim: int, options: DiscriminatorOptions, siamese: SiameseOptions
    ) -> None:
        super().__init__()
        self.normalize = siamese.normalize
        self.projection = options.condition == "projection"
        spectral = options.norm == "spectral"

        def conv(before: int, after: int, kernel: int, stride: int, pad: int, norm: bool) -> nn.Module:
            layer = nn.Conv2d(before, after, kernel, stride, pad, bias=spectral)
            if spectral:
                return nn.Sequential(spectral_norm(layer), nn.LeakyReLU(0.2))
            return nn.Sequential(layer, nn.BatchNorm2d(after) if norm else nn.Identity(), nn.LeakyReLU(0.2))

        def maybe_spectral(layer: nn.Module) -> nn.Module:
            return spectral_norm(layer) if spectral else layer

        width, layers = options.channels, [conv(3, options.channels, 4, 2, 1, norm=False)]
        pixels = size // 2
        while pixels > 4:
            after = min(2 * width, options.max_channels)
            layers.append(conv(width, after, 4, 2, 1, norm=True))
            width, pixels = after, pixels // 2
        while width > options.head_channels:
            after = max(width // 2, options.head_channels)
            layers.append(conv(width, after, 3, 1, 1, norm=True))
            width = after
        self.trunk = nn.Sequential(*layers)
        self.siamese = nn.Linear(width, siamese.feature_dim)
        self.real = maybe_spectral(nn.Conv2d(width, 1, 4))
        if self.projection:
            self.match = maybe_spectral(nn.Linear(sentence_dim, width, bias=False))
            self.fits = maybe_spectral(nn.Conv2d(width, 1, 4))
        else:
            self.match = conv(width + sentence_dim, width, 3, 1, 1, norm=True)
            self.fits = maybe_spectral(nn.Conv2d(width, 1, 4))

    def forward(self, images: Tensor) -> Tensor:
        """The features (N, width, 4, 4) that all heads read."""
        return self.trunk(images)

    def judge(self, features: Tensor, sentence: Tensor) -> Verdict:
        """Logits and the Siamese feature from the trunk's features."""
        feature = self.siamese(features.mean((2, 3)))
        if self.normalize:
            feature = F.normalize(feature, dim=1)
        return Verdict(self.real(features).flatten(), self.match_logit(features, sentence), feature)

    def match_logit(self, features: Tensor, sentence: Tensor) -> Tensor:
        """The conditional head's logit (N,): real and fitting."""
        if self.projection:
            agreement = (self.match(sentence) * features.sum((2, 3))).sum(1)
            return self.fits(features).flatten() + agreement
        condition = sentence[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.fits(self.match(torch.cat((features, condition), 1))).flatten()


class Discriminators(nn.Module):
    """The discriminators of all stages as one module: one forward, one optimiser, one wrapper for several devices.

    ``forward(images, sentence, wrong)``: images a stage, low to high; sentence (N, D); with ``wrong`` also the
    logits of each image against the sentence of the next one.
    """

    def __init__(
        self, sizes: list[int], sentence_dim: int, options: DiscriminatorOptions, siamese: SiameseOptions
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Discriminator(size, sentence_dim, options, siamese) for size in sizes)

    def forward(
        self, images: list[Tensor], sentence: Tensor, wrong: Tensor | None = None
    ) -> tuple[list[Verdict], list[Tensor]]:
        verdicts, mismatched = [], []
        for stage, batch in zip(self.stages, images, strict=True):
            assert isinstance(stage, Discriminator)
            features = stage(batch)
            verdicts.append(stage.judge(features, sentence))
            if wrong is not None:
                mismatched.append(stage.match_logit(features, wrong))
        return verdicts, mismatched
