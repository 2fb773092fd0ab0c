"""Kernels that compute something else, or do not run, are found out before anything relies on them."""

from __future__ import annotations

import types
import warnings

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from scbn import WordSCBN, ops
from scbn.ops import probe, selfcheck
from scbn.ops.triton import launch, sentence, word

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
MAP = torch.zeros(2, 24, 5, 8, device=DEVICE)
pytestmark = pytest.mark.skipif(
    DEVICE.type == "cpu" and not ops.interpreted(),
    reason="without a GPU, Triton's kernels run interpreted or not at all",
)


F32 = torch.float32


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, empty in (("_known", {}), ("_answers", {}), ("_distrusted", set())):
        monkeypatch.setattr(selfcheck, name, empty)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("words", [0, 3])
def test_right_kernels_are_trusted(dtype: torch.dtype, memory: torch.memory_format, words: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert selfcheck.trusted(MAP.to(dtype).contiguous(memory_format=memory), words, F32)
    ((device, kind),) = selfcheck._answers
    assert device == DEVICE
    assert kind[1:] == (dtype, F32, 24, 57, 14 if words else 0, memory == torch.channels_last)
    assert kind.products == ("none" if not words else "tf32" if dtype == torch.float16 else "tf32x3")


@pytest.mark.usefixtures("rounding_of_hardware")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [17, 64])
def test_rounding_of_tensor_cores_is_no_fault(
    dtype: torch.dtype, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "product_kind", lambda x, table: "tf32")
    monkeypatch.setattr(word, "product_kind", lambda x, table: "tf32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for positions in (51, 128):
            assert selfcheck.trusted(torch.zeros(2, channels, positions, dtype=dtype, device=DEVICE), 20, F32)


def test_the_newer_switch_of_tf32_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside it torch refuses to read the older one."""

    class Refusing(types.SimpleNamespace):
        @property
        def allow_tf32(self) -> bool:
            raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch.backends.cuda, "matmul", Refusing(fp32_precision="tf32"))
    assert selfcheck.trusted(MAP, 3, F32)


def test_a_kind_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[selfcheck.Kind] = []
    monkeypatch.setattr(selfcheck, "_find_fault", lambda device, kind: asked.append(kind) or "")
    for positions, words in (
        (48, 3),
        (64, 9),
        (64, 14),
        (40, 9),
        (4096, 3),
        (9216, 3),
        (9217, 3),
        (48, 20),
        (48, 3),
        (48, 0),
    ):
        assert selfcheck.trusted(torch.zeros(1, 8, positions, device=DEVICE), words, F32)
    assert [(kind.positions, kind.words) for kind in asked] == [
        (64, 14), (57, 14), (1024, 14), (1031, 14), (64, 30), (64, 0),
    ]  # fmt: skip
    # The table's dtype matters where bfloat16 maps may take bfloat16 products.
    half = torch.zeros(1, 8, 48, device=DEVICE).bfloat16()
    for table in (F32, torch.bfloat16):
        selfcheck.trusted(half, 3, table)
        selfcheck.trusted(half.float(), 3, table)
    assert [kind.table for kind in asked[6:]] == [F32, torch.bfloat16]


def _wrong(function, where: int):
    def call(*arguments, **options):
        found = function(*arguments, **options)
        parts = list(found) if isinstance(found, tuple) else [found]
        parts[where] = parts[where] + 0.01 * parts[where].abs().max()
        return type(found)(parts) if isinstance(found, tuple) else parts[0]

    return call


@pytest.mark.parametrize(
    ("module", "name", "where", "told"),
    [
        (word, "forward", 0, "output"),
        (word, "backward", 1, "dkeys"),
        (word, "backward", 3, "dbeta"),
        (sentence, "forward", 0, "output"),
        (sentence, "backward", 0, "dx"),
    ],
)
def test_a_wrong_kernel_is_not(module, name: str, where: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, name, _wrong(getattr(module, name), where))
    words = 3 if module is word else 0
    message = rf"do not compute on .*{told} in torch.float32 is off by .* report it"
    with pytest.warns(UserWarning, match=message):
        assert not selfcheck.trusted(MAP, words, F32)
    # Said once, and true of everything on this device from then on.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not selfcheck.trusted(MAP, words, F32)
        assert not selfcheck.trusted(MAP.half(), 40, F32)


@pytest.mark.parametrize(
    "error", [RuntimeError("ptxas fatal: out of resources\nmore"), AssertionError(), OSError("no gcc")]
)
def test_a_kernel_that_does_not_run_is_not(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(word, "backward", fail)
    message = rf"\({type(error).__name__}: {str(error).partition(chr(10))[0]}\), so layers of this kind"
    with pytest.warns(UserWarning, match=message):
        assert not selfcheck.trusted(MAP, 3, F32)
    assert selfcheck.trusted(MAP, 0, F32)  # the other kernels are as good as they were


def test_memory_that_is_short_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(word, "forward", fail)
        assert not selfcheck.trusted(MAP, 3, F32)
    assert selfcheck.trusted(MAP, 3, F32)


def test_nothing_of_the_caller_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()

    def refuse(*values):
        raise AssertionError("the check saved a tensor")

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            raise AssertionError("the check ran in a mode of the caller")

    contexts = [torch.no_grad(), torch.inference_mode(), torch.autograd.graph.saved_tensors_hooks(refuse, refuse)]
    contexts += [
        torch.autograd.graph.disable_saved_tensors_hooks("no"),
        torch.autocast(DEVICE.type, torch.bfloat16),
    ]
    contexts += [torch.device("meta"), FakeTensorMode(), Refuse()]
    for n, context in enumerate(contexts):
        x = torch.zeros(2, 8 + n, 4, 4, device=DEVICE)
        with warnings.catch_warnings(), context:
            warnings.simplefilter("error")
            assert selfcheck.trusted(x, 3, F32), context
    assert torch.equal(torch.get_rng_state(), before)
    assert len(selfcheck._answers) == len(contexts)


@pytest.mark.filterwarnings("ignore")
def test_a_first_call_within_activation_checkpointing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recomputed must be what was computed, whether or not the first pass had to be checked."""
    real = ops.dispatch._fits_triton

    def fits(x, words, table):
        return real(x, words, table) and selfcheck.trusted(x, words, table)

    monkeypatch.setattr(ops.dispatch, "_fits_triton", fits)
    torch.manual_seed(0)
    layer = WordSCBN(6, 4).to(DEVICE)
    x = torch.randn(2, 6, 5, 5, device=DEVICE, requires_grad=True)
    words = torch.randn(2, 3, 4, device=DEVICE)
    with ops.use_backend("triton"):
        checkpoint(layer, x, words, use_reentrant=False).sin().sum().backward()
        first, x.grad = x.grad, None
        layer(x, words).sin().sum().backward()
    assert selfcheck._answers and all(selfcheck._answers.values())
    torch.testing.assert_close(first, x.grad)


def test_auto_asks_and_a_name_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(major=9))
    monkeypatch.setattr(probe, "_trouble", "")
    for answer, backend in ((True, "triton"), (False, "eager")):
        monkeypatch.setattr(selfcheck, "trusted", lambda x, words, table, answer=answer: answer)
        with FakeTensorMode():
            x = torch.empty(16, 64, 32, 32, device="cuda")
            for asked in ("auto", "triton"):
                with ops.use_backend(asked):
                    assert ops.choose(x) == backend
                    # Processes that share statistics make the same calls whatever one of them found.
                    assert ops.choose(x, shared=True) == ("triton" if answer else "cpu")


def test_a_compiled_layer_asks_while_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[selfcheck.Kind] = []
    monkeypatch.setattr(selfcheck, "_find_fault", lambda device, kind: asked.append(kind) or "")

    def ask(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if selfcheck.trusted(x, 7, torch.float32) else x

    torch._dynamo.reset()
    compiled = torch.compile(ask, fullgraph=True, backend="eager", dynamic=True)
    for size in (3, 4, 5):
        assert torch.equal(
            compiled(torch.ones(2, 3, size, device=DEVICE)), torch.full((2, 3, size), 2.0, device=DEVICE)
        )
    assert asked == [selfcheck.Kind("tf32x3", F32, F32, 64, 1024, 30, False)]
