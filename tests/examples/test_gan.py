"""One training step: what moves, what stands still, and what the averaged generator is."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from lightning.fabric import Fabric

from examples.sdgan.config import Config, from_json
from examples.sdgan.data import CaptionedImages
from examples.sdgan.data.birds import ATTRIBUTES
from examples.sdgan.data.pairs import PairBatch
from examples.sdgan.data.toy import birds
from examples.sdgan.losses.adversarial import discriminator_loss, generator_loss, kl_loss
from examples.sdgan.metrics.birds import measure
from examples.sdgan.metrics.caption_fidelity import caption_fidelity
from examples.sdgan.models.discriminator import DiscriminatorOutput
from examples.sdgan.models.encoders import SmallImageEncoder, TextEncoder
from examples.sdgan.models.generator import standing_statistics
from examples.sdgan.presets import preset
from examples.sdgan.training.encoders import EncoderTraining
from examples.sdgan.training.gan import GanTraining, pyramid
from scbn import TextFeatures

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


def test_each_stage_can_have_its_own_norm() -> None:
    options = config()
    norms = dataclasses.replace(options.generator, norms=("sentence", "word", "cbn"))
    options = dataclasses.replace(options, generator=norms)
    gan = training(from_json(options.to_json()))
    found = [
        {type(m).__name__ for m in stage.modules() if "B" in type(m).__name__} for stage in gan.generator.stages
    ]
    assert [names & {"SentenceSCBN", "WordSCBN", "ConditionalBatchNorm"} for names in found] == [
        {"SentenceSCBN"},
        {"WordSCBN"},
        {"ConditionalBatchNorm"},
    ]
    assert gan.step(0, batch())["generator"].isfinite()
    with pytest.raises(
        ValueError, match=r"--generator.norms needs a norm for each of the 3 stages, got \('word',\)"
    ):
        dataclasses.replace(options, generator=dataclasses.replace(norms, norms=("word",)))
    with pytest.raises(ValueError, match=r"--generator.norms .* are of --generator.architecture tree"):
        dataclasses.replace(options, generator=dataclasses.replace(norms, architecture="attngan"))


@pytest.mark.parametrize("recipe", ["toy", "paper"])
def test_a_step_trains_generator_and_discriminators_only(recipe: str) -> None:
    gan = training(config(recipe))
    parts = (gan.generator, gan.discriminators, gan.text, gan.image)
    before = [snapshot(part) for part in parts]
    losses = gan.step(0, batch())
    gan.step(1, batch())
    distances = {"distance_same", "distance_same/count", "distance_other", "distance_other/count"}
    assert set(losses) == {"discriminator", "siamese_d", "generator", "kl", "siamese_g", "damsm"} | distances
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
    assert ("siamese_d" in losses) == (bool(weight) and learns)


def test_without_damsm() -> None:
    assert "damsm" not in training(config(damsm_weight=0.0)).step(0, batch())


def test_features_of_unit_length_or_as_they_are() -> None:
    base = config()
    for normalize in (True, False):
        gan = training(dataclasses.replace(base, siamese=dataclasses.replace(base.siamese, normalize=normalize)))
        images = [torch.randn(8, 3, s, s) for s in SIZES]
        outputs, mismatched = gan.discriminators(images, torch.randn(8, 8), torch.randn(8, 8))
        assert [v.embedding.shape for v in outputs] == [(8, 256)] * 3
        assert [w.shape for w in mismatched] == [(8,)] * 3
        unit = torch.allclose(outputs[0].embedding.norm(dim=1), torch.ones(8), atol=1e-5)
        assert unit == normalize


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_losses_reward_what_they_should(kind: str) -> None:
    def output(value: float) -> DiscriminatorOutput:
        return DiscriminatorOutput(torch.full((4,), value), torch.full((4,), value), torch.zeros(4, 2))

    good = discriminator_loss(kind, output(2.0), output(-2.0), torch.full((4,), -2.0))
    bad = discriminator_loss(kind, output(-2.0), output(2.0), torch.full((4,), 2.0))
    assert good < bad
    assert generator_loss(kind, output(2.0)) < generator_loss(kind, output(-2.0))


def test_discriminator_loss_averages_as_attngan_does() -> None:
    zero = DiscriminatorOutput(torch.zeros(4), torch.zeros(4), torch.zeros(4, 2))
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


def test_every_term_enters_the_loss_with_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    options = dataclasses.replace(config(), kl_weight=3.0, damsm_weight=0.5)
    options = dataclasses.replace(options, siamese=dataclasses.replace(options.siamese, weight=0.25))
    gan = training(options)
    totals = []
    backward = gan.fabric.backward
    monkeypatch.setattr(gan.fabric, "backward", lambda loss: (totals.append(float(loss.detach())), backward(loss)))
    losses = {name: float(value) for name, value in gan.step(0, batch()).items()}
    discriminator, generator = totals
    assert discriminator == pytest.approx(losses["discriminator"] + 0.25 * losses["siamese_d"], rel=1e-5)
    want = losses["generator"] + 3 * losses["kl"] + 0.5 * losses["damsm"] + 0.25 * losses["siamese_g"]
    assert generator == pytest.approx(want, rel=1e-5)


def test_what_a_step_shows_to_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.sdgan.training import gan as module

    gan, data = training(config()), batch()
    seen: dict[str, list] = {"generator": [], "discriminators": [], "classes": []}
    gan.generator.register_forward_pre_hook(lambda _m, args: seen["generator"].append(args))
    gan.discriminators.module.register_forward_pre_hook(lambda _m, args: seen["discriminators"].append(args))
    matching = module.damsm_loss
    monkeypatch.setattr(
        module,
        "damsm_loss",
        lambda r, c, t, classes, g: (seen["classes"].append(classes), matching(r, c, t, classes, g))[1],
    )
    gan.step(0, data)
    noise, text = seen["generator"][0][:2]
    assert torch.equal(noise[:4], noise[4:])  # both branches of a pair from one noise
    real, fake, again = seen["discriminators"]
    torch.testing.assert_close(real[0][-1], data.images.float() / 127.5 - 1)
    mismatched = torch.cat((text.sentence[:4].roll(1, 0), text.sentence[4:].roll(1, 0)))
    assert torch.equal(real[2], mismatched)
    assert not fake[0][-1].requires_grad
    assert again[0][-1].requires_grad
    assert torch.equal(seen["classes"][0], data.classes)


def test_own_noise_for_each_branch() -> None:
    base = config()
    gan = training(dataclasses.replace(base, siamese=dataclasses.replace(base.siamese, share_noise=False)))
    seen = []
    gan.generator.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    gan.step(0, batch())
    assert not torch.equal(seen[0][:4], seen[0][4:])


def test_the_text_encoders_gradient_is_clipped() -> None:
    base = config()
    options = dataclasses.replace(
        base, encoder_steps=4, encoder=dataclasses.replace(base.encoder, text_clip=1e-3, label_share=0.0)
    )
    data = CaptionedImages("none", [], [[]], classes=torch.arange(8))
    fabric = Fabric(accelerator="cpu", devices=1)
    text = TextEncoder(20, options.encoder)
    encoders = EncoderTraining(fabric, options, text, SmallImageEncoder(8), data)
    encoders.step(0, batch())
    norm = torch.stack([p.grad.norm() for p in text.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_fidelity_and_chance_by_hand() -> None:
    truth = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 4, 1]])
    read = torch.tensor([[0, 1, 0, 3, 1], [1, 0, 3, 4, 1]])
    named = [["size", "crown", "wing"], ["crown", "beak"]]
    result = caption_fidelity(read, truth, named, list(ATTRIBUTES))
    assert result.value == pytest.approx(3 / 5)
    assert result.each["crown"] == 0.5
    assert result.each["wing"] == 0
    assert result.low <= result.value <= result.high


def test_chance_scores_images_against_other_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A perfect generator has fidelity 1, and by chance only what birds share."""
    train, test = birds("train", 16, 40), birds("test", 16, 200)

    class Perfect:
        """Reads from an image what its caption says."""

        def read(self, images: torch.Tensor) -> torch.Tensor:
            return test.labels[: len(images)]

    class Fake:
        config = dataclasses.replace(preset("toy"), size=32)

        def images(self, captions, noise):
            return torch.zeros(len(captions), 3, 16, 16)

        def encode(self, captions):
            return TextFeatures(torch.randn(len(captions), 4))

    monkeypatch.setattr("examples.sdgan.metrics.birds.train_reader", lambda *_: Perfect())
    monkeypatch.setattr(
        type(test.images), "load", lambda self, indices, size, rng: torch.zeros(len(indices), 3, 16, 16)
    )
    result = measure(Fake(), train, test, 0, lambda step: None)
    assert result["caption_fidelity"]["value"] == 1
    assert result["chance"]["value"] < 0.6
    assert result["novel_caption_fidelity"]["value"] < 0.6


def test_a_step_in_parts_is_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for batch statistics and DAMSM's negatives, which are a part's own, so here there are none."""
    for kind in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
        monkeypatch.setattr(kind, "forward", lambda self, x: x)
    base = config("paper", damsm_weight=0.0)
    base = dataclasses.replace(base, generator=dataclasses.replace(base.generator, norm="batch"))
    data, gans = batch(), []
    for accumulate in (1, 2, 4):
        torch.manual_seed(0)
        gans.append(training(dataclasses.replace(base, accumulate=accumulate)))
        losses = [gans[-1].step(step, data) for step in range(2)]
        gans[-1].losses = {k: v for k, v in losses[0].items() if "distance" not in k}
    for other in gans[1:]:
        torch.testing.assert_close(other.losses, gans[0].losses, rtol=1e-4, atol=1e-6)
        for part in ("generator", "discriminators"):
            want = dict(getattr(gans[0], part).named_parameters())
            for name, value in getattr(other, part).named_parameters():
                torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-4)


def test_weights_of_stages_and_warm_up_of_the_siamese_loss() -> None:
    base, data = config(), batch()
    found = {}
    for name, change in {
        "all": {},
        "first": {"stages": (1.0, 0.0, 0.0)},
        "second": {"stages": (0.0, 1.0, 0.0)},
        "third": {"stages": (0.0, 0.0, 1.0)},
        "double": {"stages": (2.0, 2.0, 2.0)},
    }.items():
        torch.manual_seed(0)
        gan = training(dataclasses.replace(base, siamese=dataclasses.replace(base.siamese, **change)))
        found[name] = float(gan.step(0, data)["siamese_d"])
    assert found["first"] + found["second"] + found["third"] == pytest.approx(found["all"], rel=1e-5)
    assert found["double"] == pytest.approx(2 * found["all"], rel=1e-5)

    def weights(warm_up: int, weight: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        siamese = dataclasses.replace(base.siamese, warm_up=warm_up, weight=weight)
        gan = training(dataclasses.replace(base, siamese=siamese))
        gan.step(0, data)
        return snapshot(gan.discriminators)

    torch.testing.assert_close(weights(4, 2.0), weights(0, 0.5))  # the first of four steps: a quarter


def test_losses_of_the_generator_have_weights() -> None:
    output = DiscriminatorOutput(torch.full((4,), 2.0), torch.full((4,), -1.0), torch.zeros(4, 2))
    assert float(generator_loss("hinge", output, 3.0, 5.0)) == pytest.approx(3 * -2.0 + 5 * 1.0)
    only = [float(generator_loss("bce", output, *w)) for w in ((1, 0), (0, 1), (1, 1))]
    assert only[0] + only[1] == pytest.approx(only[2])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_models_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend that only captures: what Inductor makes of it is PyTorch's to test, and takes minutes."""
    original, compiled = torch.nn.Module.compile, []

    def capture(self: torch.nn.Module) -> None:
        compiled.append(type(self).__name__)
        original(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", capture)
    data, found = batch(), []
    for compile in (False, True):
        torch.manual_seed(0)
        gan = training(config(compile=compile))
        found.append([gan.step(step, data) for step in range(2)])
        found.append(gan.state_dict()["generator"])
    assert compiled == ["TreeGenerator", "Discriminators"]
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-5)
    assert found[1].keys() == found[3].keys()
