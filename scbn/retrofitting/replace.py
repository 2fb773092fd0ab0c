"""Semantic conditioning inside a model that exists: its norms become SCBN layers, its code stays as it is."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from scbn.norm import SCBN
from scbn.retrofitting import advice
from scbn.retrofitting.binding import (
    HOLDER,
    BindText,
    Retrofitted,
    RetrofittedSentenceSCBN,
    RetrofittedWordSCBN,
    TextHolder,
    bind,
    unbind,
)
from scbn.retrofitting.report import NormLayer, Retrofit, table
from scbn.text import TextFeatures

Cue = Literal["sentence", "word", "both"]
CUES = get_args(Cue)
# Where another replaced module keeps the one it stands for: no child, whose parameters would be there twice.
STOOD_FOR = "_scbn_stood_for"


class _Norm(NamedTuple):
    name: str
    module: nn.Module


def norm_layers(model: nn.Module) -> list[NormLayer]:
    """The norms of a model that :func:`retrofit` can replace, has replaced, or cannot and why.

    Args:
        model: any module.

    Returns:
        One :class:`NormLayer` ``(name, kind, channels, cue, problem)`` each, in the model's order; ``cue`` where the
        layer is retrofitted, ``problem`` where it cannot be.
    """
    _check_model(model)
    return [_describe(norm) for norm in _norms(model)]


def retrofit(
    model: nn.Module,
    layers: Mapping[str, Cue],
    *,
    text: Callable[..., TextFeatures],
    sentence_dim: int | None = None,
    word_dim: int | None = None,
    hidden_dim: int | None = None,
    scale: float = 1.0,
) -> Retrofit:
    r"""Replace norms of ``model``, in place, by SCBN layers that adopt their weights and running statistics.

    Nothing changes at first: the heads of an SCBN layer start at zero, so it computes what the norm computed,
    :math:`y = \hat x \gamma + \beta`, and the gradients of the pretrained parameters are what they were. Fine-tuning
    goes on from there.

    Args:
        model: the root; only its forward needs to see the text.
        layers: name patterns (as :mod:`fnmatch`, on the names of :func:`norm_layers`) to cues: ``"sentence"``,
            ``"word"`` or ``"both"``, e.g. ``{"h_net1.upsample*": "sentence", "h_net[23].upsample*": "word"}``.
        text: called with the arguments of every call of ``model``, returns :class:`TextFeatures`. Words are batch
            first, (N, T, D_w): many models hold them as (N, D_w, T).
        sentence_dim, word_dim: sizes of the sentence vector and of a word vector, as far as the cues need them.
        hidden_dim, scale: as in :class:`SentenceSCBN` and :class:`WordSCBN`.

    Returns:
        :class:`Retrofit`: print it; it also hands out the new and the pretrained parameters.

    Raises:
        ValueError: a pattern matches nothing (the candidates are listed) or only norms that cannot be replaced, two
            patterns disagree about a layer, a cue is unknown, a dimension is missing, ``text`` cannot take the forward's
            arguments, or a layer is retrofitted already. The model is as it was.
    """
    _check_model(model)
    parameters, chosen = _forward_parameters(model), _choose(model, layers)
    _check_text(model, text, parameters)
    dims = {"sentence_dim": sentence_dim, "word_dim": word_dim}
    holder: TextHolder = getattr(model, HOLDER, None) or TextHolder()
    built: dict[int, nn.Module] = {}
    for norm, cue in chosen.values():
        if id(norm) not in built:  # one norm under two names stays one
            built[id(norm)] = _build(model, norm, cue, dims, hidden_dim, scale, holder)
    if not hasattr(model, HOLDER):
        setattr(model, HOLDER, holder.train(model.training))
        bind(model, text, parameters)
    for name, (norm, _) in chosen.items():
        _replace(model, name, built[id(norm)])
    return Retrofit(model, tuple(norm_layers(model)), tuple(chosen))


def unretrofit(model: nn.Module) -> tuple[str, ...]:
    """Back to the plain model, in place: every SCBN layer gives way to the norm it holds, as trained as it is by now.

    The conditioning, which depends on the text of each call, is dropped: the outputs are those of the retrofitted model
    only as long as its heads are zero. Save the model before, if the conditioning is worth keeping.

    Args:
        model: what :func:`retrofit` was called with.

    Returns:
        Names of the layers that were put back.

    Raises:
        ValueError: the model is not retrofitted.
    """
    if advice.wrapped(model):
        raise ValueError(advice.wrapped(model))
    if not isinstance(getattr(model, HOLDER, None), TextHolder):
        raise ValueError(
            f"{type(model).__name__} is not retrofitted; call unretrofit with the module retrofit was given"
        )
    holder, modules = getattr(model, HOLDER), list(model.named_modules(remove_duplicate=False))
    # Not those of a part that was retrofitted on its own.
    found = [(name, m) for name, m in modules if isinstance(m, Retrofitted) and m.holder is holder]
    for name, layer in found:
        _replace(model, name, layer.bn)
    apart = tuple(f"{name}." for name, m in modules if name and isinstance(getattr(m, HOLDER, None), TextHolder))
    for name, module in modules:
        if STOOD_FOR in vars(module) and not name.startswith(apart):
            _replace(model, name, vars(module)[STOOD_FOR])
    unbind(model)
    return tuple(name for name, _ in found)


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be an nn.Module, got {type(model).__name__}")


def _norms(model: nn.Module) -> Iterator[_Norm]:
    """Batch norms and retrofitted layers, each under every name, but not what is inside an SCBN layer."""
    inside: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, SCBN):
            inside.append(f"{name}.")
            if isinstance(module, Retrofitted):
                yield _Norm(name, module)
        elif isinstance(module, _BatchNorm):
            yield _Norm(name, module)


def _describe(norm: _Norm) -> NormLayer:
    module, cue = norm.module, cue_of(norm.module)
    bn = module.bn if isinstance(module, SCBN) else module
    assert isinstance(bn, _BatchNorm)
    return NormLayer(norm.name, type(bn).__name__, bn.num_features, cue, _problem(norm), _own_forward(bn))


def cue_of(module: nn.Module) -> Cue | None:
    """What a retrofitted layer is conditioned on; ``None`` for any other module."""
    return cast("Cue", module.cue) if isinstance(module, Retrofitted) else None


def _problem(norm: _Norm) -> str | None:
    """Why a norm cannot be replaced."""
    if isinstance(norm.module, Retrofitted):
        return "retrofitted already; unretrofit first"
    if any(is_lazy(tensor) for tensor in (*norm.module.parameters(), *norm.module.buffers())):
        return "lazy: run the model once, so that it learns its channels"
    if isinstance(norm.module, nn.BatchNorm1d):
        return "normalises vectors or sequences, not feature maps"
    if len(_required(norm.module.forward)) > 1:
        return "takes more than the map: it is conditioned on something already"
    if not norm.name:
        return "is the model itself: put it into a module whose forward sees the text"
    return None


def _own_forward(bn: nn.Module) -> bool:
    """Whether its class computes something of its own, which the layer then does not."""
    return not type(bn).__module__.startswith("torch.")


def _choose(model: nn.Module, layers: Mapping[str, str]) -> dict[str, tuple[nn.Module, str]]:
    """Of each name to replace, its norm and cue."""
    if not isinstance(layers, Mapping) or not layers:
        raise ValueError(f"layers must map name patterns to cues {CUES}, got {layers!r}")
    norms = list(_norms(model))
    if not norms:
        raise ValueError(advice.no_norms(model))
    candidates = f"The norms are:\n{table([_describe(norm) for norm in norms])}"
    chosen: dict[str, tuple[nn.Module, str]] = {}
    for pattern, cue in layers.items():
        if cue not in CUES:
            raise ValueError(f"layers[{pattern!r}] must be one of {CUES}, got {cue!r}")
        matched = [norm for norm in norms if fnmatch.fnmatchcase(norm.name, pattern)]
        fit = [norm for norm in matched if _problem(norm) is None]
        # A part that was retrofitted on its own keeps its own text.
        holder = getattr(model, HOLDER, None)
        again = [n.name for n in matched if isinstance(n.module, Retrofitted) and n.module.holder is holder]
        if again:
            raise ValueError(
                f"the pattern {pattern!r} matches {again}, retrofitted already; call unretrofit first"
            )
        if not fit:
            what = "only norms that cannot be replaced" if matched else "no norm"
            raise ValueError(f"the pattern {pattern!r} matches {what}. {candidates}")
        for norm in fit:
            if chosen.get(norm.name, (None, cue))[1] != cue:
                raise ValueError(f"two patterns disagree about {norm.name}: {chosen[norm.name][1]!r} and {cue!r}")
            chosen[norm.name] = norm.module, cue
    modules: dict[int, str] = {}
    for name, (module, cue) in chosen.items():
        if modules.setdefault(id(module), cue) != cue:
            raise ValueError(
                f"two patterns disagree about {name}, a norm with several names: {modules[id(module)]!r} and {cue!r}"
            )
    # The other names of a norm that is used twice, or the two would part.
    for norm in norms:
        if id(norm.module) in modules:
            chosen.setdefault(norm.name, (norm.module, modules[id(norm.module)]))
    return chosen


def _build(
    model: nn.Module,
    norm: nn.Module,
    cue: str,
    dims: dict[str, int | None],
    hidden_dim: int | None,
    scale: float,
    holder: TextHolder,
) -> nn.Module:
    needed = {"sentence": ("sentence_dim",), "word": ("word_dim",), "both": ("sentence_dim", "word_dim")}[cue]
    sizes = {name: dims[name] for name in needed}
    missing = [name for name, size in sizes.items() if size is None]
    if missing:
        raise ValueError(f"the cue {cue!r} needs {' and '.join(missing)}, the size of what text returns")
    options: dict[str, Any] = {} if cue == "word" else {"hidden_dim": hidden_dim}
    if norm.weight is None and norm.running_mean is None:
        like = next(model.parameters())
        options |= {"device": like.device, "dtype": like.dtype}
    if cue == "sentence":
        layer = RetrofittedSentenceSCBN.from_batch_norm(norm, sizes["sentence_dim"], **options)
    else:
        sentence = {"sentence_dim": sizes["sentence_dim"]} if cue == "both" else {}
        layer = RetrofittedWordSCBN.from_batch_norm(norm, sizes["word_dim"], scale=scale, **sentence, **options)
    layer.holder = holder
    return layer


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = new


def _forward_parameters(model: nn.Module) -> dict[str, Any]:
    """The positional parameters of the model's forward, name to default."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)}


def _required(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters a call cannot leave out."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _check_text(model: nn.Module, text: Callable[..., TextFeatures], parameters: dict[str, Any]) -> None:
    if not callable(text):
        raise ValueError(f"text must be a callable that takes the forward's arguments, got {type(text).__name__}")
    bound = [hook for hook in model._forward_pre_hooks.values() if isinstance(hook, BindText)]
    if bound and bound[0].text is not text:
        raise ValueError(
            "this model is retrofitted with another text callable; pass the same one, or unretrofit first"
        )
    try:
        signature = inspect.signature(text)
    except (TypeError, ValueError):
        return
    given = inspect.signature(model.forward).parameters
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in given.values()):
        return  # a wrapper's: what it passes on only the call tells
    always = [name for name, default in parameters.items() if default is inspect.Parameter.empty]
    named = {p.name: None for p in given.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    for arguments in {tuple(always), tuple(parameters)}:
        try:
            signature.bind(*arguments, **named)
        except TypeError as error:
            raise ValueError(
                f"text must take what {type(model).__name__}.forward{inspect.signature(model.forward)} takes, "
                f"got {signature}: {error}"
            ) from None
