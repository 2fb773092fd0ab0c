"""Calls that make layers: constructors, from_batch_norm, the switch between paths."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from scbn import SentenceSCBN, SiameseContrastiveLoss, TreeGenerator, VisualSemanticEmbedding, WordSCBN, ops

from . import draw
from .call import Call

BAD_SIZE = (0, -1, 2.0, "8", None, True, [8], math.nan)
BAD_NUMBER = ("1", None, math.nan, math.inf, [1.0], 1j, True)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def constructor(rng: Random) -> Call:
    """A constructor, with arguments of which one may be wrong."""
    kind, arguments, bad = rng.choice((_sentence, _word, _embedding, _loss, _tree))(rng)
    wrong = rng.random() < 0.6
    if wrong:
        name = rng.choice(sorted(bad))
        arguments = {**arguments, name: rng.choice(bad[name])}
    function, about = f"{kind.__name__}()", f"{kind.__name__}({arguments})"
    if wrong:
        return Call(function, about, lambda: {"made": _made(kind, arguments)}, mistake=name)
    return Call(function, about, lambda: {"made": _made(kind, arguments)}, lambda: {"made": torch.ones(1)})


def _made(kind: Any, arguments: dict[str, Any]) -> Tensor:
    kind(**arguments)
    return torch.ones(1)


def _norm(rng: Random) -> tuple[dict[str, Any], dict[str, Any]]:
    bad = {
        "num_features": BAD_SIZE,
        "eps": (*BAD_NUMBER, -1.0),
        "dtype": (torch.int32, "float32", 3, torch.complex64),
    }
    bad["momentum"] = tuple(value for value in BAD_NUMBER if value is not None)
    return {"num_features": rng.randint(1, 6), **draw.norm_options(rng)}, bad


def _sentence(rng: Random) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    arguments, bad = _norm(rng)
    bad |= {"sentence_dim": BAD_SIZE, "hidden_dim": tuple(value for value in BAD_SIZE if value is not None)}
    return SentenceSCBN, {"sentence_dim": rng.randint(1, 6), **arguments}, bad


def _word(rng: Random) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    arguments, bad = _norm(rng)
    bad |= {"word_dim": BAD_SIZE, "scale": BAD_NUMBER, "hidden_dim": (3,)}
    bad["sentence_dim"] = tuple(value for value in BAD_SIZE if value is not None)
    return WordSCBN, {"word_dim": rng.randint(1, 6), **arguments}, bad


def _embedding(rng: Random) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    arguments = {"num_features": rng.randint(1, 6), "word_dim": rng.randint(1, 6)}
    bad = {"num_features": BAD_SIZE, "word_dim": BAD_SIZE, "scale": BAD_NUMBER, "dtype": (torch.int32, "float32")}
    return VisualSemanticEmbedding, arguments, bad


def _loss(rng: Random) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    bad = {"margin": (*BAD_NUMBER, 0, -1.0, 0.01), "alpha": (*BAD_NUMBER, -0.1, 5.0)}
    bad["reduction"] = ("avg", None, 3, ["mean"], {})
    return SiameseContrastiveLoss, {"margin": rng.choice((1, 0.5)), "alpha": 0.1}, bad


def _tree(rng: Random) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    arguments = {"sentence_dim": rng.randint(1, 4), "word_dim": rng.randint(1, 4), "stages": rng.choice((1, 2))}
    arguments |= {"base_size": rng.choice((4, 8)), "channels": 2, "noise_dim": 2, "condition_dim": 2}
    bad: dict[str, Any] = dict.fromkeys(("sentence_dim", "stages", "noise_dim", "condition_dim"), BAD_SIZE)
    bad |= {
        "base_size": (*BAD_SIZE, 2, 6, 12),
        "channels": (*BAD_SIZE[:6], (2, 2, 2, 2)),
        "image_channels": BAD_SIZE,
    }
    bad["word_dim"] = tuple(value for value in BAD_SIZE if value is not None)
    bad["residual_blocks"] = tuple(value for value in BAD_SIZE if value != 0)
    bad["norm"] = ("layer", 3, None, ("word",) * 5, nn.BatchNorm2d(4), b"word", lambda channels: channels)
    return TreeGenerator, {**arguments, "base_size": 8}, bad


def from_batch_norm(rng: Random) -> Call:
    """Adopting a norm: it computes what it computed."""
    kind = rng.choice(BATCH_NORMS)
    options = draw.norm_options(rng)
    bn: Any = kind(rng.randint(1, 5), **options)
    if bn.running_mean is not None:
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    bn.to(rng.choice((torch.float32, torch.float64))).train(rng.random() < 0.5)
    cue = rng.choice(("sentence", "word", "both"))
    cls: Any = SentenceSCBN if cue == "sentence" else WordSCBN
    arguments = {"sentence_dim": 3} if cue == "sentence" else {"word_dim": 4}
    if cue == "both":
        arguments["sentence_dim"] = 3
    function, about = f"{cls.__name__}.from_batch_norm", f"{bn}, {arguments}"
    if rng.random() < 0.5:
        wrong: Any = rng.choice(
            (nn.InstanceNorm2d(3), nn.LazyBatchNorm2d(), nn.GroupNorm(1, 2), nn.BatchNorm2d, draw.junk(rng))
        )
        if rng.random() < 0.4:
            wrong = bn
            name, bad = rng.choice(
                [("eps", 1.0), ("momentum", 0.3), ("num_features", 3), ("dtype", torch.int64)]
                + [(name, rng.choice(BAD_SIZE[:3])) for name in arguments]
            )
            arguments = {**arguments, name: bad}
        about = f"{type(wrong).__name__}, {arguments}"
        return Call(function, about, lambda: {"made": _adopted(cls, wrong, arguments)}, mistake=about)
    dtype = (
        bn.weight.dtype
        if bn.weight is not None
        else bn.running_mean.dtype
        if bn.running_mean is not None
        else torch.float32
    )
    x = draw.normal(dtype, 3, bn.num_features, 4, 2)
    text: Any = draw.captions(rng, 3, arguments.get("word_dim"), arguments.get("sentence_dim"))
    if isinstance(text.sentence, Tensor) or isinstance(text.words, Tensor):
        text = type(text)(
            *(
                None
                if t is None
                else t.nan_to_num(posinf=0, neginf=0).clamp(-9, 9)
                if t.is_floating_point()
                else t
                for t in text
            )
        )
    mean, var = (
        (None, None)
        if bn.training or bn.running_mean is None
        else (bn.running_mean.clone(), bn.running_var.clone())
    )
    weight, bias = bn.weight, bn.bias
    want = torch.nn.functional.batch_norm(x, mean, var, weight, bias, mean is None, 0.0, bn.eps)

    def run() -> dict[str, Tensor]:
        layer = cls.from_batch_norm(bn, **arguments)
        if layer.bn is not bn or layer.training != bn.training:
            raise TypeError("the norm is not adopted as it is")
        return {"y": layer(x, text)}

    return Call(function, about, run, lambda: {"y": want}, tolerance=1e-4 if dtype == torch.float32 else 1e-9)


def _adopted(cls: Any, bn: Any, arguments: dict[str, Any]) -> Tensor:
    cls.from_batch_norm(bn, **arguments)
    return torch.ones(1)


def switch(rng: Random) -> Call:
    """A path that there is not, or one that there is."""
    if rng.random() < 0.5:
        wrong: Any = rng.choice(("fast", "", None, 3, ["auto"], {}, ("cpu",), "TILED"))
        return Call("ops.set_backend", repr(wrong), lambda: _set(wrong), mistake=f"path {wrong!r}")
    name: Any = rng.choice(("auto", "reference", "eager", "cpu", "triton"))

    def run() -> dict[str, Tensor]:
        with ops.use_backend(name):
            chosen = ops.get_backend() == name
        return {"chosen": torch.tensor(chosen), "restored": torch.tensor(ops.get_backend() == "auto")}

    return Call("ops.use", name, run, lambda: {"chosen": torch.tensor(True), "restored": torch.tensor(True)})


def _set(name: Any) -> dict[str, Tensor]:
    ops.set_backend(name)
    return {}
