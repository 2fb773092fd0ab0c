"""Which backend runs, and what the operations tell the compiler."""

from __future__ import annotations

import importlib

import pytest
import torch

import scbn
from scbn import ops, reference
from scbn.ops import eager
from scbn.ops.cpu import sentence as tiled_sentence

IMPLEMENTATIONS = {
    "eager": (eager, "sentence_modulate"),
    "reference": (reference, "sentence_modulate"),
    "cpu": (tiled_sentence, "forward"),
}


@pytest.mark.parametrize("backend", IMPLEMENTATIONS)
def test_a_backend_runs_what_it_is_called_after(backend: ops.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    for name, (module, function) in IMPLEMENTATIONS.items():
        real = getattr(module, function)

        def record(*args, name=name, real=real):
            ran.append(name)
            return real(*args)

        monkeypatch.setattr(module, function, record)
    with ops.use_backend(backend):
        scbn.SentenceSCBN(3, 4)(torch.randn(2, 3, 4), torch.randn(2, 4))
    assert ran == [backend]


@pytest.mark.skipif(not ops.interpreted(), reason="without a GPU, Triton's kernels run interpreted or not at all")
@pytest.mark.parametrize("cue", ["sentence", "word"])
def test_both_cues_take_the_triton_backend(cue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    module = importlib.import_module(f"scbn.ops.triton.{cue}")
    ran, real = [], module.forward
    monkeypatch.setattr(module, "forward", lambda *args: ran.append(cue) or real(*args))
    layer = scbn.SentenceSCBN(3, 4) if cue == "sentence" else scbn.WordSCBN(3, 4)
    text = torch.randn(2, 4) if cue == "sentence" else torch.randn(2, 5, 4)
    with ops.use_backend("triton"):
        layer(torch.randn(2, 3, 4), text)
    assert ran == [cue]


@pytest.mark.parametrize("given", [True, False])
def test_what_the_fused_operations_tell_of_statistics_has_no_gradient(given: bool) -> None:
    x, table = torch.randn(2, 3, 16, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    statistics = (torch.zeros(3), torch.ones(3)) if given else (None, None)
    keys, gamma = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    settings = (*statistics, 1e-5)
    sentence = torch.ops.scbn.sentence_norm(x, table, table, *settings, "", "cpu")
    word = torch.ops.scbn.word_norm(x, keys, gamma, gamma, table, table, None, *settings, 1.0, "", "cpu")
    for y, *told in (sentence, word):
        assert y.requires_grad
        assert [t.requires_grad for t in told] == [False] * 3


@pytest.mark.parametrize(("group", "given", "counts"), [("", False, 0), ("0", False, 1), ("0", True, 0)])
def test_a_trace_knows_where_values_are_counted(group: str, given: bool, counts: int) -> None:
    """Under torch.compile the operations run on tensors without values."""
    x, table, keys = (torch.empty(shape, device="meta") for shape in ((2, 3, 16), (2, 3), (2, 5, 3)))
    statistics = (x.new_empty(3), x.new_empty(3)) if given else (None, None)
    settings = (*statistics, 1e-5)
    sentence = torch.ops.scbn.sentence_norm(x, table, table, *settings, group, "cpu")
    word = torch.ops.scbn.word_norm(x, keys, keys, keys, table, table, None, *settings, 1.0, group, "cpu")
    for outputs in (sentence, word):
        assert [tuple(t.shape) for t in outputs] == [(2, 3, 16), (3,), (3,), (counts,)]


@pytest.mark.parametrize(
    ("shape", "path"),
    [
        ((1, 1, 2**23 - 1, 1), "triton"),
        ((1, 1, 2**23, 1), "eager"),  # 2 gradients of 128 words a position
        ((1, 256, 2**23 - 1, 1), "triton"),
        ((1, 257, 2**23 - 1, 1), "eager"),  # the map itself
        ((65_535, 1, 2, 1), "triton"),
        ((65_536, 1, 2, 1), "eager"),  # a grid's limit
    ],
)
def test_maps_beyond_the_kernels_offsets_run_eager(
    shape: tuple[int, ...], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x = torch.zeros(()).expand(shape)  # of no memory
    with scbn.ops.use_backend("triton"):
        assert scbn.ops.choose(x, 18) == path
