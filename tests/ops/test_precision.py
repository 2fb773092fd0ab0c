"""No fused backend loses much more than plain PyTorch operations do, where that is hardest: large means, no spread."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.cases import CUES, SENTENCE_DIM, WORD_DIM, layer_of
from torch import Tensor, nn

from scbn import TextFeatures, ops, reference

SHAPE = (3, 8, 24, 20)
GRID = list(itertools.product((0.0, 1e3, 1e6), (0.0, 1e-2, 1.0, 30.0), (0.2, 5.0), (1, 40)))
TIMES = 4


def run(layer: nn.Module, x: Tensor, text: TextFeatures, backend: ops.Backend, given: bool) -> dict[str, Tensor]:
    """Output, gradients and statistics of a training step, or of a pass with given statistics."""
    layer.train(not given)
    leaf = x.clone().requires_grad_()
    with ops.use_backend(backend):
        y = layer(leaf, text)
        weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y)
        (y * weight).sum().backward()
    found = {
        "y": y.detach(),
        "dx": leaf.grad,
        "running_var": layer.bn.running_var,
        "running_mean": layer.bn.running_mean,
    }
    found |= {name: p.grad for name, p in layer.named_parameters()}
    return {name: value.detach().double() for name, value in found.items() if value is not None}


def results(
    cue: str,
    mean: float,
    spread: float,
    norm: float,
    words: int,
    dtype: torch.dtype,
    backend: str,
    given: bool,
    layout: torch.memory_format,
):
    """Of the backend, the eager backend, and the eager backend in float64, from the same numbers."""
    torch.manual_seed(1)
    source = layer_of(cue, SHAPE[1], torch.float32)
    # Interpreted, each tile takes its time: three of them.
    shape = (2, 8, 12, 16) if backend == "triton" and ops.interpreted() else SHAPE
    x = torch.randn(shape) * spread + mean * (1 + torch.arange(8).view(1, 8, 1, 1) / 8)
    x = x.to(dtype, memory_format=layout)
    text = TextFeatures(torch.randn(len(x), SENTENCE_DIM), torch.randn(len(x), words, WORD_DIM) * norm)
    if given:
        with torch.no_grad():
            source.bn.running_mean.copy_(x.float().mean((0, 2, 3)))
            source.bn.running_var.copy_(x.double().var((0, 2, 3)).clamp(min=1e-3))
    else:
        nn.init.zeros_(source.bn.running_mean)
        nn.init.zeros_(source.bn.running_var)

    def fresh(kind: torch.dtype) -> nn.Module:
        layer = layer_of(cue, SHAPE[1], kind)
        layer.load_state_dict(source.state_dict())
        return layer

    exact = run(fresh(torch.float64), x.double(), text.to(torch.float64), "eager", given)
    usual = run(fresh(torch.float32), x, text, "eager", given)
    return run(fresh(torch.float32), x, text, backend, given), usual, exact


def check(
    cue: str,
    dtype: torch.dtype,
    backend: str,
    grid: list,
    layout: torch.memory_format = torch.contiguous_format,
) -> None:
    """At every point of the grid, in every result."""
    for (mean, spread, norm, words), given in itertools.product(grid, (False, True)):
        fused, usual, exact = results(cue, mean, spread, norm, words, dtype, backend, given, layout)
        for name, want in exact.items():
            scale = want.abs().max() + 1e-5  # what a variance of nothing has beside it
            # Statistics stay in single precision whatever x is.
            kept = torch.float32 if name.startswith("running") else dtype
            floor = torch.finfo(kept).eps * scale
            lost, plain = (fused[name] - want).abs().max(), (usual[name] - want).abs().max()
            assert lost <= TIMES * torch.maximum(plain, floor), (
                f"{cue}, {backend}, {dtype}, {mean=}, {spread=}, word {norm=}, {words=}, {given=}: {name} is off by "
                f"{lost:.3g}, eager by {plain:.3g}, of {scale:.3g}"
            )


LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


@LAYOUTS
@pytest.mark.parametrize("cue", CUES)
def test_the_cpu_backend_is_as_precise_as_eager(cue: str, layout: torch.memory_format) -> None:
    check(cue, torch.float32, "cpu", GRID, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@LAYOUTS
@pytest.mark.parametrize("cue", CUES)
def test_the_cpu_backend_computes_half_precision_in_single(
    cue: str, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    points = [point for point in GRID if point[0] == 1e3 and point[1] >= 1 and point[2:] == (0.2, 40)]
    check(cue, dtype, "cpu", points, layout)


@pytest.fixture
def sums_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter adds up the rows of a tile one after the other; a GPU does it in a tree, which rounds less."""
    if not ops.interpreted():
        pytest.skip("for the interpreter; a GPU has its own rounding")
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def total(self, input):
        found = input.handle.data.sum(self.axis, dtype="float64", keepdims=self.keep_dims)
        return self.to_tensor(found.astype(input.handle.data.dtype), input.dtype)

    monkeypatch.setattr(interpreter.ReduceOps, "sum", total)


@pytest.mark.usefixtures("sums_as_a_gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cue", CUES)
def test_the_triton_backend_is_as_precise_as_eager(cue: str, dtype: torch.dtype) -> None:
    points = [point for point in GRID if point[2:] == (0.2, 40)]
    points = points[::2] if cue == "both" else points  # the word cue's kernels, with other weights
    if dtype != torch.float32:  # in whose range the gradients are
        points = [point for point in points if point[0] < 1e4 and point[1] >= 1]
    check(cue, dtype, "triton", points)


def test_variance_of_a_large_mean_is_that_of_float64() -> None:
    from scbn.ops.cpu import tiles

    for mean, spread in ((1e4, 1.0), (1e6, 3.0), (-1e4, 1e-1), (7.0, 0.0)):
        x = (torch.randn(5, 3, 4000) * spread + mean).float()
        got_mean, got_var, *_ = tiles.statistics(x)
        want_mean, want_var = reference.batch_statistics(x.double())
        torch.testing.assert_close(got_mean.double(), want_mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(got_var.double(), want_var, rtol=1e-5, atol=0)


def test_infinite_values_give_what_batch_norm_gives() -> None:
    from scbn.ops.cpu import tiles

    x = torch.randn(2, 3, 50)
    x[0, 1, 7] = torch.inf
    x[1, 2, 3] = torch.nan
    mean, var, *_ = tiles.statistics(x)
    assert mean[1] == torch.inf and mean[2].isnan()
    assert var[0].isfinite() and var[1].isnan() and var[2].isnan()
