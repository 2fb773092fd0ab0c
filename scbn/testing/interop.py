"""Rules about a conditional norm under PyTorch's own tools."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils.checkpoint import checkpoint

from scbn.testing.contract import CHANNELS, SHAPE, Check, Subject, cast, each, leaves, same, statistics
from scbn.text import TextFeatures

HALF = (torch.bfloat16, torch.float16)


def dtype_kept(subject: Subject) -> None:
    exact = subject.trained(torch.float32)
    x, text = subject.inputs(dtype=torch.float32)
    for dtype in (torch.float64, torch.float32, *HALF):
        norm = copy.deepcopy(exact).double() if dtype == torch.float64 else copy.deepcopy(exact)
        y = norm(x.to(dtype), cast(text, torch.float64) if dtype == torch.float64 else text)
        assert y.dtype == dtype, f"x is {dtype}, the output {y.dtype}"
        if dtype in HALF:
            want = copy.deepcopy(exact).double()(x.to(dtype).double(), cast(text, torch.float64))
            rounding = 4 * torch.finfo(dtype).eps
            same(y.double(), want, f"{dtype} x, computed in float32, and in float64", rtol=rounding, atol=rounding)
        for name, buffer in norm.named_buffers():
            kept = dict(exact.named_buffers())[name].dtype
            assert dtype == torch.float64 or buffer.dtype == kept, f"{name} turns from {kept} into {buffer.dtype}"


def half_precision_norm(subject: Subject) -> None:
    for dtype in HALF:
        norm = subject.trained(torch.float32).to(dtype)
        x, text = subject.inputs(dtype=torch.float32)
        y = norm(x.to(dtype), cast(text, dtype))
        assert y.dtype == dtype, f"norm and x are {dtype}, the output is {y.dtype}"
        assert y.isfinite().all(), f"norm and x are {dtype}, the output is not finite"


def autocast(subject: Subject) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        norm, bn = subject.trained(torch.float32), nn.BatchNorm2d(CHANNELS)
        x, text = subject.inputs(dtype=torch.float32)
        want = copy.deepcopy(norm)(x.to(dtype), text)
        with torch.autocast("cpu", torch.bfloat16):
            y, kept = norm(x.to(dtype), text), bn(x.to(dtype)).dtype
        assert y.dtype == kept, f"x is {dtype}: the output under autocast is {y.dtype}, nn.BatchNorm2d's {kept}"
        difference = (y - want).abs().max() / want.abs().max()
        assert difference < 0.2, f"x is {dtype}: autocast changes the output by {float(difference):.0%}"
        y.sum().backward()
        for name, p in norm.named_parameters():
            assert p.grad is None or p.grad.dtype == p.dtype, (
                f"the gradient of {name} is {p.grad.dtype}, not {p.dtype}"
            )


def memory_format(subject: Subject) -> None:
    norm = subject.trained().eval()
    x, text = subject.inputs()
    y = norm(x, text)
    assert y.is_contiguous(), f"x is contiguous, the output is not: {y.stride()=}"
    last = norm(x.contiguous(memory_format=torch.channels_last), text)
    kept = last.is_contiguous(memory_format=torch.channels_last)
    assert kept, f"x is channels_last, the output is not: {last.stride()=}"
    same(last, y, "output for a channels_last x and for a contiguous one")


def compiles(subject: Subject) -> None:
    torch._dynamo.reset()
    try:
        for training in (True, False):
            norm = subject.trained(torch.float32).train(training)
            eager = copy.deepcopy(norm)
            x, text = subject.inputs(dtype=torch.float32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
                results = [_with_gradients(f, x, text) for f in (compiled, eager)]
            for got, want in zip(*results, strict=True):
                same(got, want, f"compiled and eager output or gradient, {training=}", rtol=1e-3, atol=1e-4)
            now = statistics(eager)
            for name, buffer in statistics(norm).items():
                same(buffer, now[name], f"{name} after a compiled and an eager call", rtol=1e-4, atol=1e-5)
    finally:
        torch._dynamo.reset()


def _with_gradients(f: Callable[..., Any], x: Tensor, text: TextFeatures) -> list[Tensor]:
    x, text = leaves(x, text)
    y = f(x, text)
    y.square().sum().backward()
    grads = [t.grad for t in (x, text.sentence, text.words) if t is not None]
    return [y.detach(), *(g for g in grads if g is not None)]


def exports(subject: Subject) -> None:
    norm = subject.trained(torch.float32).eval()
    x, text = subject.inputs(dtype=torch.float32)
    n, h, w = Dim("n", min=2, max=64), Dim("h", min=2, max=256), Dim("w", min=2, max=256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cues: list[Any] = [None if t is None else {0: n} for t in text]
        spec = ({0: n, 2: h, 3: w}, TextFeatures(*cues))
        module = torch.export.export(norm, (x, text), dynamic_shapes=spec).module()
    for shape in (SHAPE, (5, CHANNELS, 8, 3)):
        x, text = subject.inputs(shape, torch.float32)
        same(
            module(x, text), norm(x, text), f"exported and eager output for {tuple(x.shape)}", rtol=1e-4, atol=1e-5
        )


def copies(subject: Subject) -> None:
    norm = subject.trained().eval()
    x, text = subject.inputs()
    y = norm(x, text)
    same(copy.deepcopy(norm)(x, text), y, "output of a deepcopy", rtol=0, atol=0)
    same(pickle.loads(pickle.dumps(norm))(x, text), y, "output after pickle", rtol=0, atol=0)


def state_dict(subject: Subject) -> None:
    norm, other = subject.trained().eval(), subject.trained().eval()
    x, text = subject.inputs()
    y = norm(x, text)
    file = io.BytesIO()
    torch.save(norm.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    same(other(x, text), y, "output of a norm that loaded the state_dict", rtol=0, atol=0)


def meta_device(subject: Subject) -> None:
    norm = subject.trained(torch.float32).to("meta")
    x, text = subject.inputs(dtype=torch.float32)
    y = norm(x.to("meta"), each(text, lambda t: t.to("meta")))
    assert y.is_meta, f"everything is on the meta device, the output on {y.device}"
    assert y.shape == x.shape, f"on the meta device {x.shape=} gives {y.shape=}"


def checkpointing(subject: Subject) -> None:
    norm = subject.trained()
    x, text = subject.inputs()
    results = [_with_gradients(f, x, text) for f in (norm, lambda *a: checkpoint(norm, *a, use_reentrant=False))]
    for want, got in zip(*results, strict=True):
        same(got, want, "output or gradient under non-reentrant checkpointing")


def sync_conversion(subject: Subject) -> None:
    norm = subject.trained().eval()
    x, text = subject.inputs()
    y = norm(x, text)
    converted: Any = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(norm))
    try:
        got = converted[0](x, text)
    except TypeError as error:
        raise AssertionError(
            "convert_sync_batchnorm replaces the norm and drops its condition; hold the batch norm as a child "
            f"(self.bn) instead of subclassing it: {error}"
        ) from error
    same(got, y, "output after convert_sync_batchnorm")


CHECKS = (
    Check("dtype_kept", "the output has x's dtype, and half precision is computed in float32", dtype_kept),
    Check("half_precision_norm", "a norm in half precision gives finite half precision", half_precision_norm),
    Check("autocast", "autocast behaves as for nn.BatchNorm2d", autocast),
    Check("memory_format", "contiguous and channels_last layouts are kept", memory_format),
    Check("compiles", "torch.compile(fullgraph=True) gives the same output, gradients and statistics", compiles),
    Check("exports", "torch.export works with dynamic batch, height and width", exports),
    Check("copies", "deepcopy and pickle give a norm that computes the same", copies),
    Check("state_dict", "a saved and loaded state_dict is all that a norm is", state_dict),
    Check("meta_device", "shapes can be computed on the meta device", meta_device),
    Check("checkpointing", "non-reentrant checkpointing gives the same gradients", checkpointing),
    Check("sync_conversion", "nn.SyncBatchNorm.convert_sync_batchnorm keeps the condition", sync_conversion),
)
