"""AttnGAN's generator, written anew: parameters have the names and shapes of the published code, so its checkpoints load.

Source: Xu et al., "AttnGAN", CVPR 2018, arXiv 1711.10485. It computes what taoxugit/AttnGAN computes, the mis-tiled
attention mask included (issue 93 there): trained weights are trained with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def upsampling(channels: int, out: int) -> nn.Sequential:
    """Nearest neighbour, convolution, norm, gated linear unit."""
    up = nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(up, _conv3x3(channels, 2 * out), nn.BatchNorm2d(2 * out), nn.GLU(1))


class ConditioningAugmentation(nn.Module):
    """c = mu(s) + eps exp(logvar(s) / 2)."""

    def __init__(self, sentence_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(sentence_dim, 4 * condition_dim)

    def forward(self, sentence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Code, mean and log-variance, (N, condition_dim) each."""
        mu, logvar = F.glu(self.fc(sentence)).chunk(2, 1)
        return mu + torch.randn_like(mu) * (logvar / 2).exp(), mu, logvar


class InitialStage(nn.Module):
    """From code and noise to a first map, of 64 px with upstream's four upsampling layers."""

    def __init__(self, channels: int, code_dim: int, upsamplings: int = 4) -> None:
        super().__init__()
        self.upsamplings = upsamplings
        self.fc = nn.Sequential(
            nn.Linear(code_dim, channels * 32, bias=False), nn.BatchNorm1d(channels * 32), nn.GLU(1)
        )
        for i in range(1, upsamplings + 1):
            self.add_module(f"upsample{i}", upsampling(channels >> (i - 1), channels >> i))

    def forward(self, noise: Tensor, code: Tensor) -> Tensor:
        """The map (N, channels >> upsamplings, S, S), S = 4 << upsamplings."""
        h = self.fc(torch.cat((code, noise), 1)).unflatten(1, (-1, 4, 4))
        for i in range(1, self.upsamplings + 1):
            h = self.get_submodule(f"upsample{i}")(h)
        return h


class Attention(nn.Module):
    """What every position attends to of the words, with upstream's mask."""

    def __init__(self, channels: int, word_dim: int) -> None:
        super().__init__()
        self.conv_context = nn.Conv2d(word_dim, channels, 1, bias=False)
        self.mask: Tensor | None = None

    def applyMask(self, mask: Tensor | None) -> None:
        """The mask (N, T) of the call to come, True = padding; the name is upstream's."""
        self.mask = mask

    def forward(self, h: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Context (N, C, H, W) and attention (N, T, H, W) of h (N, C, H, W) and words (N, D, T)."""
        source = self.conv_context(words[..., None])[..., 0]
        logits = torch.bmm(h.flatten(2).mT, source)
        if self.mask is not None:
            samples, positions, length = logits.shape
            # Row b * positions + q meets the mask of sample (b * positions + q) % samples: upstream's tiling.
            tiled = self.mask.bool().repeat(positions, 1).view(samples, positions, length)
            logits = logits.masked_fill(tiled, -torch.inf)
        weights = logits.softmax(2).mT
        size = h.shape[2:]
        return torch.bmm(source, weights).unflatten(2, size), weights.unflatten(2, size)


class ResidualBlock(nn.Module):
    """x + block(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _conv3x3(channels, 2 * channels),
            nn.BatchNorm2d(2 * channels),
            nn.GLU(1),
            _conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.block(x)


class NextStage(nn.Module):
    """Attention, residual blocks, and twice the size."""

    def __init__(self, channels: int, word_dim: int, residual_blocks: int) -> None:
        super().__init__()
        self.att = Attention(channels, word_dim)
        self.residual = nn.Sequential(*(ResidualBlock(2 * channels) for _ in range(residual_blocks)))
        self.upsample = upsampling(2 * channels, channels)

    def forward(self, h: Tensor, words: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next map (N, C, 2 H, 2 W) and the attention (N, T, H, W)."""
        self.att.applyMask(mask)
        context, attention = self.att(h, words)
        return self.upsample(self.residual(torch.cat((h, context), 1))), attention


class ImageHead(nn.Module):
    """A map's image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.img = nn.Sequential(_conv3x3(channels, 3), nn.Tanh())

    def forward(self, h: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1]."""
        return self.img(h)


class Generator(nn.Module):
    """AttnGAN's ``G_NET``, 64, 128 and 256 px, and ``G_DCGAN``.

    Args:
        channels: GF_DIM, 32 for birds and 48 for COCO.
        sentence_dim, word_dim: EMBEDDING_DIM, 256.
        condition_dim, noise_dim: CONDITION_DIM and Z_DIM, 100.
        residual_blocks: R_NUM, 2 for birds and 3 for COCO.
        stages: BRANCH_NUM, 1 to 3.
        base_size: pixels of the first image, 64 upstream; 8, 16 or 32 for small machines.
        single: ``G_DCGAN``, whose last stage alone makes an image.
    """

    def __init__(
        self,
        channels: int = 32,
        sentence_dim: int = 256,
        word_dim: int = 256,
        condition_dim: int = 100,
        noise_dim: int = 100,
        residual_blocks: int = 2,
        stages: int = 3,
        base_size: int = 64,
        single: bool = False,
    ) -> None:
        super().__init__()
        if base_size < 8 or base_size & (base_size - 1):
            raise ValueError(f"base_size must be a power of two from 8, got {base_size}")
        upsamplings = base_size.bit_length() - 3
        self.stages, self.noise_dim = stages, noise_dim
        self.ca_net = ConditioningAugmentation(sentence_dim, condition_dim)
        self.h_net1 = InitialStage(channels << upsamplings, condition_dim + noise_dim, upsamplings)
        self.single = single
        for i in range(1, stages + 1):
            if i > 1:
                self.add_module(f"h_net{i}", NextStage(channels, word_dim, residual_blocks))
            if not single:
                self.add_module(f"img_net{i}", ImageHead(channels))
        if single:
            self.img_net = ImageHead(channels)

    def forward(
        self, z_code: Tensor, sent_emb: Tensor, word_embs: Tensor, mask: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Images and attention maps, low to high, mean and log-variance.

        Args:
            z_code: (N, noise_dim); sent_emb: (N, sentence_dim); word_embs: (N, word_dim, T); mask: (N, T), True =
                padding. Upstream's names, so that keyword calls written for it work.
        """
        code, mu, logvar = self.ca_net(sent_emb)
        h = self.h_net1(z_code, code)
        images, attentions = [], []
        for i in range(1, self.stages + 1):
            if i > 1:
                h, attention = self.get_submodule(f"h_net{i}")(h, word_embs, mask)
                attentions.append(attention)
            if not self.single:
                images.append(self.get_submodule(f"img_net{i}")(h))
        if self.single:
            images.append(self.img_net(h))
        return images, attentions, mu, logvar


def _conv3x3(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)
