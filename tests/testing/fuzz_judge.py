"""The judge of drawn calls: the formula's value or our own error, and nothing changed that should not.

``SCBN_FUZZ_EXAMPLES=100000 python -m pytest tests/testing`` makes that many calls, others at every run.
"""

from __future__ import annotations

import contextlib
import copy
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import event, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import scbn
from scbn import TextFeatures, VisualSemanticEmbedding, WordSCBN, ops, reference

PACKAGE = str(Path(scbn.__file__).parent)
# Batch normalisation's own error, which our layers raise in its words; inside a generator PyTorch raises it.
SINGLE_VALUE = "Expected more than 1 value per channel"
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Results = dict[str, Tensor]
seeds = st.integers(0, 2**31 - 1)
norm_options = st.fixed_dictionaries(
    {
        "momentum": st.sampled_from((0.1, None, 0.5, 1.0, 0.0)),
        "eps": st.sampled_from((1e-5, 1e-3, 0.1, 1)),
        "affine": st.sampled_from((True, True, True, False)),
        "track_running_stats": st.sampled_from((True, True, True, True, False)),
    }
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
    _tell(untouched)
    expected = want()
    with _left_alone(untouched, strict):
        got = run()
    assert got.keys() == expected.keys()
    values = values and not any(t.is_meta for t in got.values())
    for name, value in expected.items():
        _close(name, got[name], value, tolerance, values)
    event("equal" if values else "of the right shape")


def refuses(run: Callable[[], Any], names: str, *untouched: Any) -> None:
    """The call raises our ValueError, whose message names what is wrong, and leaves everything alone."""
    _tell(untouched)
    with _left_alone(untouched):
        try:
            run()
        except ValueError as error:
            told, last = str(error), traceback.extract_tb(error.__traceback__)[-1]
            ours = type(error) is ValueError and last.filename.startswith(PACKAGE)
            if not ours and SINGLE_VALUE not in told:
                raise
            assert re.search(names, told), f"the message does not say {names!r}: {told}"
            event("refused")
        else:
            raise AssertionError(f"accepted, where {names!r} is wrong")


@contextlib.contextmanager
def _left_alone(things: tuple[Any, ...], strict: bool = True) -> Iterator[None]:
    before = [_state(thing) for thing in (None, *things)]
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        yield
    for thing, old in zip((None, *things), before, strict=True):
        now = _state(thing)
        changed = [name for name in old.keys() | now.keys() if not _same(old.get(name), now.get(name))]
        assert not changed, f"the call changes {changed} of {type(thing).__name__}"


def _state(thing: Any) -> dict[str, Any]:
    """What a call could change: of a module, of a tensor, or, of nothing, of the process."""
    if isinstance(thing, nn.Module):
        tensors = thing.state_dict(keep_vars=True)
        state = {f"{name}.{key}": value for name, t in tensors.items() for key, value in _state(t).items()}
        return state | {f"class of {name}": type(m) for name, m in thing.named_modules()}
    if isinstance(thing, Tensor):
        version = None if thing.is_inference() else thing._version
        data = None if thing.is_meta or thing.layout != torch.strided else thing.detach().clone()
        return {"data": data, "version": version, "grad": thing.grad, "requires_grad": thing.requires_grad}
    if thing is not None:
        return {}
    return {
        "backend": ops.get_backend(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "random state": torch.random.get_rng_state(),
    }


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a is b or a == b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


def _close(name: str, actual: Tensor, expected: Tensor, tolerance: float, values: bool) -> None:
    assert actual.shape == expected.shape, f"{name} has shape {actual.shape}, not {expected.shape}"
    if not values or not expected.numel():
        return
    if actual.is_floating_point():  # a gradient is as precise as the tensor it is of
        tolerance = max(tolerance, 8 * torch.finfo(actual.dtype).eps)
    actual, expected = actual.detach().double(), expected.detach().double()
    finite = expected.isfinite()
    # Where the formula gives NaN or infinity, which of the two depends on the order of operations.
    assert torch.equal(actual.isfinite(), finite), (
        f"{name} is not finite where the formula is, or is where it is not"
    )
    if finite.any():
        scale = expected[finite].abs().max().clamp(min=1)
        error = float((actual[finite] - expected[finite]).abs().max() / scale)
        assert error <= tolerance, (
            f"{name} is off by {error:.3g} of its largest value, allowed are {tolerance:.3g}"
        )


def _tell(things: tuple[Any, ...]) -> None:
    for thing in things:
        if isinstance(thing, Tensor):
            note(
                f"a tensor {tuple(thing.shape)} of {thing.dtype}, strides {thing.stride()}"
                if thing.layout == torch.strided
                else "sparse"
            )
        elif isinstance(thing, nn.Module):
            note(f"{thing} {'in training' if thing.training else 'in eval mode'}")


def gradients(y: Tensor, leaves: list[Tensor | None]) -> Results:
    """Of a weighted sum of y, by each leaf that asks for one."""
    asked = [t for t in leaves if t is not None and t.requires_grad]
    if not asked:
        return {}
    if not y.requires_grad:  # it depends on none of them: an empty map, captions of nothing but padding
        return {f"grad {i}": torch.zeros_like(t) for i, t in enumerate(asked)}
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    found = torch.autograd.grad((y * weight).sum(), asked, allow_unused=True)
    pairs = enumerate(zip(asked, found, strict=True))
    return {f"grad {i}": torch.zeros_like(t) if g is None else g for i, (t, g) in pairs}


def exact(t: Any) -> Any:
    """A float64 leaf with the same value; a mask as it is."""
    if t is None or not t.is_floating_point():
        return t
    return t.detach().double().clone().requires_grad_(t.requires_grad)


def statistics(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance that the layer normalises with."""
    if layer.bn.training or layer.bn.running_mean is None:
        return reference.batch_statistics(x)
    return layer.bn.running_mean, layer.bn.running_var


def formula(layer: Any, x: Tensor, text: TextFeatures) -> Tensor:
    """What a layer must give, whose parameters are float64 as its inputs are."""
    if not x.numel():
        return x * 1
    parameters = dict(layer.named_parameters())
    if isinstance(layer, VisualSemanticEmbedding):
        keys = reference.perceptron(text.words, text.padding_mask, parameters)
        vse = reference.visual_semantic_embedding(x, keys, text.padding_mask, layer.scale)
        return vse.transpose(1, 2).reshape(x.shape)
    mean, var = statistics(layer, x)
    if isinstance(layer, WordSCBN):
        return reference.word_scbn(x, text, parameters, mean, var, layer.bn.eps, layer.scale)
    return reference.sentence_scbn(x, text, parameters, mean, var, layer.bn.eps)


def word_map(layer: Any, x: Tensor, text: TextFeatures) -> Tensor:
    """What ``attention`` of the layer must give."""
    keys = reference.perceptron(text.words, text.padding_mask, dict(layer.named_parameters()))
    shape = (x.shape[0], keys.shape[1], *x.shape[2:])
    return (
        reference.attention(x, keys, text.padding_mask, layer.scale).reshape(shape)
        if x.numel()
        else x.new_empty(shape)
    )


def moved(layer: Any, x: Tensor) -> Results:
    """The running statistics after the layer, in the state it is in now, has seen x."""
    bn = getattr(layer, "bn", None)
    if bn is None or bn.running_mean is None:
        return {}
    mean, var, seen = bn.running_mean.double(), bn.running_var.double(), bn.num_batches_tracked.clone()
    if bn.training:
        seen += 1
    if bn.training and x.numel():  # else nothing to learn from, but nn.BatchNorm2d counts it
        batch_mean, batch_var = reference.batch_statistics(x.detach().double())
        momentum = 1 / float(seen) if bn.momentum is None else bn.momentum
        mean = reference.running_update(mean, batch_mean, momentum)
        var = reference.running_update(var, reference.unbiased(batch_var, x.numel() // x.shape[1]), momentum)
    return {"running_mean": mean, "running_var": var, "num_batches_tracked": seen}


def amplification(x: Tensor, var: Tensor, eps: float) -> float:
    """By how much normalising multiplies a rounding error of x: large where a channel hardly varies."""
    if not x.numel():
        return 1.0
    largest = x.detach().double().abs().movedim(1, 0).flatten(1).amax(1)
    return max(1.0, float((largest / torch.sqrt(var.double() + eps)).nan_to_num(posinf=1e6).max()))


def double(layer: nn.Module) -> nn.Module:
    """A copy in float64."""
    return copy.deepcopy(layer).double()
