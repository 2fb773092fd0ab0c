"""One training step of SD-GAN: the discriminators, then the generator, over both branches of every pair."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from examples.sdgan.config import Config
from examples.sdgan.data.dataset import to_float
from examples.sdgan.data.pairs import PairBatch, step_rng
from examples.sdgan.losses.adversarial import discriminator_loss, generator_loss, kl_loss
from examples.sdgan.losses.damsm import damsm_loss
from examples.sdgan.models.discriminator import DiscriminatorOutput, Discriminators
from examples.sdgan.models.encoders import AnyTextEncoder, InceptionImageEncoder, SmallImageEncoder
from examples.sdgan.models.generator import build_generator
from examples.sdgan.models.transfer import sent
from examples.sdgan.training.distributed import gather, gather_text, no_sync, share_statistics
from examples.sdgan.training.phase import Batches, Phase
from scbn import SiameseContrastiveLoss, TextFeatures, TreeOutput


class MicroBatch(NamedTuple):
    """What one forward and backward takes: all of a process's batch, or a part of it where gradients accumulate."""

    batch: PairBatch
    noise: Tensor
    condition_noise: Tensor
    text: TextFeatures
    mismatched_sentence: Tensor
    real: list[Tensor]


class GanTraining(Phase):
    """Generator, discriminators, their optimisers and the moving average of the generator.

    Args:
        fabric: devices and precision.
        config: of the run.
        text, image: the frozen encoders.
        generator: what to train; by default what the options describe. Called as a :class:`TreeGenerator`.
        name, steps: of the phase; by default ``"gan"`` and the options' steps.
        groups: of the generator's parameters, with learning rates of their own; by default one group.
        averaged: the generator's weights are an average already, which goes on; else it starts anew.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: Config,
        text: AnyTextEncoder,
        image: SmallImageEncoder | InceptionImageEncoder,
        generator: nn.Module | None = None,
        name: str = "gan",
        steps: int | None = None,
        groups: list[dict[str, Any]] | None = None,
        averaged: bool = False,
    ) -> None:
        self.name, self.steps = name, config.steps if steps is None else steps
        self.batches = Batches(config.batch_size, same=0.5, seed=config.seed + 1)
        self.fabric, self.config = fabric, config
        self.text, self.image = text.eval().requires_grad_(False), image.eval().requires_grad_(False)
        if generator is None:
            generator = build_generator(config).to(memory_format=torch.channels_last)
        discriminators = Discriminators(config.sizes, config.encoder.dim, config.discriminator, config.siamese).to(
            memory_format=torch.channels_last
        )
        if not (config.siamese.weight and config.siamese.train_discriminator):
            # DDP waits for the gradient of every parameter that asks for one.
            for stage in discriminators.stages:
                stage.get_submodule("siamese").requires_grad_(False)
        if config.sync_batch_norm:
            generator, discriminators = (share_statistics(m, fabric.device) for m in (generator, discriminators))
        self.average = AveragedModel(generator, device=fabric.device, use_buffers=True)
        # On the host, which asks for it. At 0, the first update copies the weights.
        self.average.n_averaged = torch.tensor(int(averaged), device="cpu")
        self._averaged = averaged
        if config.compile:
            generator.compile()
            discriminators.compile()
        g, d = config.generator, config.discriminator
        self.trained = [p for p in discriminators.parameters() if p.requires_grad]
        self.generator, self.optimizer_g = fabric.setup(
            generator, torch.optim.Adam(groups or generator.parameters(), g.lr, g.betas, fused=True)
        )
        self.discriminators, self.optimizer_d = fabric.setup(
            discriminators, torch.optim.Adam(discriminators.parameters(), d.lr, d.betas, fused=True)
        )
        self._decay = 0.0
        s = config.siamese
        self.contrast = SiameseContrastiveLoss(s.margin, s.alpha)
        self.stage_weights = s.stages or (1.0,) * len(config.sizes)

    def encode(self, tokens: Tensor, on_host: np.ndarray | None = None) -> TextFeatures:
        """Text features of the frozen encoder."""
        with torch.no_grad():
            return self.text(tokens, on_host)

    def step(self, step: int, batch: PairBatch) -> dict[str, Tensor]:
        """One update of all discriminators and of the generator."""
        self.generator.train()
        self.discriminators.train()
        parts = self._micro_batches(step, batch)
        weight = self.config.siamese.weight * min(1.0, (step + 1) / max(self.config.siamese.warm_up, 1))
        # One part's graph is kept from here to the generator's update; of several, that would cost the memory that
        # parts are there to save, and they generate twice.
        whole = self._generate(parts[0]) if len(parts) == 1 else None

        found: list[dict[str, Tensor]] = []
        for i, micro in enumerate(parts):
            with torch.set_grad_enabled(whole is not None):
                images = (whole or self._generate(micro)).images
            with no_sync(self.fabric, self.discriminators, i + 1 < len(parts)):
                found.append(self._learn_discriminators(micro, images, weight, len(parts)))
        self.optimizer_d.step()
        self.optimizer_d.zero_grad()

        _freeze(self.trained, True)
        for i, micro in enumerate(parts):
            with no_sync(self.fabric, self.generator, i + 1 < len(parts)):
                found[i] |= self._learn_generator(micro, whole or self._generate(micro), weight, len(parts))
        self.optimizer_g.step()
        self.optimizer_g.zero_grad()
        _freeze(self.trained, False)

        # Short runs would else average with weights that nobody trained.
        most = 1.0 if self._averaged else (1 + step) / (10 + step)
        self._decay = min(self.config.generator.ema, most)
        self._move_average()
        return {name: torch.stack([f[name] for f in found]).mean(0) for name in found[0]}

    def _micro_batches(self, step: int, batch: PairBatch) -> list[MicroBatch]:
        config, fabric = self.config, self.fabric
        world, rank, pairs = fabric.world_size, fabric.global_rank, len(batch.same)
        # The noise of the joint batch, of which each process takes its pairs: so the result is that of one process.
        rng = step_rng(config.seed + 1, step)
        noise = torch.randn(2, pairs * world, config.generator.noise_dim, generator=rng)
        if config.siamese.share_noise:
            noise[1] = noise[0]
        condition_noise = torch.randn(2, pairs * world, config.generator.condition_dim, generator=rng)
        noise, condition_noise = (
            sent(draw[:, rank::world].flatten(0, 1), fabric.device) for draw in (noise, condition_noise)
        )
        text = self.encode(batch.tokens, batch.on_host)
        assert text.sentence is not None
        # The caption of the next pair: within a pair of one image it might well fit.
        joint = gather(fabric, text.sentence).unflatten(0, (world, 2, pairs)).permute(1, 2, 0, 3).flatten(1, 2)
        mismatched_sentence = joint.roll(1, 1).unflatten(1, (pairs, world))[:, :, rank].flatten(0, 1)
        real = pyramid(to_float(batch.images), config.sizes)

        if config.accumulate == 1:
            return [MicroBatch(batch, noise, condition_noise, text, mismatched_sentence, real)]
        parts = []
        for i in range(config.accumulate):
            half = torch.arange(i, pairs, config.accumulate, device=fabric.device)
            rows = torch.cat((half, half + pairs))
            taken = PairBatch(
                batch.images[rows],
                batch.tokens[rows],
                batch.same[half],
                batch.classes[rows],
                batch.indices[rows],
            )
            parts.append(
                MicroBatch(
                    taken,
                    noise[rows],
                    condition_noise[rows],
                    TextFeatures(*(value[rows] for value in text if value is not None)),
                    mismatched_sentence[rows],
                    [image[rows].contiguous(memory_format=torch.channels_last) for image in real],
                )
            )
        return parts

    def _generate(self, micro: MicroBatch) -> TreeOutput:
        return self.generator(micro.noise, micro.text, condition_noise=micro.condition_noise)

    def _learn_discriminators(
        self, micro: MicroBatch, fake: tuple[Tensor, ...], weight: float, parts: int
    ) -> dict[str, Tensor]:
        assert micro.text.sentence is not None
        real_outputs, mismatched = self.discriminators(micro.real, micro.text.sentence, micro.mismatched_sentence)
        fake_outputs, _ = self.discriminators([image.detach() for image in fake], micro.text.sentence)
        kind = self.config.discriminator.loss
        each = [
            discriminator_loss(kind, r, f, w)
            for r, f, w in zip(real_outputs, fake_outputs, mismatched, strict=True)
        ]
        loss = torch.stack(each).sum()
        losses = {"discriminator": loss}
        if self.config.siamese.weight and self.config.siamese.train_discriminator:
            losses["siamese_d"], _ = self._contrast(fake_outputs, micro.batch)
            loss = loss + weight * losses["siamese_d"]
        self.fabric.backward(loss / parts if parts > 1 else loss)
        return _detached(losses)

    def _learn_generator(
        self, micro: MicroBatch, output: TreeOutput, weight: float, parts: int
    ) -> dict[str, Tensor]:
        config, text = self.config, micro.text
        assert text.sentence is not None
        # Past DDP: frozen discriminators have no gradients to wait for.
        with self.fabric.autocast():
            outputs, _ = self.discriminators.module(list(output.images), text.sentence)
        outputs = [DiscriminatorOutput(*(value.float() for value in each)) for each in outputs]
        kind, u, c = config.discriminator.loss, config.unconditional_weight, config.conditional_weight
        losses = {
            "generator": torch.stack([generator_loss(kind, v, u, c) for v in outputs]).sum(),
            "kl": kl_loss(output.mu, output.logvar),
        }
        loss = losses["generator"] + config.kl_weight * losses["kl"]
        losses["siamese_g"], distances = self._contrast(outputs, micro.batch)
        losses |= distances
        if config.siamese.weight and config.siamese.train_generator:
            loss = loss + weight * losses["siamese_g"]
        if config.damsm_weight:
            losses["damsm"] = self._damsm(micro, output.images[-1])
            loss = loss + config.damsm_weight * losses["damsm"]
        self.fabric.backward(loss / parts if parts > 1 else loss)
        return _detached(losses)

    def _damsm(self, micro: MicroBatch, images: Tensor) -> Tensor:
        e, fabric = self.config.encoder, self.fabric
        with fabric.autocast():
            regions, code = self.image(images)
        # Every caption of the joint batch is a negative. Each process computes all of it: gathering backwards sums over
        # processes what DDP then averages.
        word, sentence = damsm_loss(
            gather(fabric, regions),
            gather(fabric, code),
            gather_text(fabric, micro.text),
            gather(fabric, micro.batch.classes),
            (e.gamma1, e.gamma2, e.gamma3),
        )
        return word + sentence

    @torch.no_grad()
    def _move_average(self) -> None:
        """What ``update_parameters`` does, which sends ``n_averaged`` to the device and waits for it."""
        first = int(self.average.n_averaged) == 0
        for mean, new in zip(_values(self.average.module), _values(self.generator), strict=True):
            if mean.is_floating_point() and not first:
                mean.lerp_(new, 1 - self._decay)
            else:
                mean.copy_(new)
        self.average.n_averaged += 1

    def _contrast(self, outputs: list[DiscriminatorOutput], batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and sums and counts of the distances that margin and alpha must be judged by."""
        halves = [v.embedding.chunk(2) for v in outputs]
        each = [w * self.contrast(a, b, batch.same) for w, (a, b) in zip(self.stage_weights, halves, strict=True)]
        with torch.no_grad():
            distance = torch.stack([(a.float() - b.float()).norm(dim=1) for a, b in halves]).mean(0)
            same = batch.same.to(distance.dtype)
            # A part of the batch may have no such pair.
            distances = {
                "distance_same": (distance * same).sum(),
                "distance_same/count": same.sum(),
                "distance_other": (distance * (1 - same)).sum(),
                "distance_other/count": (1 - same).sum(),
            }
        return torch.stack(each).sum(), distances

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


def pyramid(images: Tensor, sizes: list[int]) -> list[Tensor]:
    """The real images at each stage's size, low to high."""
    scaled = [
        images if images.shape[-1] == size else F.interpolate(images, size=(size, size), mode="area")
        for size in sizes
    ]
    return [image.contiguous(memory_format=torch.channels_last) for image in scaled]


def _values(module: nn.Module) -> Iterable[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _freeze(parameters: Iterable[nn.Parameter], frozen: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(not frozen)


def _detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in losses.items()}
