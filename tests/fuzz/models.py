"""Calls of whole models: TreeGenerator, retrofit, unretrofit, norm_layers."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

import scbn
from scbn import SentenceSCBN, TextFeatures, TreeGenerator, WordSCBN, ops

from . import draw, oracle
from .call import Call


class Formula(nn.Module):
    """In the place of a layer: the paper's formula with the layer's parameters."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, text: TextFeatures) -> Tensor:
        return oracle.forward(self.layer, x, text)


def tree(rng: Random) -> Call:
    """The images of a generator, against the same one with every layer replaced by the formula."""
    norm = rng.choice(("batch", "sentence", "word", "both"))
    made = TreeGenerator(
        3, 4, stages=rng.choice((1, 2)), base_size=rng.choice((4, 8)), channels=rng.choice((2, 3)),
        residual_blocks=rng.choice((0, 1)), norm=norm, noise_dim=2, condition_dim=3,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    made.to(torch.float64).train(rng.random() < 0.5)
    n = rng.randint(2, 4)
    noise: Any = draw.normal(rng.choice(draw.FLOATS), n, 2)
    condition_noise: Any = draw.normal(torch.float64, n, 3)
    text: Any = draw.captions(rng, n, 4, 3)
    about = f"norm={norm!r}, {'train' if made.training else 'eval'}, noise {tuple(noise.shape)} {noise.dtype}"
    if rng.random() < 0.4:
        kind = rng.choice(
            (
                "noise",
                "noise size",
                "noise kind",
                "noise batch",
                "noise elsewhere",
                "text",
                "tuple",
                "no sentence",
                "condition noise",
            )
        )
        if kind == "noise":
            noise = draw.junk(rng)
        elif kind == "noise size":
            noise = rng.choice((draw.wrong_size(rng, noise, 1), draw.wrong_rank(rng, noise)))
        elif kind == "noise kind":
            kind, noise = draw.wrong_tensor(rng, noise)
        elif kind == "noise batch":
            noise = draw.wrong_size(rng, noise, 0)
        elif kind == "noise elsewhere":
            noise = noise.to("meta")
        elif kind == "text":
            text = draw.junk(rng)
        elif kind == "tuple":
            text = tuple(text)
        elif kind == "no sentence":
            text = text._replace(sentence=None)
        else:
            wrong = [
                draw.wrong_size(rng, condition_noise, rng.choice((0, 1))),
                draw.wrong_rank(rng, condition_noise),
            ]
            wrong += [condition_noise.to("meta"), condition_noise.to_sparse(), condition_noise.to(torch.complex64)]
            junk = draw.junk(rng)
            condition_noise = rng.choice([*wrong, [0] if junk is None else junk])
        return Call(
            "TreeGenerator",
            f"{about}; {kind}",
            lambda: _images(made, noise, text, condition_noise),
            mistake=kind,
            modules=(made,),
        )
    exact = copy.deepcopy(made)
    for parent in list(exact.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (SentenceSCBN, WordSCBN)):
                setattr(parent, name, Formula(child))
    exact_text = TextFeatures(*(oracle.exact(t) for t in text))
    which = draw.path(rng)
    which = "eager" if which in ("triton",) else which

    def run() -> dict[str, Tensor]:
        with ops.use_backend(which):
            return _images(made, noise, text, condition_noise)

    # The noise of half precision is multiplied in half precision's nearest double: exactly.
    return Call(
        "TreeGenerator", f"{about}, {which}", run, lambda: _images(exact, noise.double(), exact_text, condition_noise), tolerance=1e-6,
        inputs=[noise, condition_noise],
    )  # fmt: skip


def _images(made: nn.Module, noise: Any, text: Any, condition_noise: Any) -> dict[str, Tensor]:
    output = made(noise, text, condition_noise=condition_noise)
    return {f"image {i}": image for i, image in enumerate(output.images)} | {
        "mu": output.mu,
        "logvar": output.logvar,
    }


class Host(nn.Module):
    """Somebody's generator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width))
        self.later = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()) for _ in range(2))
        self.line = nn.BatchNorm1d(width)

    def forward(self, x: Tensor, sentence: Tensor, words: Tensor) -> Tensor:
        h = self.first(x)
        for later in self.later:
            h = later(h)
        return h + self.line(h.mean((2, 3)))[:, :, None, None]


def text_of(x: Any, sentence: Any, words: Any) -> TextFeatures:
    return TextFeatures(sentence, words)


def retrofit(rng: Random) -> Call:
    """The retrofitted model computes what it computed; what cannot be retrofitted stays as it was."""
    host = Host(rng.randint(1, 4)).double().train(rng.random() < 0.5)
    arguments = (torch.randn(3, 2, 4, 4).double(), torch.randn(3, 3).double(), torch.randn(3, 2, 4).double())
    cues = ("sentence", "word", "both")
    patterns = ("first.1", "later.*", "later.0.0", "*", "first*", "later.[01].0")
    layers: Any = {rng.choice(patterns): rng.choice(cues)}
    options: dict[str, Any] = {"text": text_of, "sentence_dim": 3, "word_dim": 4}
    what = ""
    if rng.random() < 0.5:
        what = rng.choice(
            (
                "pattern",
                "cue",
                "layers",
                "dims",
                "text",
                "line",
                "disagree",
                "twice",
                "sizes",
                "hidden",
                "scale",
                "model",
            )
        )
        if what == "pattern":
            layers = {rng.choice(("last*", "", "First.1", "relu")): "word"}
        elif what == "cue":
            layers = {"*": rng.choice(("words", "", None, 3, ["word"]))}
        elif what == "layers":
            layers = draw.junk(rng)
        elif what == "dims":
            layers, options = {"*": "both"}, {"text": text_of, rng.choice(("sentence_dim", "word_dim")): 3}
        elif what == "text":
            options["text"] = rng.choice((lambda x: None, lambda a, b, c, d: None, 3, None, "text"))
        elif what == "line":
            layers = {"line": "word"}
        elif what == "disagree":
            layers = {"later.*": "word", "later.0*": "sentence"}
        elif what == "sizes":
            layers, options["word_dim"] = {"*": "word"}, rng.choice((0, -1, 2.5, "4"))
        elif what == "hidden":
            layers, options["hidden_dim"] = {"*": "sentence"}, rng.choice((0, -1, 2.5, "4"))
        elif what == "scale":
            layers, options["scale"] = {"*": "word"}, rng.choice((float("nan"), "1", None))
        elif what == "twice":
            layers = {"first.1": "word"}
            scbn.retrofit(host, layers, **options)
    model: Any = draw.junk(rng) if what == "model" else host
    while isinstance(model, nn.ReLU):
        model = draw.junk(rng)
    about = f"{layers}, {what}"
    if what:
        return Call(
            "retrofit", about, lambda: {"y": _fitted(model, layers, options)}, mistake=what, modules=(host,)
        )
    back = rng.random() < 0.5

    def run() -> dict[str, Tensor]:
        _fitted(host, layers, options)
        names = {norm.name for norm in scbn.norm_layers(host) if norm.cue is not None}
        y = host(*arguments)
        if back:
            if set(scbn.unretrofit(host)) != names or any(norm.cue for norm in scbn.norm_layers(host)):
                raise TypeError("unretrofit leaves layers")
            return {"y": y, **{n: t.double() for n, t in host.state_dict().items()}}
        return {"y": y}

    plain = copy.deepcopy(host)

    def want() -> dict[str, Tensor]:
        y = plain(*arguments)
        return {"y": y, **({n: t.double() for n, t in plain.state_dict().items()} if back else {})}

    return Call("retrofit", about, run, want, tolerance=1e-9, inputs=list(arguments))


def _fitted(model: Any, layers: Any, options: dict[str, Any]) -> Tensor:
    scbn.retrofit(model, layers, **options)
    return torch.ones(1)


def unretrofit(rng: Random) -> Call:
    """Of what is not retrofitted."""
    wrong: Any = Host(2) if rng.random() < 0.5 else draw.junk(rng)
    call: Any = scbn.unretrofit
    if not isinstance(wrong, nn.Module) and rng.random() < 0.5:
        call = scbn.norm_layers
    return Call(
        call.__name__, repr(wrong)[:60], lambda: {"y": torch.ones(len(call(wrong)))}, mistake="not retrofitted"
    )
