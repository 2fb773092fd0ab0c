"""The implementations behind functional.py: chosen as documented, equal, lean, and known to torch.compile."""

from __future__ import annotations

import os

import pytest
import torch
from cases import Case, inputs_of, layer_of

from scbn import TextFeatures, ops
from scbn.ops import composed, tiled_sentence, tiles
from scbn.ops import tiled_word as tiled

# Dynamo and float() warn about what these tests do on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning"),
]

SHAPES = [(1, 1, 1), (2, 1, 15), (3, 5, 4095), (2, 64, 300), (1, 512, 77), (2, 32, 63 * 65)]


def arguments(n: int, c: int, p: int, t: int, dtype: torch.dtype = torch.float64, padded: bool = True):
    x = torch.randn(n, c, p, dtype=dtype) * 2 + 1
    keys, gamma, beta = (torch.randn(n, t, c, dtype=dtype) / c**0.5 for _ in range(3))
    hidden = torch.rand(n, t) < 0.5
    hidden[:, 0] = False
    return [x, keys, gamma, beta, hidden if padded else None]


def gradients(f, args):
    leaves = [a.detach().clone().requires_grad_() for a in args[:4]]
    y = f(*leaves, args[4])
    return y, torch.autograd.grad((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum(), leaves)


@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("words", [1, 18, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiled_equals_composed(shape: tuple[int, int, int], words: int, of_batch: bool) -> None:
    if of_batch and shape[0] * shape[2] == 1:
        pytest.skip("a single value per channel has no batch statistics")
    args = arguments(*shape, words)
    given = (None, None) if of_batch else (torch.randn(shape[1]).double(), torch.rand(shape[1]).double() + 0.5)
    y, grads = gradients(lambda *a: tiled.word_norm(*a, *given, 1e-5)[0], args)
    want, want_grads = gradients(lambda *a: composed.word_norm(*a, *given, 1e-5), args)
    torch.testing.assert_close(y, want, rtol=1e-9, atol=1e-9)
    for got, expected in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max().clamp(min=1)))


@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_tiled_sentence_equals_composed(shape: tuple[int, int, int], of_batch: bool) -> None:
    n, c, _ = shape
    leaves = [torch.randn(shape).double() * 2 + 1, torch.randn(n, c).double(), torch.randn(n, c).double()]
    given = (None, None) if of_batch else (torch.randn(c).double(), torch.rand(c).double() + 0.5)
    results = []
    for norm in (lambda *a: tiled_sentence.sentence_norm(*a)[0], composed.sentence_norm):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        y = norm(*inputs, *given, 1e-5)
        weight = torch.linspace(-1, 1, y.numel()).double().view_as(y)
        results.append([y, *torch.autograd.grad((y * weight).sum(), inputs)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8 * float(want.detach().abs().max().clamp(min=1)))


def test_gradients_stay_as_precise_as_autograds_far_from_zero() -> None:
    args = arguments(4, 16, 4000, 6)
    args[0], args[1] = args[0] + 300, args[1] / 100
    single = [a.float() if a.is_floating_point() else a for a in args]
    _, want = gradients(lambda *a: composed.word_norm(*a, None, None, 1e-5), args)
    _, plain = gradients(lambda *a: composed.word_norm(*a, None, None, 1e-5), single)
    _, got = gradients(lambda *a: tiled.word_norm(*a, None, None, 1e-5)[0], single)
    for a, b, exact in zip(got, plain, want, strict=True):
        scale = exact.abs().max()
        assert (a - exact).abs().max() / scale < 3 * (b - exact).abs().max() / scale + 1e-6


def test_every_value_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory is poisoned with NaN."""
    args = arguments(3, 7, 101, 5)
    monkeypatch.setattr(tiles, "VALUES", 7 * 16)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        y, grads = gradients(lambda *a: tiled.word_norm(*a, None, None, 1e-5)[0], args)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(t.isfinite().all() for t in (y, *grads))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_samples_shared_between_threads(threads: int) -> None:
    args = arguments(4, 6, 50, 3)
    want, want_grads = gradients(lambda *a: composed.word_norm(*a, None, None, 1e-5), args)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y, grads = gradients(lambda *a: tiled.word_norm(*a, None, None, 1e-5)[0], args)
        assert torch.get_num_threads() == threads  # the workers' own setting is theirs alone
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(grads, want_grads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    args = arguments(4, 6, 50, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tiled.word_norm(*args, None, None, 1e-5)
        child = os.fork()
        if child == 0:
            tiled.word_norm(*args, None, None, 1e-5)
            os._exit(17)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    finally:
        torch.set_num_threads(before)


def test_opcheck() -> None:
    x, keys, gamma, beta, hidden = arguments(2, 3, 8, 4)
    leaves = [t.requires_grad_() for t in (x, keys, gamma, beta)]
    for mask, given in ((hidden, (None, None)), (None, (torch.zeros(3).double(), torch.ones(3).double()))):
        torch.library.opcheck(tiled.word_norm, (*leaves, mask, *given, 1e-5))
    mean, var = torch.zeros(3).double(), torch.ones(3).double()
    plain = [t.detach() for t in leaves]
    torch.library.opcheck(tiled.word_norm_backward, (x.detach(), *plain, hidden, mean, var, 1e-5, True))
    pair = [torch.randn(2, 3).double().requires_grad_() for _ in range(2)]
    for given in ((None, None), (mean, var)):
        torch.library.opcheck(tiled_sentence.sentence_norm, (x, *pair, *given, 1e-5))
    arguments_ = (x.detach(), x.detach(), pair[0].detach(), mean, var, 1e-5, True)
    torch.library.opcheck(tiled_sentence.sentence_norm_backward, arguments_)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("cue", ["sentence", "both"])
def test_keeps_little_for_the_backward(cue: str, compiled: bool) -> None:
    layer = layer_of(cue, 16, torch.float32)
    x, text = inputs_of(Case((4, 16, 64, 64), words=18, padded=True), torch.float32)
    x.requires_grad_()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    seen: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with ops.use("tiled"), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run(x, text)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = sum(size for pointer, size in seen.items() if pointer not in own)
    assert kept <= 1.05 * x.numel() * 4


def test_the_switch() -> None:
    small, large = torch.zeros(1, 2, 4), torch.zeros(1, 2, ops.WORTHWHILE)
    assert ops.get_path() == "auto"
    assert not ops.runs_tiled(small)
    assert ops.runs_tiled(large)
    with ops.use("tiled"):
        assert ops.runs_tiled(small)
        for other in (
            small.half(),
            small.to("meta"),
            torch.zeros(2, 2),
            torch.zeros(0, 2, 3),
            small.expand(3, 2, 4),
        ):
            assert not ops.runs_tiled(other)
    with ops.use("composed"):
        assert not ops.runs_tiled(large)
    assert ops.get_path() == "auto"
    with pytest.raises(ValueError, match=r"path must be one of \('auto', 'composed', 'tiled'\), got 'fast'"):
        ops.set_path("fast")


@pytest.mark.parametrize("path", ["composed", "tiled"])
def test_vmap_and_functional_gradients(path: ops.Path) -> None:
    layer = layer_of("word", 3).eval()
    xs = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    words = torch.randn(4, 2, 6, dtype=torch.float64)
    with ops.use(path):
        got = torch.vmap(lambda x: layer(x, words))(xs)
        torch.testing.assert_close(got, torch.stack([layer(x, words) for x in xs]))
        grad = torch.func.grad(lambda x: layer(x, words).square().sum())(xs[0])
        x = xs[0].clone().requires_grad_()
        layer(x, words).square().sum().backward()
        torch.testing.assert_close(grad, x.grad)


def test_auto_gives_what_composed_gives() -> None:
    layer = layer_of("both", 8, torch.float32)
    x, text = inputs_of(Case((3, 8, 80, 80), words=7, padded=True), torch.float32)
    assert ops.runs_tiled(x)
    results = []
    for path in ("auto", "composed"):
        leaf = x.clone().requires_grad_()
        words = text.words.clone().requires_grad_()
        layer.zero_grad()
        with ops.use(path):
            y = layer(leaf, TextFeatures(text.sentence, words, text.padding_mask))
        y.square().sum().backward()
        results.append([y, leaf.grad, words.grad, *(p.grad.clone() for p in layer.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max().clamp(min=1)))
