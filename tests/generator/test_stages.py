"""The stages of the tree, their activations and norms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import scbn
from scbn import TextFeatures, TreeGenerator
from scbn.generator import stages
from scbn.generator.stages import ResidualBlock


@pytest.mark.parametrize("norm", ["batch", "sentence"])
def test_a_word_dim_that_no_norm_uses_is_checked_too(norm: str) -> None:
    with pytest.raises(ValueError, match="word_dim must be a whole number of at least 1, got word_dim=-6"):
        TreeGenerator(5, -6, norm=norm)


def test_activations_by_hand() -> None:
    x = torch.tensor([[-1.0, 2.0]])
    assert stages.Activation("leaky_relu")(x).tolist() == [[pytest.approx(-0.2), 2.0]]
    assert stages.Activation("relu")(x).tolist() == [[0.0, 2.0]]
    assert stages.Activation("glu")(x).tolist() == [[pytest.approx(-1 / (1 + math.exp(-2)))]]


def test_a_norm_is_pytorchs_own_unless_said() -> None:
    assert scbn.NormLayer("a", "BatchNorm2d", 3)[3:] == (None, None, False)


def test_no_bias_before_a_norm_that_would_take_it_away() -> None:
    generator = TreeGenerator(5, stages=2, base_size=8, channels=4, residual_blocks=1, norm="batch")
    assert not [name for name, m in generator.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None]


def test_conditioning_augmentation_by_hand() -> None:
    layer = stages.ConditioningAugmentation(3, 2)
    sentence, noise = torch.randn(4, 3), torch.randn(4, 2)
    value, gate = layer.fc(sentence).split(4, 1)
    mu, logvar = (value * torch.sigmoid(gate)).split(2, 1)
    torch.testing.assert_close(layer(sentence, noise), (mu + noise * torch.exp(logvar / 2), mu, logvar))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation must be 'glu', 'relu' or 'leaky_relu', got 'gelu'"):
        stages.Activation("gelu")


def test_channels_are_checked_before_stages_of_ones_own() -> None:
    with pytest.raises(ValueError, match="channels must be a whole number of at least 1, got channels=0"):
        TreeGenerator(5, 6, channels=0, initial_stage=lambda *sizes: nn.Identity(), stages=1)


def test_an_empty_caption_has_the_condition_of_a_zero_sentence() -> None:
    generator = TreeGenerator(5, 6, stages=1, base_size=4, channels=2, noise_dim=3).eval()
    text = TextFeatures(torch.randn(2, 5), torch.randn(2, 3, 6), torch.tensor([[True] * 3, [False] * 3]))
    output = generator(torch.randn(2, 3), text)
    mu = generator.augment(torch.stack((torch.zeros(5), text.sentence[1])), None)[1]
    torch.testing.assert_close(output.mu, mu)


class Named(nn.Module):
    def forward(self, x, text=None): ...


class Needed(nn.Module):
    def forward(self, x, condition): ...


class Optional(nn.Module):
    def forward(self, x, scale=None): ...


class Several(nn.Module):
    def forward(self, *inputs): ...


class Keyword(nn.Module):
    def forward(self, x, *, text): ...


@pytest.mark.parametrize(
    ("norm", "takes_text"), [(Named, True), (Needed, True), (Optional, False), (Several, True), (Keyword, False)]
)
def test_which_norms_are_given_the_text(norm: type[nn.Module], takes_text: bool) -> None:
    assert stages.takes_text(norm()) is takes_text


def test_a_residual_block_adds_to_what_it_is_given() -> None:
    block, h = ResidualBlock(3).eval(), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(h), h + block.block(h))
    torch.nn.init.zeros_(block.block[4].weight)
    assert torch.equal(block(h), h)
