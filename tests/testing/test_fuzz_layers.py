"""Drawn calls of the layers, with one cue and with both, their word maps, and the pure functions behind them."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from helpers import fuzz_judge as judge
from helpers.fuzz_judge import FLOATS, exact, formula, fuzz, gives, one_in, refuses
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from torch import Tensor

from scbn import SentenceSCBN, TextFeatures, VisualSemanticEmbedding, WordSCBN, functional, ops, reference
from scbn.norm import batch_norm_state
from scbn.ops import eager
from scbn.ops.cpu import tiles
from scbn.testing.strategies import MISTAKES, feature_maps, mistakes, shapes, text_features

sizes = st.integers(1, 7)


@st.composite
def layers(draw: st.DrawFn, cue: str, channels: int, dtype: torch.dtype) -> Any:
    """A layer with every value away from its initial one, in any mode, some of it frozen."""
    options = {} if cue == "embedding" else draw(judge.norm_options)
    if cue != "sentence":
        options["scale"] = draw(st.sampled_from((1.0, 0.0, 0.3, 2, -1.0)))
    if cue in ("sentence", "both"):
        options |= {"sentence_dim": draw(sizes), "hidden_dim": draw(st.none() | sizes)}
    kind = {"sentence": SentenceSCBN, "embedding": VisualSemanticEmbedding}.get(cue, WordSCBN)
    torch.manual_seed(draw(judge.seeds))
    layer: Any = kind(channels, **options, **({} if cue == "sentence" else {"word_dim": draw(sizes)}))
    frozen = draw(st.just(0) | st.integers(0, 2**9 - 1))
    for i, parameter in enumerate(layer.parameters()):
        parameter.data.normal_(0.1, 0.4)
        parameter.requires_grad_(not frozen >> i & 1)
    layer.train(draw(st.booleans()))
    if cue != "embedding" and options["track_running_stats"]:
        layer.bn.running_mean.normal_()
        layer.bn.running_var.uniform_(0.5, 2)
        layer.bn.num_batches_tracked.fill_(draw(st.integers(0, 3)))
    if cue != "embedding" and draw(one_in(20)):
        layer.bn.train(not layer.bn.training)  # frozen statistics, or only they move
    return layer.to(dtype)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, Tensor, TextFeatures, bool]:
    """A layer, x, text, and whether the word map is asked for."""
    cue = draw(st.sampled_from(("sentence", "word", "both", "embedding")))
    channels = st.integers(1, 9) if not draw(one_in(20)) else st.sampled_from((17, 33, 64))
    shape = draw(shapes(channels=channels, spatial_axes=(0, 3), empty_axes=True))
    dtype = draw(st.sampled_from(FLOATS))
    held = torch.float64 if dtype == torch.float64 or draw(one_in(10)) else torch.float32
    if dtype.itemsize == 2 and draw(one_in(20)):
        held = dtype
    layer = draw(layers(cue, shape[1], held))
    x = draw(feature_maps(shape, dtype=dtype, poison=True))
    dims = {name: getattr(layer, name, None) for name in ("word_dim", "sentence_dim")}
    most = 6 if not draw(one_in(40)) else 130
    text = draw(text_features(shape[0], **dims, max_words=most, dtype=draw(st.sampled_from(FLOATS)), poison=True))
    mapped = cue != "sentence" and draw(one_in(5))
    note(f"{layer} of {held}, {'training' if layer.training else 'eval'}{', its word map' if mapped else ''}")
    return layer, x, text, mapped


def _of_batch(layer: Any) -> bool:
    """Whether the layer normalises with the statistics of the batch."""
    return isinstance(layer, (SentenceSCBN, WordSCBN)) and (layer.bn.training or layer.bn.running_mean is None)


def _by_functions(layer: Any, x: Tensor, text: TextFeatures, mapped: bool) -> Tensor:
    """What the layer computes, by the pure functions, of the tables that its parameters make."""
    parameters, mask = dict(layer.named_parameters()), text.padding_mask
    text = text.to(next(layer.parameters()).dtype)
    if text.sentence is not None:
        gamma, beta = reference.sentence_modulation(text, parameters).chunk(2, 1)
    if isinstance(layer, SentenceSCBN):
        state = batch_norm_state(layer.bn, x)
        if x.dtype.itemsize == 2 or not x.numel():
            return functional.sentence_scbn(x, gamma, beta, state, empty=None if mask is None else mask.all(1))
        own = (1, 0) if state.weight is None else (state.weight, state.bias)
        return reference.sentence_modulate(x, functional.normalize(x, state), gamma + own[0], beta + own[1])
    keys = reference.perceptron(text.words, mask, parameters)
    cues = {"padding_mask": mask, "scale": layer.scale}
    if mapped or isinstance(layer, VisualSemanticEmbedding):
        function = functional.word_attention if mapped else functional.visual_semantic_embedding
        return function(x, keys, **cues)
    if text.sentence is not None:
        cues |= {"sentence_gamma": gamma, "sentence_beta": beta}
    tables = keys, layer.to_gamma(keys), layer.to_beta(keys)
    return functional.word_scbn(x, *tables, batch_norm_state(layer.bn, x), **cues)


@fuzz(0.5)
@given(st.data())
def test_a_layer_gives_what_the_formula_gives(data: st.DataObject) -> None:
    layer, x, text, mapped = data.draw(calls())
    if _of_batch(layer) and not mapped and x.numel() == x.shape[1]:
        refuses(lambda: layer(x, text), judge.SINGLE_VALUE, layer, x)
        return
    mode = data.draw(st.sampled_from(("grad", "no_grad", "inference")), "mode")
    backend, small = data.draw(judge.backends(), "backend"), data.draw(st.booleans(), "small tiles")
    autocast = data.draw(one_in(25), "autocast")
    leaves = [x, text.sentence, text.words]
    for t in leaves:
        if mode == "grad" and t is not None and data.draw(st.booleans(), "asks for a gradient"):
            t.requires_grad_()
    cues = [t for t in text if t is not None]
    how = data.draw(
        st.sampled_from(["layer", "functions", *(["tensor alone"] if len(cues) == 1 else [])]), "called"
    )
    precise: Any = copy.deepcopy(layer).double()
    exact_x, exact_text = exact(x), TextFeatures(*(exact(t) for t in text))
    bn, held = getattr(layer, "bn", None), next(layer.parameters()).dtype
    amplified = 1.0 if bn is None else judge.amplification(x, None if _of_batch(layer) else bn.running_var, bn.eps)
    rough, huge = autocast or held.itemsize == 2, bool((x.isfinite() & (x.abs() > 1e3)).any())
    # Gradients where they are comparable: what is not finite, and what half precision rounds on its way, is not.
    comparable = x.isfinite().all() and x.dtype.itemsize > 2 and not (rough or huge) and amplified < 1e3
    with_gradients = mode == "grad" and bool(comparable)
    learning = bn is not None and bn.training and not mapped

    def run() -> dict[str, Tensor]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(ops.use_backend(backend))
            if small:
                stack.enter_context(pytest.MonkeyPatch.context()).setattr(tiles, "VALUES", 30)
            if mode != "grad":
                stack.enter_context(torch.no_grad() if mode == "no_grad" else torch.inference_mode())
            if autocast:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if how == "functions":
                y = _by_functions(layer, x, text, mapped)
            else:
                y = (layer.attention if mapped else layer)(x, cues[0] if how == "tensor alone" else text)
            assert y.dtype == x.dtype
            grads = judge.gradients(y, [*leaves, *layer.parameters()]) if with_gradients else {}
        return {"y": y, **grads, **(dict(bn.named_buffers()) if learning else {})}

    def want() -> dict[str, Tensor]:
        with torch.set_grad_enabled(mode == "grad"):
            y = formula(precise, exact_x, exact_text, mapped)
            asked = [exact_x, exact_text.sentence, exact_text.words, *precise.parameters()]
            results = {"y": y, **(judge.gradients(y, asked) if with_gradients else {})}
        buffers = {name: t.clone() for name, t in precise.bn.named_buffers()} if learning else {}
        if buffers:
            buffers["num_batches_tracked"] += 1
        if buffers and x.numel():  # else there is nothing to learn, but nn.BatchNorm2d counts it
            momentum = 1 / float(buffers["num_batches_tracked"]) if bn.momentum is None else bn.momentum
            names = ("running_mean", "running_var")
            buffers |= dict(zip(names, judge.learnt([buffers[name] for name in names], x, momentum), strict=True))
        return results | buffers

    precision = max(torch.finfo(x.dtype).eps * (8 if x.dtype.itemsize == 2 else 100), 1e-12)
    precision = max(precision, torch.finfo(held).eps * 100, 1e-4 if x.dtype != torch.float64 else 0)
    untouched = [x, *text, *(layer.parameters() if learning else [layer])]
    tolerance = precision * amplified ** (2 if with_gradients else 1)
    gives(run, want, tolerance, *untouched, values=not (rough or huge), strict=backend != "triton")


@fuzz(0.02)
@given(calls())
def test_a_layer_runs_on_the_meta_device(call: tuple[Any, Tensor, TextFeatures, bool]) -> None:
    layer, x, text, mapped = call
    if _of_batch(layer) and not mapped and x.numel() == x.shape[1]:
        return
    shape = formula(copy.deepcopy(layer).double(), exact(x), TextFeatures(*(exact(t) for t in text)), mapped).shape
    run, there = (layer.attention if mapped else layer), text.to("meta")
    layer.to("meta")
    gives(lambda: {"y": run(x.to("meta"), there)}, lambda: {"y": torch.empty(shape, device="meta")}, 0, x)


@fuzz(0.18)
@given(st.data())
def test_a_layer_refuses_what_it_cannot_take(data: st.DataObject) -> None:
    layer, x, text, mapped = data.draw(calls())
    needed = [name for name in ("words", "sentence") if getattr(text, name) is not None][: 1 if mapped else 2]
    what = data.draw(st.sampled_from(["x", "precision", "text", "padding_mask", *needed * 2]), "what is wrong")
    wrong_x, given, names = x, text, rf"\b{what}\b"
    if what == "x":
        wrong_x = data.draw(mistakes(x, ranks=(2, 3, 4, 5), axes=(0, 1)) | st.just(x.to(torch.float8_e4m3fn)))
    elif what == "precision":
        layer.float()
        wrong_x, names = x.double(), "x is float64 but the layer holds torch.float32"
    elif what == "text":
        no_text = [tuple(text), list(text), *([text.words, text.sentence] if len(needed) == 2 else [])]
        given = data.draw(mistakes(x, kinds=("missing", "type")) | st.sampled_from(no_text))
        names = "text|sentence|words"
    elif what == "padding_mask":
        mask = torch.zeros(len(x), 3 if text.words is None else text.words.shape[1], dtype=torch.bool)
        wrong = mistakes(mask, kinds=MISTAKES[1:], axes=(0,) if text.words is None else (0, 1))
        given = text._replace(padding_mask=data.draw(wrong))
    else:
        cue, mask = getattr(text, what), data.draw(st.sampled_from((text.padding_mask, None)), "mask")
        free = 1 if what == "words" and mask is None else None  # the number of words
        wrong = mistakes(cue, axes=[axis for axis in range(cue.dim()) if axis != free])
        given = text._replace(**{what: data.draw(wrong), "padding_mask": mask})
        names = "words|padding_mask" if what == "words" else what
    note(f"x {wrong_x}, text {given}")
    run = layer.attention if mapped else layer
    refuses(lambda: run(wrong_x, given), names, layer, x, *text)


def look(test: Any) -> None:
    """The same test on a few hundred calls, up to the first finding."""
    options = {"max_examples": 300, "phases": [Phase.generate], "report_multiple_bugs": False, "derandomize": True}
    profile = settings(settings.get_profile("fuzz"), database=None, **options)
    profile(given(st.data())(test.hypothesis.inner_test))()


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "padding_logits", lambda padding, dtype: torch.zeros(len(padding), dtype=dtype))
    with pytest.raises(AssertionError, match=r"(y|grad \d+) is off by"):
        look(test_a_layer_gives_what_the_formula_gives)


def test_a_check_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scbn.checks.visual", lambda x, num_features: None)
    with pytest.raises((AssertionError, AttributeError, IndexError, RuntimeError, TypeError)):
        look(test_a_layer_refuses_what_it_cannot_take)
