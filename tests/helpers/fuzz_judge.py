"""The judge of drawn calls: the formula's value or our own error, and nothing changed that should not.

``SCBN_FUZZ_EXAMPLES=100000 python -m pytest tests/testing`` makes about that many calls, others at every run.
"""

from __future__ import annotations

import contextlib
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from helpers.cases import oracle
from hypothesis import event, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import scbn
from scbn import TextFeatures, VisualSemanticEmbedding, ops, reference

PACKAGE = str(Path(scbn.__file__).parent)
# Batch normalisation's own error, which our layers raise in its words; inside a generator PyTorch raises it.
SINGLE_VALUE = "Expected more than 1 value per channel"
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Results = dict[str, Tensor]
seeds = st.integers(0, 2**31 - 1)
norm_options = st.builds(
    dict,
    momentum=st.sampled_from((0.1, None, 0.5, 1.0, 0.0)),
    eps=st.sampled_from((1e-5, 1e-3, 0.1, 1)),
    affine=st.sampled_from((True, True, True, False)),
    track_running_stats=st.sampled_from((True, True, True, True, False)),
)


def fuzz(share: float) -> settings:
    """Settings of a test that makes this share of all calls."""
    profile = settings.get_profile("fuzz")
    return settings(profile, max_examples=max(1, round(share * profile.max_examples)))


def one_in(count: int) -> st.SearchStrategy[bool]:
    """True in one of so many draws; shrinks to False."""
    return st.integers(1, count).map(lambda drawn: drawn == count)


def backends() -> st.SearchStrategy[ops.Backend]:
    """What runs on a CPU, the interpreted kernels seldom."""
    usual = st.sampled_from(("auto", "eager", "cpu", "reference"))
    return st.builds(lambda name, rare: "triton" if rare and ops.interpreted() else name, usual, one_in(100))


def normal(seed: int, *size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Of a seed, whatever else is drawn."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gives(
    run: Callable[[], Results],
    want: Callable[[], Results],
    tolerance: float,
    *untouched: Any,
    values: bool = True,
    strict: bool = True,
) -> None:
    """The call gives the oracle's results, relative to the largest value of each, and leaves the rest alone.

    Not ``values``: only names and shapes are compared. ``strict``: a warning is an error.
    """
    expected = want()
    with _left_alone(untouched, strict):
        got = run()
    values = values and not any(t.is_meta for t in got.values())
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape, f"{name} has shape {got[name].shape}, not {value.shape}"
        if values and value.numel():  # normalising makes a rounding error larger, but not in the statistics
            _close(name, got[name], value, min(tolerance, 2e-4) if name.startswith("running") else tolerance)
    event("equal" if values else "of the right shape")


def refuses(run: Callable[[], Any], names: str, *untouched: Any) -> None:
    """The call raises our ValueError, whose message names what is wrong, and leaves everything alone."""
    with _left_alone(untouched):
        try:
            run()
        except ValueError as error:
            told, last = str(error), traceback.extract_tb(error.__traceback__)[-1]
            if SINGLE_VALUE not in told and not (type(error) is ValueError and last.filename.startswith(PACKAGE)):
                raise
            assert re.search(names, told), f"the message does not say {names!r}: {told}"
        else:
            raise AssertionError(f"accepted, where {names!r} is wrong")
    event("refused")


@contextlib.contextmanager
def _left_alone(things: tuple[Any, ...], strict: bool = True) -> Iterator[None]:
    things = (None, *things)
    for thing in things:  # what is printed of a tensor does not say how it lies in memory
        if isinstance(thing, Tensor) and not isinstance(thing, nn.Parameter) and thing.layout == torch.strided:
            note(f"a tensor {tuple(thing.shape)} with strides {thing.stride()}")
    before = [_state(thing) for thing in things]
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        yield
    for thing, old in zip(things, before, strict=True):
        now = _state(thing)
        changed = [name for name in old.keys() | now.keys() if not _same(old.get(name), now.get(name))]
        assert not changed, f"the call changes {changed} of {type(thing).__name__}"


def _state(thing: Any) -> dict[str, Any]:
    """What a call could change: of a module, of a tensor, or, of ``None``, of the process."""
    if isinstance(thing, nn.Module):
        tensors = thing.state_dict(keep_vars=True)
        state = {f"{name}.{key}": value for name, t in tensors.items() for key, value in _state(t).items()}
        return state | {f"class of {name}": type(m) for name, m in thing.named_modules()}
    if isinstance(thing, Tensor):
        plain = thing.layout == torch.strided and not thing.is_meta
        version = None if thing.is_inference() else thing._version
        return {"data": thing.detach().clone() if plain else None, "version": version, "grad": thing.grad}
    return {
        "backend": ops.get_backend(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "default dtype": torch.get_default_dtype(),
        "random state": torch.random.get_rng_state(),
    }


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a is b or a == b
    return a.dtype == b.dtype and (torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))


def _close(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    if actual.is_floating_point():  # a gradient is as precise as the tensor it is of
        tolerance = max(tolerance, 8 * torch.finfo(actual.dtype).eps)
    actual, expected = actual.detach().double(), expected.detach().double()
    finite = expected.isfinite()
    # Where the formula gives NaN or infinity, which of the two depends on the order of operations.
    assert torch.equal(actual.isfinite(), finite), f"{name} and the formula are not finite at different places"
    if finite.any():
        scale = expected[finite].abs().max().clamp(min=1)
        error = float((actual[finite] - expected[finite]).abs().max() / scale)
        assert error <= tolerance, f"{name} is off by {error:.3g} of its largest value, allowed is {tolerance:.3g}"


def gradients(y: Tensor, leaves: list[Tensor | None]) -> Results:
    """Of a weighted sum of y, by each leaf that asks for one."""
    asked = [t for t in leaves if t is not None and t.requires_grad]
    found: Any = [None] * len(asked)
    if asked and y.requires_grad:  # else y depends on none of them: captions of nothing but padding
        weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
        found = torch.autograd.grad((y * weight).sum(), asked, allow_unused=True)
    grads = [torch.zeros_like(t) if grad is None else grad for t, grad in zip(asked, found, strict=True)]
    return {f"grad {i}": grad for i, grad in enumerate(grads)}


def exact(t: Any) -> Any:
    """A float64 leaf with the same value; a mask as it is."""
    if t is None or not t.is_floating_point():
        return t
    return t.detach().double().clone().requires_grad_(t.requires_grad)


def formula(layer: Any, x: Tensor, text: TextFeatures, mapped: bool = False) -> Tensor:
    """What a layer, or its word map, must give; its parameters are float64 as x and text are."""
    shape = (x.shape[0], text.words.shape[1], *x.shape[2:]) if mapped and text.words is not None else x.shape
    if not x.numel():
        return x.new_empty(shape)
    if not mapped and not isinstance(layer, VisualSemanticEmbedding):
        return oracle(layer, x, text)
    assert text.words is not None
    keys = reference.perceptron(text.words, text.padding_mask, dict(layer.named_parameters()))
    if mapped:
        return reference.attention(x, keys, text.padding_mask, layer.scale).reshape(shape)
    return reference.visual_semantic_embedding(x, keys, text.padding_mask, layer.scale).mT.reshape(shape)


def learnt(running: list[Tensor], x: Tensor, momentum: float) -> list[Tensor]:
    """Running mean and variance, in float64, after one more batch."""
    mean, var = reference.batch_statistics(x.detach().double())
    new = (mean, reference.unbiased(var, x.numel() // x.shape[1]))
    return [reference.running_update(t.double(), batch, momentum) for t, batch in zip(running, new, strict=True)]


def amplification(x: Tensor, given: Tensor | None, eps: float) -> float:
    """By how much normalising with a variance (``None``: the batch's) multiplies a rounding error of x."""
    if not x.numel():
        return 1.0
    x = x.detach().double()
    var = reference.batch_statistics(x)[1] if given is None else given.double()
    largest = x.abs().movedim(1, 0).flatten(1).amax(1)
    return max(1.0, float((largest / torch.sqrt(var + eps)).nan_to_num(posinf=1e6).max()))
