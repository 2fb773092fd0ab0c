"""The Triton kernels: on a GPU where there is one, else interpreted on the CPU."""

from __future__ import annotations

import copy
import types

import pytest
import torch
from helpers.cases import CASES, CUES, Case, check_ops, inputs_of, layer_of, oracle
from helpers.tensor_cores import tensor_cores

pytest.importorskip("triton", reason="triton is not installed")

from torch._subclasses import FakeTensorMode

from scbn import TextFeatures, ops
from scbn.ops import eager, probe, selfcheck
from scbn.ops import sentence as fused_sentence
from scbn.ops import word as fused_word
from scbn.ops.triton import launch as triton_launch
from scbn.ops.values import Statistics, WordTables

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RELATIVE = {torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _backend():
    with ops.use_backend("triton"):
        yield


def close(got, want, dtype, usual=None) -> None:
    """To within rounding; where plain operations round more (``usual`` is what they give), four times that."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert (a is None) == (b is None), i
        if b is not None:
            size = b.abs().max().clamp(min=1)
            error = float((a.cpu().double() - b).abs().max() / size)
            plain = 0.0 if usual is None else float((usual[i].cpu().double() - b).abs().max() / size)
            assert error < max(RELATIVE[dtype], 4 * plain), (i, error, plain)


def run(function, module, x, text, weight):
    x = x.detach().clone().requires_grad_()
    leaves = [t.detach().clone().requires_grad_() for t in (text.sentence, text.words)]
    y = function(module, x, TextFeatures(*leaves, text.padding_mask))
    (y * weight).sum().backward()
    return [y.detach(), x.grad, *[t.grad for t in leaves], *[p.grad for p in module.parameters()]]


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", [c for c in CASES if len(c.shape) > 2], ids=str)
@pytest.mark.parametrize("cue", CUES)
def test_layers_equal_the_formula(cue: str, case: Case, training: bool, dtype: torch.dtype) -> None:
    layer = layer_of(cue, case.shape[1]).train(training)
    exact, start = copy.deepcopy(layer), copy.deepcopy(layer)
    x, text = inputs_of(case)
    x = x.to(dtype).double()
    weight = torch.randn_like(x).to(dtype).double()
    want = run(oracle, exact, x, text, weight)
    mask = None if text.padding_mask is None else text.padding_mask.to(DEVICE)
    text = TextFeatures(text.sentence.float().to(DEVICE), text.words.float().to(DEVICE), mask)
    x = x.to(DEVICE, dtype)
    assert ops.choose(x, case.words) == "triton"
    layer = layer.float().to(DEVICE)
    with ops.use_backend("eager"):
        usual = run(lambda m, x, t: m(x, t), copy.deepcopy(layer), x, text, weight.to(DEVICE, dtype))
    got = run(lambda m, x, t: m(x, t), layer, x, text, weight.to(DEVICE, dtype))
    assert got[0].dtype == dtype
    assert got[0].stride() == x.stride()
    close(got, want, dtype, usual)
    plain = torch.nn.BatchNorm2d(case.shape[1], dtype=torch.float64).train(training)
    plain.load_state_dict(start.bn.state_dict())
    plain(x.double().cpu().reshape(case.shape[0], case.shape[1], -1, 1))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        found, expected = getattr(layer.bn, name).cpu().double(), getattr(plain, name).double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("rounding_of_hardware")
@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("case", [c for c in CASES if len(c.shape) > 2][::3], ids=str)
def test_layers_equal_the_formula_as_tensor_cores_round(case: Case, dtype: torch.dtype) -> None:
    test_layers_equal_the_formula("both", case, True, dtype)


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU rounds by itself")
def test_the_interpreter_rounds_as_tensor_cores_do(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, (x, text) = layer_of("word", 16, torch.float32), inputs_of(Case((2, 16, 8, 8), words=5), torch.float32)
    text = TextFeatures(None, text.words)
    exact, half = layer(x, text), x.half()
    plain = layer(half, text)
    builder = pytest.importorskip("triton.runtime.interpreter").InterpreterBuilder
    monkeypatch.setattr(builder, "create_dot", tensor_cores(builder))
    assert (layer(half, text) - plain).abs().max() > 0  # ten bits of mantissa
    assert (layer(x, text) - exact).abs().max() < 1e-5 * exact.abs().max()  # in three products nothing is lost


SHAPES = [
    (2, 1, 15, 1),
    (1, 512, 15, 18),
    (3, 64, 77, 64),
    (2, 32, 63 * (65 if DEVICE == "cuda" else 33), 18),
    (3, 17, 33, 100),
    (1, 2, 256 * (256 if DEVICE == "cuda" else 32), 3),
]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_equal_eager_in_double(shape: tuple[int, ...], of_batch: bool, layout: str) -> None:
    n, c, p, t = shape
    if DEVICE == "cpu" and p > 5000 and (layout, of_batch) != ("contiguous", True):
        pytest.skip("interpreted, once is enough for a large map")
    x = torch.randn(n, c, p) * 2 + 1
    tables = [torch.randn(n, t, c) / c**0.5 for _ in range(3)]
    own = [torch.randn((n, c) if of_batch else c) for _ in range(2)]
    padding = torch.rand(n, t) < 0.4
    padding[0, 0] = False
    padding[2:] = True
    given = None if of_batch else Statistics(torch.randn(c), torch.rand(c) + 0.5)
    weight = torch.randn(n, c, p)

    def gradients(f, dtype, device):
        leaves = [a.to(device, dtype).requires_grad_() for a in (x, *tables, *own)]
        if layout == "channels_last":
            leaves[0] = leaves[0].detach().mT.contiguous().mT.requires_grad_()
        stats = None if given is None else Statistics(*(s.to(device, dtype) for s in given[:2]))
        y = f(leaves[0], *leaves[1:], given=stats)
        return [y, *torch.autograd.grad((y * weight.to(device, dtype)).sum(), leaves)]

    def word(norm, **options):
        def call(x, *tables, given):
            y = norm(x, WordTables(*tables, padding.to(x.device)), given, eps=1e-5, scale=0.7, **options)
            return y[0] if options else y

        return call

    def sentence(norm, **options):
        def call(x, gamma, beta, given):
            y = norm(x, gamma, beta, given, eps=1e-5, **options)
            return y[0] if options else y

        return call

    want = gradients(word(eager.word_norm), torch.float64, "cpu")
    got = gradients(word(fused_word.word_norm, backend="triton"), torch.float32, DEVICE)
    close(got, [w.detach() for w in want], torch.float32)
    pair = [own[0].expand(n, c), own[1].expand(n, c)]
    tables, own = [], pair
    want = gradients(sentence(eager.sentence_norm), torch.float64, "cpu")
    got = gradients(sentence(fused_sentence.sentence_norm, backend="triton"), torch.float32, DEVICE)
    close(got, [w.detach() for w in want], torch.float32)


def test_precise_where_the_mean_is_large() -> None:
    x = torch.randn(3, 8, 40, 40, dtype=torch.float64) + 1000
    mean, var, *_ = triton_launch.statistics(x.float().flatten(2).to(DEVICE))
    torch.testing.assert_close(mean.cpu().double(), x.float().double().mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        var.cpu().double(), x.float().double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("channels", [8, 40])
def test_every_value_is_written(channels: int) -> None:
    """Uninitialised memory is poisoned with NaN."""
    layer = layer_of("both", channels, torch.float32).to(DEVICE)
    x, text = inputs_of(Case((3, channels, 9, 11), words=5, padded=True), torch.float32)
    text = TextFeatures(*(t.to(DEVICE) for t in text))
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty returns with NaN
    try:
        got = run(lambda m, x, t: m(x, t), layer, x.to(DEVICE), text, torch.ones_like(x).to(DEVICE))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(t.isfinite().all() for t in got)


def test_padding_may_hold_anything() -> None:
    layer = layer_of("word", 8, torch.float32).to(DEVICE)
    x, text = inputs_of(Case((3, 8, 5, 5), padded=True), torch.float32)
    words = text.words.masked_fill(text.padding_mask[:, :, None], float("nan"))
    poisoned = TextFeatures(None, words.to(DEVICE), text.padding_mask.to(DEVICE))
    clean = TextFeatures(None, text.words.to(DEVICE), text.padding_mask.to(DEVICE))
    layer.eval()
    assert torch.equal(layer(x.to(DEVICE), poisoned), layer(x.to(DEVICE), clean))


@pytest.mark.parametrize("cue", ["sentence", "word"])
def test_gradients_that_arrive_in_any_layout(cue: str) -> None:
    layer = layer_of(cue, 6, torch.float32).to(DEVICE)
    x, text = inputs_of(Case((2, 6, 4, 5)), torch.float32)
    text = TextFeatures(text.sentence.to(DEVICE), text.words.to(DEVICE))
    weight = torch.randn(5, 4, 6, 2).permute(3, 2, 1, 0)
    apart = torch.empty(2, 6, 4, 10)[..., ::2].copy_(weight)
    results = []
    for dy in (weight, weight.contiguous(), apart):
        leaf = x.to(DEVICE, copy=True).requires_grad_()
        layer(leaf, text).backward(dy.to(DEVICE))
        results.append(leaf.grad)
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[2], results[1])
    leaf = x.to(DEVICE, copy=True).requires_grad_()
    layer(leaf, text).sum().backward()  # an expanded scalar
    assert leaf.grad.isfinite().all()


def test_opcheck() -> None:
    check_ops(torch.float32, "triton", DEVICE)


@pytest.mark.parametrize("cue", ["sentence", "both"])
def test_one_graph_for_every_caption_length(cue: str) -> None:
    torch._dynamo.reset()
    frames = torch._dynamo.utils.counters["stats"]
    before = frames["unique_graphs"]
    layer = layer_of(cue, 8, torch.float32).to(DEVICE)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for n, words, size in ((3, 4, 9), (4, 7, 11), (5, 9, 13), (7, 18, 15)):
        x, text = inputs_of(Case((n, 8, size, size + 1), words=words, padded=True), torch.float32)
        text = TextFeatures(*(t.to(DEVICE) for t in text))
        first, second = (x.to(DEVICE, copy=True).requires_grad_() for _ in range(2))
        y, want = compiled(first, text), eager(second, text)
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
        y.square().sum().backward()
        want.square().sum().backward()
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-3, atol=1e-3)
    assert frames["unique_graphs"] - before == 1
    torch.testing.assert_close(layer.bn.running_var, eager.bn.running_var)


def test_second_derivatives_fall_back() -> None:
    layer = layer_of("word", 4, torch.float32).to(DEVICE)
    x, text = inputs_of(Case((2, 4, 3, 3), padded=True), torch.float32)
    text = TextFeatures(None, text.words.to(DEVICE), text.padding_mask.to(DEVICE))
    results = []
    for backend in ("triton", "eager"):
        leaf = x.to(DEVICE, copy=True).requires_grad_()
        with ops.use_backend(backend):
            (grad,) = torch.autograd.grad(layer(leaf, text).sin().sum(), leaf, create_graph=True)
            results.append(torch.autograd.grad(grad.square().sum(), leaf)[0])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


def test_autocast() -> None:
    layer = layer_of("both", 8, torch.float32).to(DEVICE)
    x, text = inputs_of(Case((2, 8, 6, 6), padded=True), torch.float32)
    text = TextFeatures(*(t.to(DEVICE) for t in text))
    want = copy.deepcopy(layer)(x.to(DEVICE), text)
    for kind in (torch.float32, torch.bfloat16):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            y = layer(x.to(DEVICE, kind), text)
        assert y.dtype == kind
        torch.testing.assert_close(y.float(), want, rtol=0.05, atol=0.05)


def test_what_it_does_not_take() -> None:
    x = torch.zeros(2, 3, 4, 4, device=DEVICE)
    assert ops.choose(x, 127) == "triton"
    many = torch.zeros(65_536, 1, 2, device=DEVICE)
    for other, words in ((x, 128), (x.double(), 1), (x[:0], 1), (x.flatten(1), 1), (x.to("meta"), 1), (many, 1)):
        assert ops.choose(other, words) == "eager"


@pytest.mark.parametrize(("major", "backend"), [(7, "eager"), (8, "triton"), (9, "triton")])
def test_a_gpu_that_is_new_enough_takes_it_by_itself(
    major: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(major=major))
    monkeypatch.setattr(probe, "_trouble", "")
    monkeypatch.setattr(selfcheck, "trusted", lambda x, words, table: True)
    with FakeTensorMode(), ops.use_backend("auto"):
        x = torch.empty_strided((16, 64, 32, 32), (65536, 1024, 32, 1), device="cuda")
        assert ops.choose(x) == backend
        assert ops.choose(x.double()) == "eager"
        # Smaller maps cost more to launch than they save; where processes share statistics, all take the same path.
        assert ops.choose(x[:15]) == "eager"
        assert ops.choose(x[:15], shared=True) == ("triton" if backend == "triton" else "cpu")
        with ops.use_backend("triton"):
            assert ops.choose(x[:1]) == backend
    with FakeTensorMode(), ops.use_backend("eager"):
        assert ops.choose(torch.empty_strided((2, 3, 4, 4), (48, 16, 4, 1), device="cuda")) == "eager"
