"""The stages of a tree-structured generator and the blocks they are made of.

A stage is any module called as ``stage(h, text)`` that returns the next feature map; these are the defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scbn import checks
from scbn.linear import as_input_of
from scbn.sentence import SentenceSCBN
from scbn.text import TextFeatures
from scbn.word import WordSCBN

MakeNorm = Callable[[int], nn.Module]
"""How a norm is made: called with the number of channels."""

Cue = Literal["batch", "sentence", "word", "both"]
"""The norms that have a name."""

CUES = get_args(Cue)
ActivationKind = Literal["glu", "relu", "leaky_relu"]
START_SIZE = 4


def norm_factory(norm: Cue | MakeNorm, sentence_dim: int, word_dim: int | None) -> MakeNorm:
    """The factory behind a name: ``"batch"`` (plain), ``"sentence"``, ``"word"`` or ``"both"``; a callable stays.

    Raises:
        ValueError: another name, or a word cue without ``word_dim``.
    """
    checks.generator.norm_choice(norm, CUES, word_dim)
    if not isinstance(norm, str):
        return norm
    if norm == "batch":
        return nn.BatchNorm2d
    if norm == "sentence":
        return lambda channels: SentenceSCBN(channels, sentence_dim)
    assert word_dim is not None
    sentence = sentence_dim if norm == "both" else None
    return lambda channels: WordSCBN(channels, word_dim, sentence_dim=sentence)


def takes_text(module: nn.Module) -> bool:
    """Whether a norm is called as ``norm(x, text)`` rather than ``norm(x)``.

    It is if the second positional parameter of its forward has no default or is named ``text``, or if it takes
    ``*args``.
    """
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) >= 2 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "text"
    )


class Activation(nn.Module):
    """``"glu"`` (halves the channels, as AttnGAN), ``"relu"`` or ``"leaky_relu"``."""

    def __init__(self, kind: ActivationKind = "glu") -> None:
        super().__init__()
        checks.generator.activation(kind)
        self.kind = kind
        self.width = 2 if kind == "glu" else 1

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "glu":
            value, gate = x.chunk(2, 1)
            return value * gate.sigmoid()
        return F.relu(x) if self.kind == "relu" else F.leaky_relu(x, 0.2)

    def extra_repr(self) -> str:
        return self.kind


class UpBlock(nn.Module):
    """Twice the size: nearest upsampling, 3x3 convolution, norm, activation."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: MakeNorm, activation: ActivationKind = "glu"
    ) -> None:
        super().__init__()
        self.activation = Activation(activation)
        width = out_channels * self.activation.width
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = norm(width)
        checks.generator.made_norm(self.norm)
        self.conditional = takes_text(self.norm)

    def forward(self, h: Tensor, text: TextFeatures) -> Tensor:
        h = self.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.activation(self.norm(h, text) if self.conditional else self.norm(h))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with plain batch norm around a shortcut, as in AttnGAN."""

    def __init__(self, channels: int, activation: ActivationKind = "glu") -> None:
        super().__init__()
        act = Activation(activation)
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels * act.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels * act.width),
            act,
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.block(h)


class InitialStage(nn.Module):
    """From the code (N, in_features) to features (N, channels, size, size), by way of 4x4.

    Args:
        in_features: length of the code, condition and noise together.
        channels: of the result; each halving of the size on the way down to 4x4 doubles them.
        size: 4, 8, 16, ...
        norm: makes the norm at the end of each upsampling block.
        activation: ``"glu"``, ``"relu"`` or ``"leaky_relu"``.
    """

    def __init__(
        self, in_features: int, channels: int, size: int, norm: MakeNorm, *, activation: ActivationKind = "glu"
    ) -> None:
        super().__init__()
        checks.positive(in_features=in_features, channels=channels, size=size)
        checks.generator.base_size(size, START_SIZE)
        doublings = (size // START_SIZE).bit_length() - 1
        self.width = channels << doublings
        act = Activation(activation)
        units = self.width * START_SIZE**2 * act.width
        self.fc = nn.Sequential(nn.Linear(in_features, units, bias=False), nn.BatchNorm1d(units), act)
        self.up = nn.ModuleList(
            UpBlock(self.width >> i, self.width >> (i + 1), norm, activation) for i in range(doublings)
        )

    def forward(self, code: Tensor, text: TextFeatures) -> Tensor:
        h = self.fc(code).reshape(-1, self.width, START_SIZE, START_SIZE)
        for up in self.up:
            h = up(h, text)
        return h


class RefinementStage(nn.Module):
    """From (N, in_channels, H, W) to (N, channels, 2H, 2W): residual blocks, then one upsampling block.

    Args:
        in_channels, channels: before and after.
        residual_blocks: how many, from 0.
        norm: makes the norm at the end of the upsampling block; residual blocks keep plain batch norm.
        activation: ``"glu"``, ``"relu"`` or ``"leaky_relu"``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        residual_blocks: int,
        norm: MakeNorm,
        *,
        activation: ActivationKind = "glu",
    ) -> None:
        super().__init__()
        checks.positive(in_channels=in_channels, channels=channels)
        self.residual = nn.Sequential(*(ResidualBlock(in_channels, activation) for _ in range(residual_blocks)))
        self.up = UpBlock(in_channels, channels, norm, activation)

    def forward(self, h: Tensor, text: TextFeatures) -> Tensor:
        return self.up(self.residual(h), text)


class ConditioningAugmentation(nn.Module):
    r"""A smooth condition from a sentence: :math:`c = \mu(s) + \sigma(s) \odot \varepsilon`, :math:`\varepsilon \sim N(0, I)`.

    In training :math:`\varepsilon` is drawn; in eval mode it is 0, so that an image depends on noise and text alone.

    Source: Zhang et al., "StackGAN", ICCV 2017, arXiv 1612.03242, section 3.2.
    """

    def __init__(self, sentence_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        self.fc = nn.Linear(sentence_dim, 4 * condition_dim)

    def forward(self, sentence: Tensor, condition_noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The condition, mu and logvar, (N, condition_dim) each."""
        value, gate = self.fc(as_input_of(self.fc, sentence)).chunk(2, 1)
        mu, logvar = (value * gate.sigmoid()).chunk(2, 1)
        if condition_noise is None:
            condition_noise = torch.randn_like(mu) if self.training else torch.zeros_like(mu)
        return mu + condition_noise.to(mu.dtype) * (0.5 * logvar).exp(), mu, logvar
