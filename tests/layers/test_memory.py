"""What runs for days must not grow: training steps, and retrofits there and back."""

from __future__ import annotations

import gc
import mmap
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import scbn
from scbn import SiameseContrastiveLoss, TextFeatures, WordSCBN, ops

STATUS = Path("/proc/self/status")
# Half a kilobyte a step would be more; the allocator's own unrest is less.
ALLOWED = 4 << 20


def resident() -> int:
    """Bytes of memory this process holds, those that the system has put aside included."""
    held = re.findall(r"Vm(?:RSS|Swap):\s+(\d+) kB", STATUS.read_text())
    return sum(map(int, held)) * 1024


def tensors() -> int:
    """Tensors that Python can reach."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def growth(step: Callable[[int], object], warm_up: int, steps: int) -> tuple[int, int]:
    """Tensors and bytes by which ``steps`` calls add to what is there after the warm-up."""
    for i in range(warm_up):
        step(i)
    count, size = tensors(), resident()
    for i in range(warm_up, warm_up + steps):
        step(i)
    return tensors() - count, resident() - size


def trainer() -> Callable[[int], torch.Tensor]:
    """A training step of a small Siamese model, with padding, on either path."""
    body, norm, head = nn.Linear(3, 4), WordSCBN(4, 3, sentence_dim=2), nn.Linear(4, 2)
    loss = SiameseContrastiveLoss()
    parameters = [p for module in (body, norm, head) for p in module.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=1e-3)
    x, same = torch.randn(4, 5, 3), torch.tensor([True, False])
    text = TextFeatures(torch.randn(4, 2), torch.randn(4, 2, 3), torch.tensor([[False, True]] * 4))

    def step(i: int) -> torch.Tensor:
        with ops.use_backend("cpu" if i % 10 == 0 else "eager"):
            features = head(norm(body(x).mT, text).mean(2))
        value = loss(features[:2], features[2:], same)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        return value

    return step


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say how much memory a process holds")
def test_ten_thousand_training_steps_do_not_grow() -> None:
    count, size = growth(trainer(), 500, 10_000)
    assert count <= 0
    assert size < ALLOWED, f"{size / 10_000:.0f} bytes a step"


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say how much memory a process holds")
def test_growth_is_seen() -> None:
    step, kept = trainer(), []

    def leaks(i: int) -> None:
        # From the system itself: allocators would take again what other tests have given back.
        page = mmap.mmap(-1, 1 << 18)
        page.write(b"\1" * (1 << 18))
        kept.append((step(i), page))

    count, size = growth(leaks, 5, 100)
    assert count == 100
    assert size > ALLOWED


class Host(nn.Module):
    """Somebody's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: torch.Tensor, sentence: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def text_of(x: torch.Tensor, sentence: torch.Tensor, words: torch.Tensor) -> TextFeatures:
    return TextFeatures(sentence, words)


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say how much memory a process holds")
def test_a_thousand_retrofits_there_and_back_do_not_grow() -> None:
    host = Host()
    inputs = torch.randn(2, 2, 3, 3), torch.randn(2, 4), torch.randn(2, 3, 5)
    host(*inputs).sum().backward()
    layers = {"body.1": "sentence", "body.3": "both"}

    def step(i: int) -> None:
        scbn.retrofit(host, layers, text=text_of, sentence_dim=4, word_dim=5)
        host(*inputs).square().sum().backward()
        scbn.unretrofit(host)

    modules = list(host.modules())
    count, size = growth(step, 100, 1_000)
    assert count <= 0
    assert size < ALLOWED, f"{size / 1_000:.0f} bytes a retrofit"
    assert list(host.modules()) == modules
    assert not host._forward_hooks and not host._forward_pre_hooks
    assert not host._forward_pre_hooks_with_kwargs and not host._forward_hooks_always_called
