"""Generators of somebody else, in miniature."""

from __future__ import annotations

import torch
from torch import nn

import scbn
from scbn import TextFeatures


class Small(nn.Module):
    """Somebody's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.later = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor, sentence: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.later(self.first(x))


def text_of(x: torch.Tensor, sentence: torch.Tensor, words: torch.Tensor) -> TextFeatures:
    return TextFeatures(sentence, words)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        return scbn.checkpoint(self.norm, x)
