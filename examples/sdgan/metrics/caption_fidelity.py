"""Caption fidelity: of the attributes that captions name, how many does a classifier read in the images?

The classifier has seen real images and exact labels only; it is not the matching network that trains the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.sdgan.data.dataset import CaptionedImages, to_float
from examples.sdgan.metrics.interval import bootstrap

BATCH, LEARNING_RATE = 64, 4e-3


class AttributeReader(nn.Module):
    """A small residual-free CNN with one softmax for each attribute.

    ``forward(images)``: (N, 3, S, S) in [-1, 1], S at least 16 -> list of logits, one an attribute.

    Args:
        attributes: each with its values.
        width: channels of the first layer.
    """

    def __init__(self, attributes: Mapping[str, tuple[str, ...]], width: int = 24) -> None:
        super().__init__()

        def block(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(before, after, 5, 2, 2, bias=False), nn.BatchNorm2d(after), nn.ReLU())

        self.trunk = nn.Sequential(block(3, width), block(width, 2 * width), block(2 * width, 4 * width))
        self.sizes = [len(values) for values in attributes.values()]
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * width, sum(self.sizes))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.head(self.trunk(images)).split(self.sizes, 1))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, F) what the head reads: features that know of attributes and of nothing else."""
        self.eval()
        return torch.cat([self.head[:2](self.trunk(part)) for part in images.split(256)])

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """(N, A) int64, the value of each attribute."""
        self.eval()
        return torch.cat([torch.stack([logit.argmax(1) for logit in self(part)], 1) for part in images.split(256)])


def train_reader(data: CaptionedImages, size: int, seed: int, report: Callable[[int], None]) -> AttributeReader:
    """Train a reader on real images of known labels."""
    assert data.labels is not None and data.drawn is not None
    steps = data.drawn.reader_steps
    with torch.random.fork_rng([]):
        torch.manual_seed(seed + 977)
        reader = AttributeReader(data.drawn.attributes).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(reader.parameters(), LEARNING_RATE, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for step in range(steps):
            which = torch.randint(len(data), (BATCH,))
            images = to_float(data.images.load(which.tolist(), size, torch.Generator().manual_seed(step)))
            # Generated images are a little soft and noisy; the reader must not read that as another attribute.
            images = images + 0.05 * torch.randn_like(images)
            logits = reader(images.contiguous(memory_format=torch.channels_last))
            target = data.labels[which].unbind(1)
            loss = torch.stack([F.cross_entropy(a, b) for a, b in zip(logits, target, strict=True)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            report(step)
    return reader


class CaptionFidelity(NamedTuple):
    """Share of named attributes found, with a 95 % interval over images, overall and for each attribute."""

    value: float
    low: float
    high: float
    images: int
    each: dict[str, float]


def caption_fidelity(read: Tensor, truth: Tensor, named: list[list[str]], names: Sequence[str]) -> CaptionFidelity:
    """Compare what was read from the images with what their captions name.

    Args:
        read, truth: (N, A) int64.
        named: the attributes each caption names.
        names: of all attributes.

    Returns:
        The share of named attributes found. The interval is a bootstrap over images (2,000 draws, seed 0): the
        attributes of one image are not independent.
    """
    mask = torch.tensor([[name in caption for name in names] for caption in named])
    hits = (read == truth) & mask
    found, asked = hits.sum(1).double(), mask.sum(1).double()
    low, high = bootstrap(len(named), lambda draws: found[draws].sum(1) / asked[draws].sum(1))
    each = {name: float(hits[:, i].sum() / mask[:, i].sum().clamp(min=1)) for i, name in enumerate(names)}
    return CaptionFidelity(float(found.sum() / asked.sum()), low, high, len(named), each)
