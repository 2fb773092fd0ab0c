"""Drawn calls of the layers: SentenceSCBN, WordSCBN with one cue and with both, VisualSemanticEmbedding, word maps."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from fuzz_judge import (
    FLOATS,
    SINGLE_VALUE,
    amplification,
    backends,
    double,
    exact,
    formula,
    fuzz,
    gives,
    gradients,
    moved,
    norm_options,
    one_in,
    refuses,
    seeds,
    statistics,
    word_map,
)
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scbn import SentenceSCBN, TextFeatures, VisualSemanticEmbedding, WordSCBN, ops
from scbn.ops import eager
from scbn.ops.cpu import tiles
from scbn.testing.strategies import MISTAKES, feature_maps, mistakes, shapes, text_features

CUES = ("sentence", "word", "both", "embedding")
sizes = st.integers(1, 7)


@st.composite
def layers(draw: st.DrawFn, cue: str, channels: int, dtype: torch.dtype) -> nn.Module:
    """A layer with every value away from its initial one, in any mode, some of it frozen."""
    options = {} if cue == "embedding" else draw(norm_options)
    if cue != "sentence":
        options["scale"] = draw(st.sampled_from((1.0, 0.0, 0.3, 2, -1.0)))
    if cue in ("sentence", "both"):
        options["hidden_dim"] = draw(st.none() | st.integers(1, 6))
    seed = draw(seeds)
    torch.manual_seed(seed)
    if cue == "embedding":
        layer: Any = VisualSemanticEmbedding(channels, draw(sizes), **options)
    elif cue == "sentence":
        layer = SentenceSCBN(channels, draw(sizes), **options)
    else:
        layer = WordSCBN(channels, draw(sizes), sentence_dim=draw(sizes) if cue == "both" else None, **options)
    parameters = list(layer.parameters())
    frozen = draw(st.just(0) | st.integers(0, 2 ** len(parameters) - 1))
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(torch.randn_like(parameter) * 0.4 + 0.1).requires_grad_(not frozen >> i & 1)
        layer.train(draw(st.booleans()))
        bn = getattr(layer, "bn", None)
        if bn is not None and bn.running_mean is not None:
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.5, 2)
            bn.num_batches_tracked.fill_(draw(st.integers(0, 3)))
        if bn is not None and draw(one_in(20)):
            bn.train(not bn.training)  # frozen statistics, or only they move
    return layer.to(dtype)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, Tensor, TextFeatures, bool]:
    """A layer, x, text, and whether the word map is asked for."""
    cue = draw(st.sampled_from(CUES))
    channels = st.integers(1, 9) if not draw(one_in(20)) else st.sampled_from((17, 33, 64))
    shape = draw(shapes(channels=channels, spatial_axes=(0, 3), empty_axes=True))
    dtype = draw(st.sampled_from(FLOATS))
    held = torch.float64 if dtype == torch.float64 or draw(one_in(10)) else torch.float32
    if dtype.itemsize == 2 and draw(one_in(20)):
        held = dtype
    layer: Any = draw(layers(cue, shape[1], held))
    x = draw(feature_maps(shape, dtype=dtype, poison=True))
    dims = {name: getattr(layer, name, None) for name in ("word_dim", "sentence_dim")}
    most = 6 if not draw(one_in(40)) else 130
    text = draw(text_features(shape[0], **dims, max_words=most, dtype=draw(st.sampled_from(FLOATS)), poison=True))
    mapped = cue != "sentence" and draw(one_in(5))
    note(f"{layer}, {'train' if layer.training else 'eval'}, held in {held}, {'its word map' if mapped else cue}")
    return layer, x, text, mapped


@fuzz(0.45)
@given(st.data())
def test_a_layer_gives_what_the_formula_gives(data: st.DataObject) -> None:
    layer, x, text, mapped = data.draw(calls())
    bn = getattr(layer, "bn", None)
    if bn is not None and not mapped and (bn.training or bn.running_mean is None) and x.numel() == x.shape[1]:
        refuses(lambda: layer(x, text), SINGLE_VALUE, layer, x)
        return
    mode = data.draw(st.sampled_from(("grad", "no_grad", "inference")), "mode")
    backend, small = data.draw(backends(), "backend"), data.draw(st.booleans(), "small tiles")
    autocast = data.draw(one_in(25), "autocast")
    leaves = [x, text.sentence, text.words]
    if mode == "grad":
        for t in leaves:
            if t is not None and data.draw(st.booleans(), "asks for a gradient"):
                t.requires_grad_()
    given = text
    plain = [t for t in text if t is not None]
    if len(plain) == 1 and data.draw(st.booleans(), "the tensor itself for text"):
        given = plain[0]
    exact_layer: Any = double(layer)
    exact_x, exact_text = exact(x), TextFeatures(*(exact(t) for t in text))
    amplified = 1.0 if bn is None else amplification(x, statistics(exact_layer, exact_x.detach())[1], bn.eps)
    held = next(layer.parameters()).dtype
    rough = autocast or held.itemsize == 2
    huge = bool((x.isfinite() & (x.abs() > 1e3)).any())
    # Gradients where they are comparable: what is not finite, and what half precision rounds on its way, is not.
    usual = not huge and bool(x.isfinite().all())
    with_gradients = mode == "grad" and usual and not rough and x.dtype.itemsize > 2 and amplified < 1e3
    learning = not mapped and bn is not None and bn.training

    def run() -> dict[str, Tensor]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(ops.use_backend(backend))
            if small:
                stack.enter_context(pytest.MonkeyPatch.context()).setattr(tiles, "VALUES", 30)
            if mode != "grad":
                stack.enter_context(torch.no_grad() if mode == "no_grad" else torch.inference_mode())
            if autocast:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            y = layer.attention(x, given) if mapped else layer(x, given)
            assert y.dtype == x.dtype
            results = {"y": y}
            if with_gradients:
                results |= gradients(y, [*leaves, *layer.parameters()])
        if learning:
            results |= {name: t.clone() for name, t in bn.named_buffers()}
        return results

    def want() -> dict[str, Tensor]:
        statistics_after = moved(exact_layer, exact_x) if learning else {}
        with torch.set_grad_enabled(mode == "grad"):
            y = (word_map if mapped else formula)(exact_layer, exact_x, exact_text)
            results = {"y": y, **statistics_after}
            if with_gradients:
                results |= gradients(
                    y, [exact_x, exact_text.sentence, exact_text.words, *exact_layer.parameters()]
                )
        return results

    steps = 8 if x.dtype.itemsize == 2 else 100
    precision = max(torch.finfo(x.dtype).eps * steps, torch.finfo(held).eps * 100, 1e-12)
    if x.dtype != torch.float64:
        precision = max(precision, 1e-4)
    gives(
        run, want, precision * amplified ** (2 if with_gradients else 1), x, *text, *layer.parameters(),
        *(() if learning else (layer,)), values=not rough and not huge, strict=backend != "triton",
    )  # fmt: skip


@fuzz(0.02)
@given(calls())
def test_a_layer_runs_on_the_meta_device(call: tuple[Any, Tensor, TextFeatures, bool]) -> None:
    layer, x, text, mapped = call
    layer.eval()
    if not mapped and getattr(getattr(layer, "bn", x), "running_mean", x) is None and x.numel() == x.shape[1]:
        return
    shape = (x.shape[0], text.words.shape[1], *x.shape[2:]) if mapped else x.shape
    layer.to("meta")
    run = layer.attention if mapped else layer
    there = text.to("meta")
    gives(lambda: {"y": run(x.to("meta"), there)}, lambda: {"y": torch.empty(shape, device="meta")}, 0, layer, x)


@fuzz(0.2)
@given(st.data())
def test_a_layer_refuses_what_it_cannot_take(data: st.DataObject) -> None:
    layer, x, text, mapped = data.draw(calls())
    hears = {"sentence_dim": "sentence", "word_dim": "words"}
    cues = [name for dim, name in hears.items() if getattr(layer, dim, None) is not None]
    needed = ["words"] if mapped else cues
    what = data.draw(st.sampled_from(["x", "precision", "text", "padding_mask", *needed * 2]), "what is wrong")
    names = rf"\b{what}\b"
    wrong_x: Any = x
    given: Any = text
    if what == "x":
        wrong_x = data.draw(mistakes(x, ranks=(2, 3, 4, 5), axes=(0, 1)) | st.just(x.to(torch.float8_e4m3fn)))
    elif what == "precision":
        layer.float()
        wrong_x, names = x.double(), "x is float64 but the layer holds torch.float32"
    elif what == "text":
        both = [text.words, text.sentence] if len(needed) == 2 else []
        tensor = torch.ones(1)
        given = data.draw(
            mistakes(tensor, kinds=("missing", "type")) | st.sampled_from([tuple(text), list(text), *both])
        )
        names = "text|sentence|words"
    elif what == "padding_mask":
        words = 3 if text.words is None else text.words.shape[1]
        mask = torch.zeros(len(x), words, dtype=torch.bool)
        axes = (0,) if text.words is None else (0, 1)
        given = text._replace(padding_mask=data.draw(mistakes(mask, kinds=MISTAKES[1:], axes=axes)))
    else:
        cue, mask = getattr(text, what), data.draw(st.sampled_from((text.padding_mask, None)), "mask")
        free = 1 if what == "words" and mask is None else -1
        wrong = mistakes(cue, axes=[axis for axis in range(cue.dim()) if axis != free])
        if what == "words":
            wrong, names = wrong | st.just(cue[:, :0]), "words|padding_mask"
        given = text._replace(**{what: data.draw(wrong), "padding_mask": mask})
    note(f"x {wrong_x}, text {given}")
    run = layer.attention if mapped else layer
    refuses(lambda: run(wrong_x, given), names, layer, x, *text)


def look(test: Any) -> None:
    """The same test on the first few hundred calls, up to the first finding."""
    again = given(st.data())(test.hypothesis.inner_test)
    options = {"max_examples": 300, "derandomize": True, "phases": [Phase.generate], "report_multiple_bugs": False}
    settings(settings.get_profile("fuzz"), **options)(again)()


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        eager, "padding_logits", lambda padding, dtype: padding.new_zeros(len(padding), dtype=dtype)
    )
    with pytest.raises(AssertionError, match=r"(y|grad \d+) is off by"):
        look(test_a_layer_gives_what_the_formula_gives)


def test_a_check_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scbn.checks.visual", lambda x, num_features: None)
    with pytest.raises((AssertionError, AttributeError, IndexError, RuntimeError, TypeError)):
        look(test_a_layer_refuses_what_it_cannot_take)
