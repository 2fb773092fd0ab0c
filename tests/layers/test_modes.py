"""Layers under PyTorch's modes, which are the thread's, with any number of threads; and a call leaves no trace."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.cases import CUES, Case, inputs_of, layer_of
from torch import Tensor, nn

from scbn import TextFeatures, TreeGenerator, VisualSemanticEmbedding, ops
from scbn.ops.cpu import tiles

CASE = Case((6, 8, 9, 7), padded=True)


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def profiled() -> contextlib.AbstractContextManager:
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


MODES = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default_dtype": default_dtype,
    "default_device": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "profiler": profiled,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
}


def call_of(what: str) -> Callable[[], list[Tensor]]:
    """A call of a layer or model with tensors that are made already."""
    x, text = inputs_of(CASE, torch.float32)
    if what == "tree":
        tree = TreeGenerator(5, 6, stages=2, base_size=8, channels=4, residual_blocks=1).eval()
        for parameter in tree.parameters():
            nn.init.normal_(parameter, std=0.2)
        noise = torch.randn(6, 100)
        return lambda: [*tree(noise, text).images]
    if what == "vse":
        vse = VisualSemanticEmbedding(8, 6)
        return lambda: [vse(x, text)]
    layer = layer_of(what, 8, torch.float32)
    training = layer_of(what, 8, torch.float32)
    return lambda: [layer.eval()(x, text), training.train()(x, text)]


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(tiles, "VALUES", 60)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.filterwarnings("ignore:.*profiler:UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", [*CUES, "vse", "tree"])
def test_each_mode_changes_nothing(what: str, mode: str, threads: int) -> None:
    call = call_of(what)
    with torch.no_grad(), ops.use_backend("eager"):
        want = call()
    with ops.use_backend("cpu"), MODES[mode]():
        got = call()
    for a, b in zip(got, want, strict=True):
        assert a.device.type == "cpu"
        if mode == "autocast":  # the linear layers and convolutions round
            assert (a.detach() - b).abs().max() / b.abs().max() < 0.2
        else:
            torch.testing.assert_close(a.detach().clone(), b, rtol=2e-4, atol=2e-5)


def test_text_encoded_in_inference_mode_conditions_a_layer_in_training() -> None:
    with torch.inference_mode():
        x, text = inputs_of(CASE, torch.float32)
    layer = layer_of("both", 8, torch.float32)
    with ops.use_backend("cpu"):
        # Autograd keeps no inference tensor: a clone is what PyTorch itself asks for.
        y = layer(x.clone(), text.map(torch.Tensor.clone))
    y.sum().backward()
    assert layer.to_gamma.weight.grad is not None


def test_a_call_leaves_no_trace_in_the_process() -> None:
    """Later threads have as many threads for their operations as before, and none of ours is left."""
    x, text = inputs_of(Case((4, 16, 64, 64), padded=True), torch.float32)
    before, mine, seen = torch.get_num_threads(), threading.active_count(), []
    torch.set_num_threads(2)
    try:
        layer = layer_of("both", 16, torch.float32)
        with ops.use_backend("cpu"):
            layer(x, text).sum().backward()
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [2]
        assert torch.get_num_threads() == 2
        assert threading.active_count() == mine
    finally:
        torch.set_num_threads(before)


def test_calls_from_several_threads_at_once() -> None:
    layer = layer_of("both", 8, torch.float32).eval()
    inputs = [inputs_of(CASE, torch.float32) for _ in range(4)]
    want = [layer(*one) for one in inputs]
    got: list[Tensor | None] = [None] * 4

    def work(i: int) -> None:
        for _ in range(5):
            got[i] = layer(*inputs[i])

    with ops.use_backend("cpu"):
        workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("cue", CUES)
def test_replicas_as_data_parallel_makes_them(cue: str, backend: ops.Backend) -> None:
    """Their ``parameters()`` is empty by design: everything is read by attribute."""
    from helpers.replicas import replica

    layer = layer_of(cue, 8, torch.float32).eval()
    x, text = inputs_of(CASE, torch.float32)
    with ops.use_backend(backend):
        want = layer(x, text)
        copied = replica(layer)
        assert not list(copied.parameters())
        torch.testing.assert_close(copied(x, text), want)
    tree = TreeGenerator(5, 6, stages=2, base_size=8, channels=4, residual_blocks=1).eval()
    noise = torch.randn(6, 100)
    torch.testing.assert_close(replica(tree)(noise, text).images, tree(noise, text).images)
    vse = VisualSemanticEmbedding(8, 6)
    torch.testing.assert_close(replica(vse)(x, text), vse(x, text))


def test_text_moves_with_every_mode_of_the_default_device() -> None:
    with torch.device("meta"):
        text = TextFeatures.stack([TextFeatures(words=torch.zeros(n, 2, device="cpu")) for n in (1, 3)])
    assert text.words is not None and text.words.device.type == "cpu"
