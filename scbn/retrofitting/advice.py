"""What to say about a model that is not AttnGAN's: which arguments are text, and the call of ``retrofit`` that would fit."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from typing import NamedTuple

from torch import nn
from torch.optim.swa_utils import AveragedModel

from scbn.retrofitting.report import NormLayer

# Of the words in an argument's name: what it holds.
_MASK, _COUNT = ("mask",), ("len", "lens", "length", "lengths", "num", "count", "size", "id", "ids")
_WORDS = ("word", "words", "token", "tokens")
_SENTENCE = ("sent", "sentence", "text", "caption", "prompt", "embed", "embedding")
_LAST = ("emb", "embs", "c", "cond", "condition")  # where nothing clearer is there
# Vectors of something else, whatever comes after in the name.
_NOT_TEXT = (
    "noise",
    "latent",
    "z",
    "t",
    "time",
    "timestep",
    "pos",
    "position",
    "style",
    "label",
    "image",
    "img",
    "class",
)
_WRAPPERS = {nn.DataParallel: "module", nn.parallel.DistributedDataParallel: "module", AveragedModel: "module"}


class TextArguments(NamedTuple):
    """Positions of a forward's arguments; ``None`` for what it does not take."""

    sentence: int | None
    words: int | None
    mask: int | None


def text_arguments(model: nn.Module) -> TextArguments:
    """Which arguments of the forward are the sentence, the words and their mask, by what their names say."""
    kinds = [_kind(name) for name in _positional(model)]
    first = {kind: kinds.index(kind) for kind in dict.fromkeys(kinds) if kind}
    return TextArguments(first.get("sentence", first.get("last")), first.get("words"), first.get("mask"))


def _kind(name: str) -> str:
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    for kind, known in (
        ("mask", _MASK), ("", (*_COUNT, *_NOT_TEXT)), ("words", _WORDS), ("sentence", _SENTENCE), ("last", _LAST)
    ):  # fmt: skip
        if any(part in known or part.removesuffix("s") in known for part in parts):
            return kind
    return ""


def by_keyword_only(model: nn.Module) -> str:
    """The first argument of text that the forward takes by keyword alone; nothing where there is none."""
    parameters = inspect.signature(model.forward).parameters.values()
    return next(
        (p.name for p in parameters if p.kind is p.KEYWORD_ONLY and _kind(p.name) in ("sentence", "words")), ""
    )


def literal(name: str) -> str:
    """A name as a pattern of fnmatch that matches nothing else."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _positional(model: nn.Module) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def wrapped(model: nn.Module) -> str:
    """What to do about a wrapper, whose own forward says nothing of the model's arguments; nothing for a plain model."""
    inner = next((name for kind, name in _WRAPPERS.items() if isinstance(model, kind)), "")
    if hasattr(model, "_orig_mod"):  # torch.compile's
        inner = "_orig_mod"
    if not inner:
        return ""
    again = "compile it after that" if inner == "_orig_mod" else "wrap it after that"
    return f"{type(model).__name__} is a wrapper: give the model inside, netG.{inner}, and {again}"


def no_norms(model: nn.Module) -> str:
    """What a model has in the place of batch norms, and what would work."""
    found = Counter(
        type(module).__name__
        for module in model.modules()
        if re.search(r"norm", type(module).__name__, re.IGNORECASE)
    )
    has = ", ".join(f"{count} {kind}" for kind, count in found.most_common(4))
    return (
        f"{type(model).__name__} has no batch norm{f', but {has}' if has else ' and no other norm'}: an SCBN layer takes over "
        "the statistics of a batch norm and stands in its place. To condition this model, put scbn.SentenceSCBN or "
        "scbn.WordSCBN into its code where feature maps should listen to the text, and train it from there"
    )


def call(model: nn.Module, norms: list[NormLayer], sentence_dim: int | None, word_dim: int | None) -> str:
    """The call of ``scbn.retrofit`` that fits a model, to paste; nothing where no argument looks like text."""
    names, at = _positional(model), text_arguments(model)
    free = [norm.name for norm in norms if norm.problem is None]
    if (at.sentence is None and at.words is None) or not free:
        return ""
    upsampling = [name for name in free if re.search(r"up", name, re.IGNORECASE)]
    cue = "sentence" if at.words is None else "word"
    layers = ", ".join(f'"{pattern}": "{cue}"' for pattern in _patterns(upsampling or free, free))
    where, size, known = (
        (at.sentence, "sentence_dim", sentence_dim) if cue == "sentence" else (at.words, "word_dim", word_dim)
    )
    assert where is not None
    sizes = f"{size}={known})" if known else f"{size}=256)  # set it to the size of {names[where]}"
    text = ", ".join(f"{name}={value}" for name, value in at._asdict().items())
    return (
        "from scbn.retrofitting.attngan import AttnGANText  # words (N, D, T), mask True where a word is padding\n"
        f"scbn.retrofit(netG, {{{layers}}}, text=AttnGANText({text}), {sizes}"
    )


def _patterns(chosen: list[str], free: list[str]) -> list[str]:
    """Patterns that match the chosen names alone: a module's all where that is so, else the names themselves."""
    patterns: list[str] = []
    for name in chosen:
        top = name.partition(".")[0]
        whole = all(other in chosen for other in free if other.startswith(f"{top}."))
        patterns.append(f"{literal(top)}.*" if whole and "." in name else literal(name))
    return list(dict.fromkeys(patterns))
