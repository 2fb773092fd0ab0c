"""What the Triton kernels take and keep of memory, and memory in which a map has gaps."""

from __future__ import annotations

import pytest
import torch
from helpers.cases import WORD_DIM

pytest.importorskip("triton", reason="triton is not installed")

from torch.utils._python_dispatch import TorchDispatchMode

from scbn import WordSCBN, ops
from scbn.ops import sentence as fused_sentence
from scbn.ops import word as fused_word
from scbn.ops.triton import launch as triton_launch
from scbn.ops.triton import word as triton_word
from scbn.ops.values import WordTables

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _backend():
    with ops.use_backend("triton"):
        yield


@pytest.mark.parametrize("compiled", [False, True])
def test_keeps_x_and_little_else(compiled: bool) -> None:
    torch._dynamo.reset()
    layer = WordSCBN(16, WORD_DIM).to(DEVICE)
    x = torch.randn(2, 16, 64, 64, device=DEVICE, requires_grad=True)
    words = torch.randn(2, 18, WORD_DIM, device=DEVICE)
    call = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    seen = {}

    def pack(t):
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call(x, words)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = sum(size for pointer, size in seen.items() if pointer not in own)
    assert x.numel() * 4 <= kept <= 1.05 * x.numel() * 4


class _Made(TorchDispatchMode):
    """Adds up the bytes of every new tensor."""

    made = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known:
            self.made += result.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize(("words", "positions"), [(18, 256), (40, 128)])
def test_the_backward_makes_little_more_than_its_results(
    words: int, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_word, "_LITTLE", 0)
    x, dy = torch.randn(2, 8, 32, positions, device=DEVICE)
    tables = [torch.randn(8, words, 32, device=DEVICE) for _ in range(3)]
    own = [torch.randn(32, device=DEVICE) for _ in range(2)]
    stats = triton_launch.statistics(x)
    with _Made() as made:
        found = triton_word.backward(dy, x, WordTables(*tables, *own, None), stats, 1e-5, 1.0, None)
    size, slots = x.numel() * 4, max(16, 1 << words.bit_length())
    results = sum(t.numel() * 4 for t in found)
    of_tables = 3 * 8 * slots * 32 * 4
    # Attention and its gradient of all samples would be 2 x slots / channels times x: 2 and 4 times here.
    assert made.made <= results + of_tables + 1.55 * size + 8 * 32 * 64


@pytest.mark.parametrize("samples", [1, 7])
def test_samples_in_several_goes_and_many_chunks(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, dy = torch.randn(2, samples, 32, 130, device=DEVICE)
    tables = [torch.randn(samples, 20, 32, device=DEVICE) for _ in range(3)]
    own = [torch.randn(32, device=DEVICE) for _ in range(2)]
    padding = torch.rand(samples, 20, device=DEVICE) < 0.4
    arguments = WordTables(*tables, *own, padding)
    results = []
    for group, chunks in ((samples, 99), (2, 99), (samples, 0)):
        with monkeypatch.context() as patch:
            patch.setattr(triton_word, "_samples_at_once", lambda x, size, group=group: min(group, len(x)))
            patch.setattr(triton_word, "_CHUNKS", chunks)
            results.append(
                triton_word.backward(dy, x, arguments, triton_launch.statistics(x), 1e-5, 1.0, lambda m: m)
            )
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["gaps", "one value"])
def test_memory_that_is_not_dense(how: str) -> None:
    """The operations themselves take it too; layers hand them dense maps."""
    full = torch.randn(2, 6, 40, device=DEVICE)
    x = full[..., ::2] if how == "gaps" else full[..., :1].expand(2, 6, 20)
    tables = [torch.randn(2, 3, 6, device=DEVICE) for _ in range(3)]
    own = [torch.randn(6, device=DEVICE) for _ in range(2)]
    results = []
    for given in (x, x.contiguous()):
        leaf = given.detach().requires_grad_()
        words = fused_word.word_norm(
            leaf, WordTables(*tables, *own, None), None, eps=1e-5, scale=1.0, backend="triton"
        )
        plain = fused_sentence.sentence_norm(
            leaf, tables[0][:, 0], tables[1][:, 0], None, eps=1e-5, backend="triton"
        )
        grad = torch.autograd.grad((words[0].sin() + plain[0].cos()).sum(), leaf)
        results.append([words[0].detach(), plain[0].detach(), *grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(DEVICE == "cpu", reason="bfloat16 products are of a GPU alone")
def test_tables_of_float32_are_not_rounded_to_bfloat16() -> None:
    assert triton_launch.product_kind(torch.ones(1, device=DEVICE).bfloat16(), torch.float32) != "bf16"
