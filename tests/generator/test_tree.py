"""TreeGenerator: shapes, plugging, conditioning, pictures of attention."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from scbn import SentenceSCBN, TextFeatures, TreeGenerator, WordSCBN
from scbn.generator.stages import InitialStage, RefinementStage, UpBlock

small = partial(TreeGenerator, 5, 6, base_size=8, channels=4, residual_blocks=1, noise_dim=3, condition_dim=4)


def text_of(n: int = 2) -> TextFeatures:
    return TextFeatures(torch.randn(n, 5), torch.randn(n, 3, 6), torch.zeros(n, 3, dtype=torch.bool))


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("base_size", [4, 8, 16])
def test_each_stage_doubles_the_size(stages: int, base_size: int) -> None:
    output = small(stages=stages, base_size=base_size)(torch.randn(2, 3), text_of())
    assert [tuple(i.shape) for i in output.images] == [
        (2, 3, base_size << s, base_size << s) for s in range(stages)
    ]
    assert output.mu.shape == output.logvar.shape == (2, 4)
    assert all(i.abs().max() <= 1 for i in output.images)


def test_channels_may_differ_between_stages() -> None:
    model = small(stages=3, channels=(6, 4, 2), image_channels=1)
    assert [head.in_channels for head in model.heads] == [6, 4, 2]
    assert model(torch.randn(2, 3), text_of()).images[-1].shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("batch", nn.BatchNorm2d), ("sentence", SentenceSCBN), ("word", WordSCBN), ("both", WordSCBN)],
)
def test_the_named_norms(norm: str, kind: type) -> None:
    model = small(stages=2, norm=norm)
    norms = [m.norm for m in model.modules() if isinstance(m, UpBlock)]
    assert norms
    assert all(type(n) is kind for n in norms)
    if kind is WordSCBN:
        assert all((n.sentence_dim is not None) == (norm == "both") for n in norms)
    sum(image.mean() for image in model(torch.randn(2, 3), text_of()).images).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_at_first_every_norm_gives_the_baselines_images() -> None:
    baseline = small(norm="batch", stages=2)
    noise, text, condition_noise = torch.randn(4, 3), text_of(4), torch.randn(4, 4)
    want = baseline(noise, text, condition_noise=condition_noise).images[-1]
    for norm in ("sentence", "word", "both"):
        model = small(norm=norm, stages=2)
        own = {name.replace(".norm.bn.", ".norm."): name for name in model.state_dict()}
        model.load_state_dict({own[n]: v for n, v in baseline.state_dict().items() if n in own}, strict=False)
        got = model(noise, text, condition_noise=condition_noise).images[-1]
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_ones_own_norm_with_and_without_text() -> None:
    seen = []

    class TakesText(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.channels = channels

        def forward(self, x, text):
            seen.append((self.channels, x.shape[1], text))
            return x

    text = text_of()
    small(norm=TakesText, stages=2)(torch.randn(2, 3), text)
    assert [(a, b) for a, b, _ in seen] == [(8, 8), (8, 8)]
    assert all(t is text for _, _, t in seen)
    model = small(norm=partial(nn.GroupNorm, 2), stages=2)
    assert model(torch.randn(2, 3), text).images[-1].shape[-1] == 16


def test_a_norm_for_each_stage() -> None:
    model = small(stages=3, norm=("sentence", "word", nn.BatchNorm2d))
    kinds = [{type(m.norm) for m in stage.modules() if isinstance(m, UpBlock)} for stage in model.stages]
    assert kinds == [{SentenceSCBN}, {WordSCBN}, {nn.BatchNorm2d}]


def test_ones_own_stages() -> None:
    class Doubling(nn.Module):
        def __init__(self, before: int, channels: int, residual_blocks: int, norm) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(before, channels, 2, stride=2)
            self.norm = norm(channels)

        def forward(self, h, text):
            return self.norm(self.up(h), text)

    model = small(stages=3, refinement_stage=Doubling, initial_stage=partial(InitialStage, activation="relu"))
    assert isinstance(model.stages[1], Doubling)
    assert model(torch.randn(2, 3), text_of()).images[-1].shape[-1] == 32


@pytest.mark.parametrize("activation", ["glu", "relu", "leaky_relu"])
def test_activations(activation: str) -> None:
    model = small(
        stages=2,
        initial_stage=partial(InitialStage, activation=activation),
        refinement_stage=partial(RefinementStage, activation=activation),
    )
    assert model(torch.randn(2, 3), text_of()).images[-1].isfinite().all()


def test_condition_is_drawn_in_training_and_its_mean_in_eval() -> None:
    model = small(stages=1)
    noise, text = torch.randn(2, 3), text_of()
    images = [model(noise, text).images[0] for _ in range(2)]
    assert not torch.equal(*images)
    model.eval()
    first, second = (model(noise, text) for _ in range(2))
    assert torch.equal(first.images[0], second.images[0])
    zeros = torch.zeros(2, 4)
    assert torch.equal(model(noise, text, condition_noise=zeros).images[0], first.images[0])
    assert not torch.equal(model(noise, text, condition_noise=zeros + 1).images[0], first.images[0])


def test_conditioning_augmentation_is_mu_plus_sigma_epsilon() -> None:
    model = small(stages=1)
    sentence, epsilon = torch.randn(2, 5), torch.randn(2, 4)
    condition, mu, logvar = model.augment(sentence, epsilon)
    torch.testing.assert_close(condition, mu + torch.exp(logvar / 2) * epsilon)


@pytest.mark.parametrize("norm", ["sentence", "word", "both"])
def test_images_follow_text_and_noise(norm: str) -> None:
    model = small(stages=2, norm=norm).eval()
    noise, text = torch.randn(2, 3), text_of()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    base = model(noise, text).images[-1]
    other = text._replace(**{"words": text.words + 1} if norm == "word" else {"sentence": text.sentence + 1})
    assert not torch.allclose(model(noise, other).images[-1], base)
    assert not torch.allclose(model(noise + 1, text).images[-1], base)


def test_an_empty_caption_poisons_nothing() -> None:
    model = small(stages=2).eval()
    noise, text = torch.randn(2, 3), text_of()
    text.padding_mask[0] = True
    want = model(noise, text).images[-1]
    text.sentence[0], text.words[0] = float("nan"), float("nan")
    assert torch.equal(model(noise, text).images[-1], want)


def test_attention_comes_with_the_images_it_belongs_to() -> None:
    model = small(stages=3, norm=("sentence", "word", "both")).eval()
    noise, text = torch.randn(2, 3), text_of()
    text.padding_mask[0, 2] = True
    output, maps = model.attention(noise, text)
    assert torch.equal(output.images[-1], model(noise, text).images[-1])
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "stages.1.up.norm": (2, 3, 16, 16),
        "stages.2.up.norm": (2, 3, 32, 32),
    }
    for attention in maps.values():
        torch.testing.assert_close(attention.sum(1), torch.ones_like(attention[:, 0]))
        assert not attention[0, 2].any()
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert small(norm="batch").attention(noise, text)[1] == {}


def test_copies_and_layout() -> None:
    model = small(stages=2).eval()
    noise, text = torch.randn(2, 3), text_of()
    want = model(noise, text).images[-1]
    assert torch.equal(copy.deepcopy(model)(noise, text).images[-1], want)
    assert torch.equal(pickle.loads(pickle.dumps(model))(noise, text).images[-1], want)
    last = model.to(memory_format=torch.channels_last)(noise, text).images[-1]
    torch.testing.assert_close(last, want, rtol=1e-3, atol=1e-5)
    assert model.double()(noise.double(), text).images[-1].dtype == torch.float64


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's own
def test_how_a_norm_is_called() -> None:
    class Optional(nn.BatchNorm2d):
        def forward(self, x, momentum=0.1):
            return super().forward(x)

    class Named(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x, text=None):
            assert text is not None
            return x

    class Anything(Named):
        def forward(self, *args):
            assert len(args) == 2
            return args[0]

    for norm in (Optional, Named, Anything, lambda c: torch.compile(SentenceSCBN(c, 5), backend="eager")):
        small(norm=norm, stages=1)(torch.randn(2, 3), text_of())
    for norm, message in (
        (nn.BatchNorm2d(8), "got one BatchNorm2d"),
        (lambda c: c, "must return an nn.Module, got int"),
    ):
        with pytest.raises(ValueError, match=message):
            small(norm=norm, stages=1)


def test_an_error_changes_no_statistics() -> None:
    model = small(stages=2)
    before = copy.deepcopy(model.state_dict())
    text = text_of()
    for bad in (
        text._replace(words=None),
        text._replace(words=text.words[:, :, :4]),
        text._replace(padding_mask=text.padding_mask[:, :2]),
    ):
        with pytest.raises(ValueError, match=r"word|padding_mask"):
            model(torch.randn(2, 3), bad)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_attention_of_stages_of_ones_own() -> None:
    class Stage(nn.Module):
        def __init__(self, before, channels, blocks, norm):
            super().__init__()
            self.attention = nn.MultiheadAttention(before, 1, kdim=6, vdim=6, batch_first=True)
            self.up = nn.ConvTranspose2d(before, channels, 2, stride=2)
            self.norm = norm(channels)

        def forward(self, h, text):
            rows = h.flatten(2).mT
            context, _ = self.attention(rows, text.words, text.words)
            return self.norm(self.up(h + context.mT.reshape(h.shape)), text=text)

    model = small(stages=2, refinement_stage=Stage).eval()
    _, maps = model.attention(torch.randn(2, 3), text_of())
    assert list(maps) == ["stages.0.up.0.norm", "stages.1.norm"]
