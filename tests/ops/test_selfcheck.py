"""Kernels that compute something else, or do not run, are found out before anything relies on them."""

from __future__ import annotations

import types
import warnings

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from torch._subclasses import FakeTensorMode

from scbn import ops
from scbn.ops import probe, selfcheck
from scbn.ops.triton import sentence, word

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
MAP = torch.zeros(2, 24, 5, 8, device=DEVICE)
pytestmark = pytest.mark.skipif(
    DEVICE.type == "cpu" and not ops.interpreted(),
    reason="without a GPU, Triton's kernels run interpreted or not at all",
)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_answers", {})
    monkeypatch.setattr(selfcheck, "_distrusted", set())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
def test_right_kernels_are_trusted(dtype: torch.dtype, memory: torch.memory_format) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert selfcheck.trusted(MAP.to(dtype).contiguous(memory_format=memory), 3)
    ((device, kind),) = selfcheck._answers
    assert device == DEVICE
    assert kind == (dtype, 24, 57, 14, memory == torch.channels_last)


def test_a_kind_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[selfcheck.Kind] = []
    monkeypatch.setattr(selfcheck, "_find_trouble", lambda device, kind: asked.append(kind) or "")
    for positions, words in ((48, 3), (64, 9), (64, 14), (40, 9), (4096, 3), (9216, 3), (9217, 3), (48, 20)):
        assert selfcheck.trusted(torch.zeros(1, 8, positions, device=DEVICE), words)
    assert [(kind.positions, kind.words) for kind in asked] == [
        (64, 14), (57, 14), (1024, 14), (1031, 14), (64, 30),
    ]  # fmt: skip


def _wrong(function, where: int):
    def call(*arguments, **options):
        found = function(*arguments, **options)
        parts = list(found) if isinstance(found, tuple) else [found]
        parts[where] = parts[where] + 0.1 * parts[where].abs().max()
        return type(found)(parts) if isinstance(found, tuple) else parts[0]

    return call


@pytest.mark.parametrize(
    ("module", "name", "where", "told"),
    [
        (word, "forward", 0, "word output"),
        (sentence, "forward", 0, "sentence output"),
        (word, "backward", 1, "dkeys"),
        (word, "backward", 3, "dbeta"),
        (sentence, "backward", 0, "dx"),
    ],
)
def test_a_wrong_kernel_is_not(module, name: str, where: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, name, _wrong(getattr(module, name), where))
    with pytest.warns(UserWarning, match=rf"do not compute on .*{told} in torch.float32 is off by .* report it"):
        assert not selfcheck.trusted(MAP, 3)
    # Said once, and true of everything on this device from then on.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not selfcheck.trusted(MAP, 3)
        assert not selfcheck.trusted(MAP.half(), 40)


@pytest.mark.parametrize(
    "error", [RuntimeError("ptxas fatal: out of resources\nmore"), AssertionError(), OSError("no gcc")]
)
def test_a_kernel_that_does_not_run_is_not(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(word, "backward", fail)
    with pytest.warns(UserWarning, match=rf"\({type(error).__name__}: {str(error).partition(chr(10))[0]}\)"):
        assert not selfcheck.trusted(MAP, 3)


def test_it_leaves_no_trace() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with torch.no_grad(), ops.use_backend("auto"):
        assert selfcheck.trusted(MAP, 3)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.inference_mode():
        assert selfcheck.trusted(MAP[:, :8], 3)


def test_auto_asks_and_a_name_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(major=9))
    monkeypatch.setattr(probe, "_trouble", "")
    for answer, backend in ((True, "triton"), (False, "eager")):
        monkeypatch.setattr(selfcheck, "trusted", lambda x, words, answer=answer: answer)
        with FakeTensorMode():
            x = torch.empty(16, 64, 32, 32, device="cuda")
            for asked in ("auto", "triton"):
                with ops.use_backend(asked):
                    assert ops.choose(x) == backend
                    # Processes that share statistics make the same calls whatever one of them found.
                    assert ops.choose(x, shared=True) == ("triton" if answer else "cpu")


def test_a_compiled_layer_asks_while_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[selfcheck.Kind] = []
    monkeypatch.setattr(selfcheck, "_find_trouble", lambda device, kind: asked.append(kind) or "")

    def ask(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if selfcheck.trusted(x, 7) else x

    torch._dynamo.reset()
    compiled = torch.compile(ask, fullgraph=True, backend="eager", dynamic=True)
    for size in (3, 4, 5):
        assert torch.equal(
            compiled(torch.ones(2, 3, size, device=DEVICE)), torch.full((2, 3, size), 2.0, device=DEVICE)
        )
    assert asked == [selfcheck.Kind(torch.float32, 64, 1024, 18, False)]
