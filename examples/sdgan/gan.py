"""One training step of SD-GAN: the discriminators, then the generator, over both branches of every pair."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from examples.sdgan.config import Config
from examples.sdgan.damsm import damsm_loss
from examples.sdgan.data.dataset import to_float
from examples.sdgan.data.pairs import PairBatch, step_rng
from examples.sdgan.discriminator import Discriminators, Verdict
from examples.sdgan.encoders import InceptionImageEncoder, SmallImageEncoder, TextEncoder
from examples.sdgan.losses import discriminator_loss, generator_loss, kl_loss
from scbn import SiameseContrastiveLoss, TextFeatures, TreeGenerator
from scbn.stages import InitialStage, RefinementStage


def build_generator(config: Config) -> TreeGenerator:
    """The generator that the options describe."""
    options = config.generator
    return TreeGenerator(
        config.encoder.dim,
        config.encoder.dim,
        stages=len(options.channels),
        base_size=config.sizes[0],
        channels=options.channels,
        residual_blocks=options.residual_blocks,
        norm=options.norm,
        noise_dim=options.noise_dim,
        condition_dim=options.condition_dim,
        initial_stage=partial(InitialStage, activation=options.activation),
        refinement_stage=partial(RefinementStage, activation=options.activation),
    )


class GanTraining:
    """Generator, discriminators, their optimisers and the moving average of the generator.

    Args:
        fabric: devices and precision.
        config: of the run.
        text, image: the frozen encoders.
        generator: what to train; by default what the options describe. Called as a :class:`TreeGenerator`.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: Config,
        text: TextEncoder,
        image: SmallImageEncoder | InceptionImageEncoder,
        generator: nn.Module | None = None,
    ) -> None:
        self.fabric, self.config = fabric, config
        self.text, self.image = text.eval().requires_grad_(False), image.eval().requires_grad_(False)
        if generator is None:
            generator = build_generator(config).to(memory_format=torch.channels_last)
        discriminators = Discriminators(config.sizes, config.encoder.dim, config.discriminator, config.siamese).to(
            memory_format=torch.channels_last
        )
        g, d = config.generator, config.discriminator
        self.generator, self.optimizer_g = fabric.setup(
            generator, torch.optim.Adam(generator.parameters(), g.lr, g.betas, fused=True)
        )
        self.discriminators, self.optimizer_d = fabric.setup(
            discriminators, torch.optim.Adam(discriminators.parameters(), d.lr, d.betas, fused=True)
        )
        self.average = AveragedModel(generator, multi_avg_fn=self._move_average, use_buffers=True)
        self._decay = 0.0
        s = config.siamese
        self.contrast = SiameseContrastiveLoss(s.margin, s.alpha)

    def encode(self, tokens: Tensor) -> TextFeatures:
        """Text features of the frozen encoder."""
        with torch.no_grad():
            return self.text(tokens)

    def step(self, step: int, batch: PairBatch) -> dict[str, Tensor]:
        """One update of all discriminators and of the generator."""
        config, device = self.config, self.fabric.device
        rng = step_rng(config.seed + 1, step)
        pairs = len(batch.same)
        noise = torch.randn(2 * pairs, config.generator.noise_dim, generator=rng)
        if config.siamese.share_noise:
            noise[pairs:] = noise[:pairs]
        condition_noise = torch.randn(2 * pairs, config.generator.condition_dim, generator=rng)
        text = self.encode(batch.tokens)
        assert text.sentence is not None
        real = pyramid(to_float(batch.images), config.sizes)

        self.generator.train()
        self.discriminators.train()
        output = self.generator(noise.to(device), text, condition_noise=condition_noise.to(device))
        losses = self._update_discriminators(real, output.images, text.sentence, batch)
        losses |= self._update_generator(output, text, batch)
        # Short runs would else average with weights that nobody trained.
        self._decay = min(config.generator.ema, (1 + step) / (10 + step))
        self.average.update_parameters(self.generator)
        return {name: value.detach() for name, value in losses.items()}

    def _update_discriminators(
        self, real: list[Tensor], fake: tuple[Tensor, ...], sentence: Tensor, batch: PairBatch
    ) -> dict[str, Tensor]:
        # The caption of the next pair: within a pair of one image it might well fit.
        wrong = torch.cat([half.roll(1, 0) for half in sentence.chunk(2)])
        real_verdicts, mismatched = self.discriminators(real, sentence, wrong)
        fake_verdicts, _ = self.discriminators([image.detach() for image in fake], sentence)
        kind = self.config.discriminator.loss
        loss = torch.stack(
            [
                discriminator_loss(kind, r, f, w)
                for r, f, w in zip(real_verdicts, fake_verdicts, mismatched, strict=True)
            ]
        ).sum()
        losses = {"discriminator": loss}
        if self.config.siamese.weight and self.config.siamese.train_discriminator:
            losses["siamese_d"], _ = self._contrast(fake_verdicts, batch)
            loss = loss + self.config.siamese.weight * losses["siamese_d"]
        self.optimizer_d.zero_grad()
        self.fabric.backward(loss)
        self.optimizer_d.step()
        return losses

    def _update_generator(self, output: Any, text: TextFeatures, batch: PairBatch) -> dict[str, Tensor]:
        config = self.config
        assert text.sentence is not None
        _freeze(self.discriminators.parameters(), True)
        verdicts, _ = self.discriminators(list(output.images), text.sentence)
        losses = {
            "generator": torch.stack([generator_loss(config.discriminator.loss, v) for v in verdicts]).sum(),
            "kl": kl_loss(output.mu, output.logvar),
        }
        loss = losses["generator"] + config.kl_weight * losses["kl"]
        losses["siamese_g"], distances = self._contrast(verdicts, batch)
        losses |= distances
        if config.siamese.weight and config.siamese.train_generator:
            loss = loss + config.siamese.weight * losses["siamese_g"]
        if config.damsm_weight:
            e = config.encoder
            with self.fabric.autocast():
                regions, code = self.image(output.images[-1])
            word, sentence = damsm_loss(regions, code, text, batch.classes, (e.gamma1, e.gamma2, e.gamma3))
            losses["damsm"] = word + sentence
            loss = loss + config.damsm_weight * losses["damsm"]
        self.optimizer_g.zero_grad()
        self.fabric.backward(loss)
        self.optimizer_g.step()
        _freeze(self.discriminators.parameters(), False)
        return losses

    def _move_average(self, averaged: Any, current: Any, _: Any) -> None:
        for mean, new in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - self._decay)
            else:
                mean.copy_(new)

    def _contrast(self, verdicts: list[Verdict], batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the distances that margin and alpha must be judged by."""
        halves = [v.feature.chunk(2) for v in verdicts]
        loss = self.contrast([a for a, _ in halves], [b for _, b in halves], batch.same)
        with torch.no_grad():
            distance = torch.stack([(a.float() - b.float()).norm(dim=1) for a, b in halves]).mean(0)
            same = batch.same.to(distance.dtype)
            means = {
                "distance_same": (distance * same).sum() / same.sum().clamp(min=1),
                "distance_other": (distance * (1 - same)).sum() / (1 - same).sum().clamp(min=1),
            }
        return loss, means

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "generator": self.generator.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "average": self.average.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        for name in ("generator", "discriminators", "average", "optimizer_g", "optimizer_d"):
            getattr(self, name).load_state_dict(state[name])


@torch.no_grad()
def standing_statistics(generator: Any, draws: Iterable[tuple[Tensor, TextFeatures]]) -> None:
    """Give an averaged generator the batch norm statistics of its own activations.

    Averaged running statistics belong to the weights of many steps, not to their average.

    Args:
        generator: changed in place; left in eval mode.
        draws: noise and text, a batch each.
    """
    norms = [module for module in generator.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    generator.train()
    for noise, text in draws:
        # The mean condition, as in sampling: a drawn one would be another distribution.
        mean = noise.new_zeros(len(noise), generator.augment.condition_dim)
        generator(noise, text, condition_noise=mean)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()


def pyramid(images: Tensor, sizes: list[int]) -> list[Tensor]:
    """The real images at each stage's size, low to high."""
    scaled = [
        images if images.shape[-1] == size else F.interpolate(images, size=(size, size), mode="area")
        for size in sizes
    ]
    return [image.contiguous(memory_format=torch.channels_last) for image in scaled]


def _freeze(parameters: Iterable[nn.Parameter], frozen: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(not frozen)
