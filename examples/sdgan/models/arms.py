"""What else could bring the text into the generator: AttnGAN's attention, DF-GAN's affine, conditional batch norm.

Rivals of SCBN to compare with, as stages and norms that plug into :class:`scbn.TreeGenerator`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scbn import TextFeatures, VisualSemanticEmbedding
from scbn.generator.stages import ActivationKind, MakeNorm, RefinementStage


class AttentionStage(RefinementStage):
    """A refinement stage that attends to words first, as AttnGAN's: their context is joined to the map.

    ``stage(h, text)``: (N, in_channels, H, W) -> (N, channels, 2H, 2W); residual blocks work on twice the channels.

    Args:
        in_channels, channels, residual_blocks, norm, activation: as :class:`RefinementStage`.
        word_dim: size of a word vector.

    Source: Xu et al., "AttnGAN", CVPR 2018, arXiv 1711.10485, equation 2 and taoxugit/AttnGAN, ``NEXT_STAGE_G``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        residual_blocks: int,
        norm: MakeNorm,
        *,
        word_dim: int,
        activation: ActivationKind = "glu",
    ) -> None:
        super().__init__(2 * in_channels, channels, residual_blocks, norm, activation=activation)
        self.words = VisualSemanticEmbedding(in_channels, word_dim)

    def forward(self, h: Tensor, text: TextFeatures) -> Tensor:
        return super().forward(torch.cat((h, self.words(h, text)), 1), text)


class SentenceAffine(nn.Module):
    """Scale and shift from the sentence without any normalisation, by two networks of one hidden layer.

    ``affine(x, text)``: (N, C, H, W) -> the same. It starts as the identity.

    Source: Tao et al., "DF-GAN", CVPR 2022, arXiv 2008.05865, the affine transformation of its fusion blocks.
    """

    def __init__(self, channels: int, sentence_dim: int) -> None:
        super().__init__()
        self.scale = _perceptron(sentence_dim, channels, 1.0)
        self.shift = _perceptron(sentence_dim, channels, 0.0)

    def forward(self, x: Tensor, text: TextFeatures) -> Tensor:
        return x * self.scale(text.sentence)[:, :, None, None] + self.shift(text.sentence)[:, :, None, None]


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose scale and shift are linear in the sentence.

    ``norm(x, text)``: (N, C, H, W) -> the same. It starts as plain batch norm.

    Source: de Vries et al., "Modulating early visual processing by language", NeurIPS 2017, arXiv 1707.00683, without the
    hidden layer, as class-conditional generators have it.
    """

    def __init__(self, channels: int, sentence_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale_and_shift = nn.Linear(sentence_dim, 2 * channels)
        nn.init.zeros_(self.scale_and_shift.weight)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(self, x: Tensor, text: TextFeatures) -> Tensor:
        scale, shift = self.scale_and_shift(text.sentence)[:, :, None, None].chunk(2, 1)
        return self.norm(x) * (1 + scale) + shift


def _perceptron(sentence_dim: int, channels: int, start: float) -> nn.Sequential:
    last = nn.Linear(sentence_dim, channels)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, start)
    return nn.Sequential(nn.Linear(sentence_dim, sentence_dim), nn.ReLU(), last)
