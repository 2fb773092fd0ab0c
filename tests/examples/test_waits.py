"""A training step never makes the host wait for a GPU; shown without one, on a device whose values nobody can fetch."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import trained
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.roofline import META, OneProcess
from examples.sdgan.config import Config, EncoderOptions
from examples.sdgan.data.dataset import CaptionedImages
from examples.sdgan.data.pairs import PairBatch
from examples.sdgan.models import encoders, transfer
from examples.sdgan.models.encoders import SmallImageEncoder, TextEncoder
from examples.sdgan.models.transfer import sent
from examples.sdgan.training.encoders import EncoderTraining
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.phase import Batches
from examples.sdgan.training.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# In place of a GPU: it has shapes only, so that fetching a value (item, nonzero, cpu, a mask as an index) raises.
GPU = META


class Waits(TorchDispatchMode):
    """Finds copies from the host that block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.name() in ("aten::_to_copy", "aten::copy_"):
            written = func.name() == "aten::copy_"
            source = args[1 if written else 0]
            waits = not (kwargs.get("non_blocking") or (written and args[2:] == (True,)))
            if waits and source.device.type == "cpu" and out.device == GPU:
                self.found += [f"{f.filename}:{f.lineno}" for f in inspect.stack() if "/sdgan/" in f.filename][
                    :1
                ] or [""]
        return out


class Rnn(nn.Module):
    """Shapes of a bidirectional LSTM."""

    def __init__(self, options: EncoderOptions) -> None:
        super().__init__()
        self.out = nn.Linear(options.embedding_dim, options.dim)

    def forward(self, embedded: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        words = self.out(embedded)
        last = words[:, 0].unflatten(1, (2, -1)).transpose(0, 1)
        return words, (last, last)


def _packed(embedded: Tensor, lengths: Tensor, batch_first: bool, enforce_sorted: bool = True) -> Tensor:
    """Packing copies nothing between devices where lengths are the host's, and sorted; its result has no fixed shape."""
    assert batch_first and enforce_sorted and lengths.device.type == "cpu"
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    return embedded


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PINNED", ("meta",))
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(encoders, "pack_padded_sequence", _packed)
    monkeypatch.setattr(encoders, "pad_packed_sequence", lambda output, **_: (output, None))
    for name in ("Adam", "AdamW"):  # fused, they are for real devices
        optimizer = getattr(torch.optim, name)
        monkeypatch.setattr(
            torch.optim, name, lambda *args, of=optimizer, fused, **options: of(*args, foreach=True, **options)
        )


def _config(**changes: Any) -> Config:
    return dataclasses.replace(trained.small(), batch_size=4, **changes)


def _batch() -> PairBatch:
    """As the loader's, from pinned memory."""
    tokens = torch.tensor([[3, 1, 4, 8, 5], [2, 6, 5, 0, 0]] * 4)
    images = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    same, which = torch.ones(4, dtype=torch.bool), torch.zeros(8, dtype=torch.int64)
    there = (value.to(GPU, non_blocking=True) for value in (images, tokens, same, which, which))
    return PairBatch(*there, tokens.numpy())


def _parts(config: Config) -> tuple[TextEncoder, SmallImageEncoder]:
    text = TextEncoder(9, config.encoder)
    text.lstm = Rnn(config.encoder)
    return text, SmallImageEncoder(config.encoder.dim)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_of_the_gan_waits_for_nothing(gpu: None, accumulate: int) -> None:
    config = _config(accumulate=accumulate)
    with GPU:
        gan = GanTraining(OneProcess(), config, *_parts(config))  # pyright: ignore[reportArgumentType]
    for stage in gan.discriminators.modules():
        assert all(parameter.device == GPU for parameter in stage.parameters())
    batch = _batch()
    with Waits() as waits:
        for step in range(3):  # the average copies the weights first, and then moves
            losses = gan.step(step, batch)
    assert waits.found == []
    assert losses["generator"].device == GPU


@pytest.mark.parametrize("labels", [False, True])
def test_a_step_of_the_encoders_waits_for_nothing(gpu: None, labels: bool) -> None:
    config = _config(encoder_steps=2)
    config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, label_share=0.5 * labels))
    targets = torch.tensor([[0, 1], [1, 0], [1, 2]])
    data = CaptionedImages("", [], [["a"]] * 3, labels=targets)  # pyright: ignore[reportArgumentType]
    with GPU:
        phase = EncoderTraining(OneProcess(), config, *_parts(config), data)  # pyright: ignore[reportArgumentType]
    batch = _batch()
    with Waits() as waits:
        losses = phase.step(0, batch)
    assert waits.found == []
    assert ("labels" in losses) == labels


def test_what_would_wait_is_found(gpu: None) -> None:
    there, here = torch.ones(3, device=GPU), torch.ones(3)
    copies: list[Callable[[], Any]] = [partial(here.to, GPU), partial(there.copy_, here)]
    for copy in copies:
        with Waits() as waits:
            copy()
        assert waits.found
    fetches = [there.cpu, there.nonzero, there[0].item, there.tolist, partial(here.copy_, there)]
    for fetch in [*fetches, lambda: there[there > 0], lambda: bool(there[0] > 0)]:
        with pytest.raises((NotImplementedError, RuntimeError)):
            fetch()
    with Waits() as waits:
        assert sent(here, GPU).device == GPU
        assert there.mul(2).add(1).device == GPU
    assert waits.found == []


def test_captions_whose_lengths_are_not_at_hand_are_fetched(gpu: None) -> None:
    config = _config()
    with GPU:
        text, _ = _parts(config)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        text(_batch().tokens)
    assert text(_batch().tokens, _batch().on_host).sentence.shape == (8, 8)


def test_batches_come_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneProcess, "device", torch.device("cuda", 0))
    data = CaptionedImages("", [], [["a bird", "a blue bird"]] * 3)  # pyright: ignore[reportArgumentType]
    workspace = SimpleNamespace(config=_config(), fabric=OneProcess(), train=data, vocabulary=trained.VOCABULARY)
    phase = SimpleNamespace(batches=Batches(2, 0.5, 0))
    assert Workspace.loader(workspace, phase, 0, 1).pin_memory  # pyright: ignore[reportArgumentType]
