"""Adversarial losses and the conditioning augmentation's KL term."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from examples.sdgan.models.discriminator import Verdict


def _bce(logits: Tensor, real: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), logits.new_full(logits.shape, real).float())


def discriminator_loss(kind: str, real: Verdict, fake: Verdict, wrong: Tensor) -> Tensor:
    """Unconditional and conditional loss of one stage.

    ``wrong`` are the conditional logits of real images against other images' captions. As in AttnGAN the positives
    and the negatives are averaged by their number: (real + fitting) / 2 + (fake + fake fitting + wrong) / 3.
    """
    if kind == "bce":
        positive = _bce(real.real, 1) + _bce(real.fits, 1)
        negative = _bce(fake.real, 0) + _bce(fake.fits, 0) + _bce(wrong, 0)
    else:
        positive = F.relu(1 - real.real).mean() + F.relu(1 - real.fits).mean()
        negative = F.relu(1 + fake.real).mean() + F.relu(1 + fake.fits).mean() + F.relu(1 + wrong).mean()
    return positive / 2 + negative / 3


def generator_loss(kind: str, fake: Verdict, unconditional: float = 1.0, conditional: float = 1.0) -> Tensor:
    """Weighted unconditional and conditional loss of one stage's images."""
    if kind == "bce":
        return unconditional * _bce(fake.real, 1) + conditional * _bce(fake.fits, 1)
    return -unconditional * fake.real.mean() - conditional * fake.fits.mean()


def kl_loss(mu: Tensor, logvar: Tensor) -> Tensor:
    r"""KL divergence of :math:`N(\mu, \sigma)` from :math:`N(0, I)`, averaged over batch and dimensions."""
    mu, logvar = mu.float(), logvar.float()
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()
