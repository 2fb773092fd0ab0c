"""One discriminator a stage: is the image real, does it fit the caption, and where does it lie (Siamese embedding)?"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from examples.sdgan.config import DiscriminatorOptions, SiameseOptions


class DiscriminatorOutput(NamedTuple):
    """Of a batch: unconditional and conditional logits (N,), and the Siamese embedding (N, F)."""

    unconditional: Tensor
    conditional: Tensor
    embedding: Tensor


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

    def heads(self, features: Tensor, sentence: Tensor) -> DiscriminatorOutput:
        """Logits and the Siamese embedding from the trunk's features."""
        embedding = self.siamese(features.mean((2, 3)))
        if self.normalize:
            embedding = F.normalize(embedding, dim=1)
        unconditional = self.real(features).flatten()
        return DiscriminatorOutput(unconditional, self.conditional_logits(features, sentence), embedding)

    def conditional_logits(self, features: Tensor, sentence: Tensor) -> Tensor:
        """The conditional head's logits (N,): real and matching the caption."""
        if self.projection:
            agreement = (self.match(sentence) * features.sum((2, 3))).sum(1)
            return self.fits(features).flatten() + agreement
        condition = sentence[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.fits(self.match(torch.cat((features, condition), 1))).flatten()


class Discriminators(nn.Module):
    """The discriminators of all stages as one module: one forward, one optimiser, one wrapper for several devices.

    ``forward(images, sentence, mismatched_sentence)``: images a stage, low to high; sentences (N, D). With
    ``mismatched_sentence`` also the conditional logits of each image against the caption of another one.
    """

    def __init__(
        self, sizes: list[int], sentence_dim: int, options: DiscriminatorOptions, siamese: SiameseOptions
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Discriminator(size, sentence_dim, options, siamese) for size in sizes)

    def forward(
        self, images: list[Tensor], sentence: Tensor, mismatched_sentence: Tensor | None = None
    ) -> tuple[list[DiscriminatorOutput], list[Tensor]]:
        outputs, mismatched = [], []
        for stage, batch in zip(self.stages, images, strict=True):
            assert isinstance(stage, Discriminator)
            features = stage(batch)
            outputs.append(stage.heads(features, sentence))
            if mismatched_sentence is not None:
                mismatched.append(stage.conditional_logits(features, mismatched_sentence))
        return outputs, mismatched
