"""The implementations behind functional.py: chosen as documented, equal, lean, and known to torch.compile."""

from __future__ import annotations

import functools
import importlib.util
import os
import pkgutil

import pytest
import torch
from helpers.cases import CUES, Case, check_ops, inputs_of, layer_of, oracle

from scbn import TextFeatures, ops
from scbn.ops import dispatch, eager
from scbn.ops import sentence as fused_sentence
from scbn.ops import word as fused_word
from scbn.ops.cpu import tiles
from scbn.ops.values import Statistics, WordTables

# Dynamo and float() warn about what these tests do on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning"),
]

SHAPES = [(1, 1, 1), (2, 1, 15), (3, 5, 4095), (2, 64, 300), (1, 512, 77), (2, 32, 63 * 65), (1, 3, 256 * 256)]


def innermost(x: torch.Tensor) -> torch.Tensor:
    """The same values (N, C, P) with channels innermost in memory."""
    return x.mT.contiguous().mT


def arguments(n: int, c: int, p: int, t: int, padded: bool = True, of_samples: bool = False, last: bool = False):
    x = torch.randn(n, c, p, dtype=torch.float64) * 2 + 1
    x = innermost(x) if last else x
    keys, gamma, beta = (torch.randn(n, t, c, dtype=torch.float64) / c**0.5 for _ in range(3))
    own = [torch.randn((n, c) if of_samples else c, dtype=torch.float64) for _ in range(2)]
    padding = torch.rand(n, t) < 0.5
    padding[:, 0] = False
    padding[2:3] = True  # where there are three samples, an empty caption
    return [x, keys, gamma, beta, *own, padding if padded else None]


def blocked(x, *tables, given=None):
    return fused_word.word_norm(x, WordTables(*tables), given, eps=1e-5, scale=0.7, backend="cpu")[0]


def plain(x, *tables, given=None):
    return eager.word_norm(x, WordTables(*tables), given, eps=1e-5, scale=0.7)


def gradients(f, args):
    leaves = [a.detach().clone().requires_grad_() for a in args[:6]]
    y = f(*leaves, args[6])
    return y, torch.autograd.grad((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum(), leaves)


@pytest.mark.parametrize("last", [True, False], ids=["last", "contiguous"])
@pytest.mark.parametrize("of_samples", [True, False])
@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("words", [1, 18, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocked_equals_eager(
    shape: tuple[int, int, int], words: int, of_batch: bool, of_samples: bool, last: bool
) -> None:
    if of_batch and shape[0] * shape[2] == 1:
        pytest.skip("a single value per channel has no batch statistics")
    if last and words == 64:
        pytest.skip("in either layout the words are rows of a product alone")
    args = arguments(*shape, words, of_samples=of_samples, last=last)
    given = None if of_batch else Statistics(torch.randn(shape[1]).double(), torch.rand(shape[1]).double() + 0.5)
    y, grads = gradients(functools.partial(blocked, given=given), args)
    want, want_grads = gradients(functools.partial(plain, given=given), args)
    torch.testing.assert_close(y, want, rtol=1e-9, atol=1e-9)
    assert y.stride() == grads[0].stride() == args[0].stride()
    for got, expected in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max().clamp(min=1)))


@pytest.mark.parametrize("last", [True, False], ids=["last", "contiguous"])
@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_blocked_sentence_equals_eager(shape: tuple[int, int, int], of_batch: bool, last: bool) -> None:
    n, c, _ = shape
    x = torch.randn(shape).double() * 2 + 1
    leaves = [innermost(x) if last else x, torch.randn(n, c).double(), torch.randn(n, c).double()]
    given = None if of_batch else Statistics(torch.randn(c).double(), torch.rand(c).double() + 0.5)
    results = []
    for norm in (lambda *a, **o: fused_sentence.sentence_norm(*a, **o, backend="cpu")[0], eager.sentence_norm):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        y = norm(*inputs, given, eps=1e-5)
        weight = torch.linspace(-1, 1, y.numel()).double().view_as(y)
        results.append([y, *torch.autograd.grad((y * weight).sum(), inputs)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8 * float(want.detach().abs().max().clamp(min=1)))


def test_gradients_stay_as_precise_as_autograds_far_from_zero() -> None:
    args = arguments(4, 16, 4000, 6)
    args[0], args[1] = args[0] + 300, args[1] / 100
    single = [a.float() if a is not None and a.is_floating_point() else a for a in args]
    _, want = gradients(plain, args)
    _, usual = gradients(plain, single)
    _, got = gradients(blocked, single)
    for a, b, exact in zip(got, usual, want, strict=True):
        scale = exact.abs().max()
        assert (a - exact).abs().max() / scale < 3 * (b - exact).abs().max() / scale + 1e-6


@pytest.mark.parametrize("last", [True, False], ids=["last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_every_value_is_written(dtype: torch.dtype, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory is poisoned with NaN."""
    args = arguments(3, 7, 101, 5, last=last)
    args[0] = args[0].to(dtype)
    monkeypatch.setattr(tiles, "VALUES", 7 * 16)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        y, grads = gradients(blocked, args)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(t.isfinite().all() for t in (y, *grads))


@pytest.mark.parametrize("last", [True, False], ids=["last", "contiguous"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_samples_shared_between_threads(threads: int, last: bool) -> None:
    args = arguments(4, 6, 50, 3, last=last)
    want, want_grads = gradients(plain, args)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y, grads = gradients(blocked, args)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(grads, want_grads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_with_one_thread_as_data_loaders_have() -> None:
    args = arguments(4, 6, 50, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        blocked(*args)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # GNU's OpenMP has lost its threads; PyTorch's own operations would hang too
            blocked(*args)
            os._exit(17)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    finally:
        torch.set_num_threads(before)


def test_opcheck_on_every_registered_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in pkgutil.walk_packages(ops.__path__, "scbn.ops."):
        if "triton" not in module.name or importlib.util.find_spec("triton"):
            importlib.import_module(module.name)
    names: list[str] = torch._C._dispatch_get_all_op_names()
    registered = {name.partition(".")[0] for name in names if name.startswith("scbn::")}
    checked = set()
    opcheck = torch.library.opcheck

    def record(op, *args):
        checked.add(op._qualname)
        return opcheck(op, *args)

    monkeypatch.setattr(torch.library, "opcheck", record)
    check_ops(torch.float64, "cpu")
    # In exported and saved programs they are called by these names.
    kinds = ("word_norm", "word_norm_backward", "sentence_norm", "sentence_norm_backward")
    assert registered == {f"scbn::{kind}" for kind in kinds}
    assert checked == registered, "cases.check_ops has no arguments for some operation"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cue", ["sentence", "both"])
def test_keeps_little_for_the_backward(cue: str, dtype: torch.dtype, compiled: bool) -> None:
    layer = layer_of(cue, 16, torch.float32)
    layout = torch.channels_last if dtype == torch.bfloat16 else torch.contiguous_format
    x, text = inputs_of(Case((4, 16, 64, 64), words=18, padded=True, layout=layout), dtype)
    x.requires_grad_()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    seen: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with ops.use_backend("cpu"), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run(x, text)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = sum(size for pointer, size in seen.items() if pointer not in own)
    assert kept <= 1.05 * x.numel() * x.element_size()


def test_the_switch() -> None:
    small, large = torch.zeros(1, 2, 4), torch.zeros(1, 2, dispatch.WORTHWHILE)
    assert ops.get_backend() == "auto"
    assert ops.choose(small) == "eager"
    assert ops.choose(large) == "cpu"
    with ops.use_backend("cpu"):
        for other in (
            small,
            small.half(),
            small.bfloat16(),
            torch.zeros(2, 4, 3, 3).to(memory_format=torch.channels_last),
        ):
            assert ops.choose(other) == "cpu"
        for other in (
            torch.zeros(2, 4, 3, 3).mT,
            small.to("meta"),
            torch.zeros(2, 2),
            torch.zeros(0, 2, 3),
            small.expand(3, 2, 4),
        ):
            assert ops.choose(other) == "eager"
    last = torch.zeros(1, 2, dispatch.WORTHWHILE // 4, 4).to(memory_format=torch.channels_last)
    assert last.numel() >= dispatch.WORTHWHILE_SENTENCE_LAST
    assert [ops.choose(part, words) for part in (last, last[:, :, ::2]) for words in (0, 1)] == ["cpu"] * 2 + [
        "eager"
    ] * 2
    half = last[:, :, : last.shape[2] // 2]
    assert half.numel() < dispatch.WORTHWHILE_SENTENCE_LAST
    assert [ops.choose(half, words) for words in (0, 1)] == ["eager", "cpu"]
    for backend in ("eager", "reference"):
        with ops.use_backend(backend):
            assert ops.choose(large) == backend
    assert ops.get_backend() == "auto"
    with pytest.raises(ValueError, match=r"backend must be one of \('auto', 'reference', .*\), got 'fast'"):
        ops.set_backend("fast")


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method:DeprecationWarning"
)  # inductor's own, up to torch 2.13
@pytest.mark.parametrize("cue", CUES)
@pytest.mark.parametrize("backend", ["reference"])
def test_a_backend_that_only_says_how(backend: ops.Backend, cue: str) -> None:
    torch._dynamo.reset()
    layer = layer_of(cue, 5)
    x, text = inputs_of(Case((3, 5, 4, 4), padded=True))
    leaf = x.clone().requires_grad_()
    with ops.use_backend(backend):
        y = layer(leaf, text)
    y.sin().sum().backward()
    other = x.clone().requires_grad_()
    want = oracle(layer, other, text)
    want.sin().sum().backward()
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(leaf.grad, other.grad)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_vmap_and_functional_gradients(backend: ops.Backend) -> None:
    layer = layer_of("word", 3).eval()
    xs = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    words = torch.randn(4, 2, 6, dtype=torch.float64)
    with ops.use_backend(backend):
        got = torch.vmap(lambda x: layer(x, words))(xs)
        torch.testing.assert_close(got, torch.stack([layer(x, words) for x in xs]))
        grad = torch.func.grad(lambda x: layer(x, words).square().sum())(xs[0])
        x = xs[0].clone().requires_grad_()
        layer(x, words).square().sum().backward()
        torch.testing.assert_close(grad, x.grad)


def test_auto_gives_what_eager_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of("both", 8, torch.float32)
    monkeypatch.setattr(dispatch, "WORTHWHILE", 1 << 17)
    x, text = inputs_of(Case((3, 8, 80, 80), words=7, padded=True), torch.float32)
    assert ops.choose(x) == "cpu"
    results = []
    for backend in ("auto", "eager"):
        leaf = x.clone().requires_grad_()
        words = text.words.clone().requires_grad_()
        layer.zero_grad()
        with ops.use_backend(backend):
            y = layer(leaf, TextFeatures(text.sentence, words, text.padding_mask))
        y.square().sum().backward()
        results.append([y, leaf.grad, words.grad, *(p.grad.clone() for p in layer.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max().clamp(min=1)))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("cue", ["word", "sentence"])
def test_under_autocast_a_differentiable_gradient_is_as_good_as_eagers(cue: str, backend: ops.Backend) -> None:
    layer = layer_of(cue, 16, torch.float32)
    x, text = inputs_of(Case((2, 16, 8, 8), padded=True), torch.float32)

    def gradient(backend: ops.Backend, exact: bool, create: bool = False) -> torch.Tensor:
        kind = torch.float64 if exact else torch.float32
        leaf = x.to(kind, copy=True).requires_grad_()
        given = TextFeatures(text.sentence.to(kind), text.words.to(kind), text.padding_mask)
        with ops.use_backend(backend), torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            y = layer.to(kind)(leaf, given)
            return torch.autograd.grad(y.double().sin().sum(), leaf, create_graph=create)[0].detach().double()

    exact = gradient("eager", exact=True)
    allowed = float((gradient("eager", exact=False) - exact).norm())
    for create in (False, True):
        assert float((gradient(backend, False, create) - exact).norm()) <= 1.1 * allowed


@pytest.mark.parametrize("backend", ["eager", "cpu", "triton"])
@pytest.mark.parametrize("cue", ["word", "both", "sentence"])
def test_a_differentiable_gradient_is_the_gradient(cue: str, backend: ops.Backend) -> None:
    """The tables are functions of the keys: a graph through both must not count that way twice."""
    dtype = torch.float32 if backend == "triton" else torch.float64
    layer = layer_of(cue, 5, dtype)
    x, text = inputs_of(Case((3, 5, 4, 4), padded=True), dtype)
    leaves = [t.clone().requires_grad_() for t in (x, text.sentence, text.words)]
    results = []
    with ops.use_backend(backend):
        for create in (False, True):
            y = layer(leaves[0], TextFeatures(leaves[1], leaves[2], text.padding_mask)).sin().sum()
            wanted = [*leaves, *layer.parameters()]
            results.append(torch.autograd.grad(y, wanted, create_graph=create, allow_unused=True))
    for first, second in zip(*results, strict=True):
        assert (first is None) == (second is None)
        if first is not None:
            torch.testing.assert_close(first, second.detach(), rtol=1e-3, atol=1e-4)
