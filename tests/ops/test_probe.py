"""Triton that is installed but cannot be used: one warning, and PyTorch's own operations."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable

import pytest
import torch
from torch._subclasses import FakeTensorMode

from scbn import ops
from scbn.ops import probe, selfcheck

runtime = pytest.importorskip("triton.runtime")


def driver(target: Callable[[], object]) -> object:
    return types.SimpleNamespace(active=types.SimpleNamespace(get_current_target=target))


def fails(error: Exception) -> Callable[[], object]:
    def target() -> object:
        raise error

    return target


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that would take the kernels, a driver that starts, and a probe that has not been asked."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(major=9))
    monkeypatch.setattr(runtime, "driver", driver(lambda: "sm_90"))
    monkeypatch.setattr(probe, "_trouble", None)
    monkeypatch.setattr(selfcheck, "trusted", lambda x, words, table: True)
    monkeypatch.setenv("CC", "cc")


def chosen(shared: bool = False) -> str:
    with FakeTensorMode(), ops.use_backend("auto"):
        return ops.choose(torch.empty(16, 64, 32, 32, device="cuda"), 1, shared)


def test_where_nothing_is_wrong_it_is_used_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen() == "triton"


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("libcuda.so cannot found!\nmore")], ids=str)
def test_a_driver_that_does_not_start(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "driver", driver(fails(error)))
    reason = "libcuda.so cannot found!" if str(error) else "AssertionError"
    with pytest.warns(UserWarning, match=rf"cannot be used here \({reason}\), so scbn's layers use PyTorch's own"):
        assert chosen() == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert chosen() == "eager"
        assert chosen(shared=True) == "cpu"  # whose calls to other processes are those of the kernels


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    with pytest.warns(UserWarning, match="no C compiler: none of cc, gcc and clang is on the PATH"):
        assert chosen() == "eager"


def test_the_compiler_asks_while_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(runtime, "driver", driver(lambda: asked.append(1)))

    def function(x: torch.Tensor) -> torch.Tensor:
        return x + probe.usable()

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(2)).eq(1).all() and compiled(torch.zeros(2)).eq(1).all()
    assert len(asked) == 1
