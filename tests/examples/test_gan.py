"""One training step: what moves, what stands still, and what the averaged generator is."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from lightning.fabric import Fabric

from examples.sdgan.config import Config, preset
from examples.sdgan.data.pairs import PairBatch
from examples.sdgan.discriminator import Verdict
from examples.sdgan.encoders import SmallImageEncoder, TextEncoder
from examples.sdgan.gan import GanTraining, pyramid, standing_statistics
from examples.sdgan.losses import discriminator_loss, generator_loss, kl_loss

SIZES = [8, 16, 32]


def config(recipe: str = "toy", **changes) -> Config:
    base = preset("toy" if recipe == "toy" else "cub")
    return dataclasses.replace(
        base,
        size=32,
        batch_size=4,
        encoder=dataclasses.replace(base.encoder, dim=8, embedding_dim=6),
        generator=dataclasses.replace(base.generator, channels=(8, 8, 8), noise_dim=5, condition_dim=6),
        discriminator=dataclasses.replace(base.discriminator, channels=8, max_channels=16),
        **changes,
    )


def training(options: Config) -> GanTraining:
    fabric = Fabric(accelerator="cpu", devices=1)
    return GanTraining(fabric, options, TextEncoder(20, options.encoder), SmallImageEncoder(8))


def batch() -> PairBatch:
    tokens = torch.randint(2, 20, (8, 6))
    tokens[3, 4:] = 0
    same = torch.tensor([True, True, False, False])
    return PairBatch(torch.randint(256, (8, 3, 32, 32)).byte(), tokens, same, torch.arange(8), torch.arange(8))


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("recipe", ["toy", "paper"])
def test_a_step_trains_generator_and_discriminators_only(recipe: str) -> None:
    gan = training(config(recipe))
    parts = (gan.generator, gan.discriminators, gan.text, gan.image)
    before = [snapshot(part) for part in parts]
    losses = gan.step(0, batch())
    gan.step(1, batch())
    assert set(losses) == {"discriminator", "siamese_d", "generator", "kl", "siamese_g", "damsm"}
    assert all(value.isfinite() and not value.requires_grad for value in losses.values())
    # At step 0 the zero heads hide word_proj; at step 1 everything has moved.
    assert moved(before[0], gan.generator) == set(before[0])
    assert moved(before[1], gan.discriminators) == set(before[1])
    assert not moved(before[2], gan.text)
    assert not moved(before[3], gan.image)


@pytest.mark.parametrize(("weight", "learns"), [(0.0, False), (1.0, False), (1.0, True)])
def test_siamese_loss_is_an_option(weight: float, learns: bool) -> None:
    base = config()
    siamese = dataclasses.replace(base.siamese, weight=weight, train_discriminator=learns)
    losses = training(dataclasses.replace(base, siamese=siamese)).step(0, batch())
    assert ("siamese_g" in losses) == bool(weight)
    assert ("siamese_d" in losses) == (bool(weight) and learns)


def test_without_damsm() -> None:
    assert "damsm" not in training(config(damsm_weight=0.0)).step(0, batch())


def test_features_of_unit_length_or_as_they_are() -> None:
    base = config()
    for normalize in (True, False):
        gan = training(dataclasses.replace(base, siamese=dataclasses.replace(base.siamese, normalize=normalize)))
        images = [torch.randn(8, 3, s, s) for s in SIZES]
        verdicts, wrong = gan.discriminators(images, torch.randn(8, 8), torch.randn(8, 8))
        assert [v.feature.shape for v in verdicts] == [(8, 256)] * 3
        assert [w.shape for w in wrong] == [(8,)] * 3
        unit = torch.allclose(verdicts[0].feature.norm(dim=1), torch.ones(8), atol=1e-5)
        assert unit == normalize


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_losses_reward_what_they_should(kind: str) -> None:
    def verdict(value: float) -> Verdict:
        return Verdict(torch.full((4,), value), torch.full((4,), value), torch.zeros(4, 2))

    good = discriminator_loss(kind, verdict(2.0), verdict(-2.0), torch.full((4,), -2.0))
    bad = discriminator_loss(kind, verdict(-2.0), verdict(2.0), torch.full((4,), 2.0))
    assert good < bad
    assert generator_loss(kind, verdict(2.0)) < generator_loss(kind, verdict(-2.0))


def test_discriminator_loss_averages_as_attngan_does() -> None:
    zero = Verdict(torch.zeros(4), torch.zeros(4), torch.zeros(4, 2))
    # Every cross-entropy is log 2 at logit 0: (2 log 2) / 2 + (3 log 2) / 3.
    torch.testing.assert_close(discriminator_loss("bce", zero, zero, torch.zeros(4)), 2 * torch.tensor(2.0).log())
    assert float(discriminator_loss("hinge", zero, zero, torch.zeros(4))) == 2.0


def test_kl_is_that_of_torch_distributions() -> None:
    mu, logvar = torch.randn(3, 4), torch.randn(3, 4)
    normal = torch.distributions.Normal
    want = torch.distributions.kl_divergence(normal(mu, (logvar / 2).exp()), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_loss(mu, logvar), want)


def test_the_average_follows_its_decay() -> None:
    base = config()
    gan = training(dataclasses.replace(base, generator=dataclasses.replace(base.generator, ema=0.2)))
    name = "heads.0.weight"
    gan.step(0, batch())
    expected = dict(gan.generator.module.named_parameters())[name].detach().clone()
    for step in (1, 2):
        gan.step(step, batch())
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * dict(gan.generator.module.named_parameters())[name].detach()
    torch.testing.assert_close(dict(gan.average.module.named_parameters())[name].detach(), expected)
    assert gan.average.module.stages[0].fc[1].num_batches_tracked == 3


def test_standing_statistics_are_those_of_the_draws() -> None:
    gan = training(config())
    gan.step(0, batch())
    generator = copy.deepcopy(gan.average.module)
    text, noise = gan.encode(batch().tokens), torch.randn(8, 5)
    norm = generator.stages[0].fc[1]
    momentum = norm.momentum
    standing_statistics(generator, [(noise, text)] * 3)
    assert norm.num_batches_tracked == 3
    assert norm.momentum == momentum
    assert not generator.training
    seen = []
    norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    generator(noise, text)  # in eval mode: the condition's mean, as in sampling
    torch.testing.assert_close(norm.running_mean, seen[0].mean(0))
    torch.testing.assert_close(norm.running_var, seen[0].var(0))
    # A second draw of its own weighs as much as the first.
    other = torch.randn(8, 5)
    standing_statistics(generator, [(noise, text), (other, text)])
    generator(other, text)
    torch.testing.assert_close(norm.running_mean, torch.cat((seen[1], seen[-1])).mean(0))


def test_the_pyramid_halves_by_averaging() -> None:
    images = torch.randn(2, 3, 32, 32)
    small, middle, full = pyramid(images, SIZES)
    assert torch.equal(full, images)
    torch.testing.assert_close(middle, torch.nn.functional.avg_pool2d(images, 2))
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(images, 4))
