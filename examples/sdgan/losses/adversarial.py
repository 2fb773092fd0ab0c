"""Adversarial losses and the conditioning augmentation's KL term."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from examples.sdgan.models.discriminator import DiscriminatorOutput


def _bce(logits: Tensor, real: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), logits.new_full(logits.shape, real).float())


def discriminator_loss(
    kind: str, real: DiscriminatorOutput, fake: DiscriminatorOutput, mismatched: Tensor
) -> Tensor:
    """Unconditional and conditional loss of one stage.

    ``mismatched`` are the conditional logits of real images against other images' captions. As in AttnGAN the positives
    and the negatives are averaged by their number: (real, unconditional and conditional) / 2 + (fake, unconditional and conditional, + mismatched) / 3.
    """
    if kind == "bce":
        positive = _bce(real.unconditional, 1) + _bce(real.conditional, 1)
        negative = _bce(fake.unconditional, 0) + _bce(fake.conditional, 0) + _bce(mismatched, 0)
    else:
        positive = F.relu(1 - real.unconditional).mean() + F.relu(1 - real.conditional).mean()
        negative = (
            F.relu(1 + fake.unconditional).mean()
            + F.relu(1 + fake.conditional).mean()
            + F.relu(1 + mismatched).mean()
        )
    return positive / 2 + negative / 3


def generator_loss(
    kind: str, fake: DiscriminatorOutput, unconditional: float = 1.0, conditional: float = 1.0
) -> Tensor:
    """Weighted unconditional and conditional loss of one stage's images."""
    if kind == "bce":
        return unconditional * _bce(fake.unconditional, 1) + conditional * _bce(fake.conditional, 1)
    return -unconditional * fake.unconditional.mean() - conditional * fake.conditional.mean()


def kl_loss(mu: Tensor, logvar: Tensor) -> Tensor:
    r"""KL divergence of :math:`N(\mu, \sigma)` from :math:`N(0, I)`, averaged over batch and dimensions."""
    mu, logvar = mu.float(), logvar.float()
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()
