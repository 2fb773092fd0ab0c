"""Calls of the layers: SentenceSCBN, WordSCBN with one cue and with both, VisualSemanticEmbedding, word maps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from scbn import TextFeatures, ops
from scbn.ops.cpu import tiles

from . import draw, oracle
from .call import Call

NAMES = {"sentence": "SentenceSCBN", "word": "WordSCBN", "both": "WordSCBN, both cues"}
Arguments = tuple[Any, Any]


def layer(rng: Random) -> Call:
    """A forward pass, with its gradients, its statistics and its word map."""
    cue = rng.choice(("sentence", "word", "word", "both", "both", "embedding"))
    size = draw.shape(rng)
    dtype = rng.choice(draw.FLOATS)
    held = torch.float64 if dtype == torch.float64 or rng.random() < 0.1 else torch.float32
    if rng.random() < 0.04 and dtype.itemsize == 2:
        held = dtype
    made = draw.layer(rng, cue, size[1], held)
    x, layout = draw.feature_map(rng, size, dtype)
    text: Any = draw.captions(rng, size[0], getattr(made, "word_dim", None), getattr(made, "sentence_dim", None))
    mapped = cue != "sentence" and rng.random() < 0.2
    function = f"{NAMES.get(cue, 'VisualSemanticEmbedding')}{'.attention' if mapped else ''}"
    about = (
        f"{made} {'train' if made.training else 'eval'} x {tuple(x.shape)} {dtype} ({layout}), held in {held}, text "
        + _say(text)
    )
    if rng.random() < 0.35:
        what, x, text = rng.choice(mistakes(cue, mapped))(rng, made, x, text)
        run = made.attention if mapped else made
        return Call(function, f"{about}; {what}", lambda: {"y": run(x, text)}, mistake=what, modules=(made,))
    if not mapped and _single_value(made, x):
        return Call(function, about, lambda: {"y": made(x, text)}, mistake="a single value", modules=(made,))
    if rng.random() < 0.03:
        return _on_meta(function, about, made, x, text, mapped)
    if cue != "both" and text.padding_mask is None and rng.random() < 0.5:
        given = text.sentence if cue == "sentence" else text.words
    else:
        given = text
    return _valid(rng, function, about, made, x, text, given, layout, mapped)


def _say(text: TextFeatures) -> str:
    return ", ".join("None" if t is None else f"{tuple(t.shape)} {t.dtype}" for t in text)


def _single_value(made: nn.Module, x: Tensor) -> bool:
    bn: Any = getattr(made, "bn", None)
    return bn is not None and (bn.training or bn.running_mean is None) and x.numel() == x.shape[1]


def _on_meta(function: str, about: str, made: nn.Module, x: Tensor, text: TextFeatures, mapped: bool) -> Call:
    made = made.to("meta")
    run: Any = made.attention if mapped else made
    want = (x.shape[0], text.words.shape[1], *x.shape[2:]) if mapped and text.words is not None else x.shape
    given = TextFeatures(*(None if t is None else t.to("meta") for t in text))
    return Call(
        function,
        f"{about}, on the meta device",
        lambda: {"y": run(x.to("meta"), given)},
        lambda: {"y": torch.empty(want, device="meta")},
    )


def _valid(
    rng: Random,
    function: str,
    about: str,
    made: nn.Module,
    x: Tensor,
    text: TextFeatures,
    given: Any,
    layout: str,
    mapped: bool,
) -> Call:
    mode = rng.choice(("grad", "grad", "no_grad", "inference"))
    which, small = draw.path(rng), rng.random() < 0.5
    autocast = rng.random() < 0.04
    asked = [t for t in (x, text.sentence, text.words) if t is not None]
    if mode == "grad":
        for t in asked:
            if rng.random() < 0.6 and not t.requires_grad:
                t.requires_grad_()
    exact_layer, exact_x = oracle.state(made), oracle.exact(x)
    exact_text = TextFeatures(*(oracle.exact(t) for t in text))
    rough = autocast or next(made.parameters()).dtype.itemsize == 2
    amplified = oracle.amplification(exact_layer, x)
    usual = "not finite" not in layout and "huge" not in layout
    # Gradients where they are comparable: what is not finite, and what half precision rounds on its way, is not.
    with_gradients = mode == "grad" and usual and not rough and x.dtype.itemsize > 2 and amplified < 1e3
    parameters, exact_parameters = list(made.parameters()), list(exact_layer.parameters())
    before = oracle.buffers(exact_layer, x) if not mapped else None

    def gradients(y: Tensor, leaves: list[Tensor | None]) -> dict[str, Tensor]:
        wanted = [t for t in leaves if t is not None and t.requires_grad]
        if not with_gradients or not wanted:
            return {}
        if not y.requires_grad:  # it depends on none of them: an empty map, captions of nothing but padding
            return {f"grad {i}": torch.zeros_like(t) for i, t in enumerate(wanted)}
        weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
        found = torch.autograd.grad((y * weight.to(y.dtype)).sum(), wanted, allow_unused=True)
        return {
            f"grad {i}": torch.zeros_like(t) if g is None else g
            for i, (t, g) in enumerate(zip(wanted, found, strict=True))
        }

    def run() -> dict[str, Tensor]:
        call: Any = made.attention if mapped else made
        with contextlib.ExitStack() as stack:
            stack.enter_context(ops.use_backend(which))
            if small:
                stack.callback(setattr, tiles, "VALUES", tiles.VALUES)
                tiles.VALUES = 30
            if mode != "grad":
                stack.enter_context(torch.no_grad() if mode == "no_grad" else torch.inference_mode())
            if autocast:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            y = call(x, given)
            if y.dtype != x.dtype:
                raise TypeError(f"x is {x.dtype}, y {y.dtype}")
            results = {"y": y, **gradients(y, [x, text.sentence, text.words, *parameters])}
        if not mapped and getattr(made, "bn", None) is not None:
            results |= {name: t.clone() for name, t in made.bn.named_buffers()}  # pyright: ignore
        return results

    def want() -> dict[str, Tensor]:
        with torch.set_grad_enabled(mode == "grad"):
            y = (oracle.attention if mapped else oracle.forward)(exact_layer, exact_x, exact_text)
            leaves = [exact_x, exact_text.sentence, exact_text.words, *exact_parameters]
            return {"y": y, **gradients(y, leaves), **(before or {})}

    precision = max(
        torch.finfo(x.dtype).eps * (8 if x.dtype.itemsize == 2 else 100),
        torch.finfo(next(made.parameters()).dtype).eps * 100,
        torch.finfo(torch.float64).eps * 1e4,
    )
    if x.dtype != torch.float64:
        precision = max(precision, 1e-4)
    about += f"; {mode}, backend {which}{', small tiles' if small else ''}{', autocast' if autocast else ''}"
    return Call(
        function,
        about,
        run,
        want,
        tolerance=precision * amplified ** (2 if with_gradients else 1),
        strict=which not in ("triton",),
        values=not rough and (usual or "not finite" in layout),
        modules=(made,),
        inputs=[t for t in (x, *text) if isinstance(t, Tensor)],
    )


def mistakes(cue: str, mapped: bool) -> list[Callable[..., tuple[str, Any, Any]]]:
    """Ways to get the arguments of a layer wrong."""
    found: list[Callable[..., tuple[str, Any, Any]]] = [_x_junk, _x_kind, _x_rank, _x_channels, _x_device]
    found += [_x_batch, _x_precision, _text_junk, _text_tuple, _mask]
    for name in ("sentence", "words"):
        needed = {"sentence": ("sentence",), "both": ("sentence", "words")}.get(cue, ("words",))
        if name in needed and not (mapped and name == "sentence"):
            found += [_cue(name, kind) for kind in ("missing", "junk", "kind", "rank", "size", "batch", "device")]
    if cue != "sentence":
        found.append(
            lambda rng, made, x, text: ("no words", x, text._replace(words=text.words[:, :0], padding_mask=None))
        )
    if cue == "both" and not mapped:
        found.append(lambda rng, made, x, text: ("one cue for both", x, text.words))
    return found


def _x_junk(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    return "x no tensor", draw.junk(rng), text


def _x_kind(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    if rng.random() < 0.2:
        return "x float8", x.to(torch.float8_e4m3fn), text
    kind, wrong = draw.wrong_tensor(rng, x)
    return f"x {kind}", wrong, text


def _x_rank(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    return "x of rank 0, 1 or 6", rng.choice((x.sum(), x.flatten(), x[(...,) + (None,) * (6 - x.dim())])), text


def _x_channels(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    return "other channels", draw.wrong_size(rng, x, 1), text


def _x_batch(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    return "x of another batch", draw.wrong_size(rng, x, 0), text


def _x_device(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    return "x elsewhere", x.to("meta"), text


def _x_precision(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    made.float()
    return "x float64, layer float32", x.double(), text


def _text_junk(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    return "text is junk", x, draw.junk(rng)


def _text_tuple(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    return "text a plain tuple", x, rng.choice((tuple, list))(text)


def _mask(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
    words = text.words.shape[1] if text.words is not None else 3
    mask: Any = torch.zeros(len(x), words, dtype=torch.bool)
    kind = rng.choice(("junk", "kind", "rank", "batch", "length", "device", "sparse"))
    if kind == "junk":
        mask = draw.junk(rng)
        mask = mask if mask is not None else [None]
    elif kind == "kind":
        mask = mask.to(rng.choice((torch.int64, torch.float32, torch.uint8)))
    elif kind == "rank":
        mask = rng.choice((mask[:, 0], mask[..., None], mask.sum() > 0))
    elif kind == "device":
        mask = mask.to("meta")
    elif kind == "sparse":
        mask = mask.to_sparse()
    elif kind == "length" and text.words is not None:
        mask = draw.wrong_size(rng, mask, 1)
    else:
        kind, mask = "batch", draw.wrong_size(rng, mask, 0)
    return f"mask: {kind}", x, text._replace(padding_mask=mask)


def _cue(name: str, kind: str) -> Callable[..., tuple[str, Any, Any]]:
    def mistake(rng: Random, made: nn.Module, x: Tensor, text: TextFeatures) -> tuple[str, Any, Any]:
        cue, what = getattr(text, name), kind
        if kind == "missing":
            wrong = None
        elif kind == "junk":
            wrong = draw.junk(rng)
            wrong = wrong if wrong is not None else []
        elif kind == "kind":
            what, wrong = draw.wrong_tensor(rng, cue)
        elif kind == "rank":
            wrong = draw.wrong_rank(rng, cue)
        elif kind == "device":
            wrong = cue.to("meta")
        else:
            wrong = draw.wrong_size(rng, cue, -1 if kind == "size" else 0)
        mask = None if rng.random() < 0.5 else text.padding_mask
        return f"{name}: {what}", x, text._replace(**{name: wrong}, padding_mask=mask)

    return mistake
