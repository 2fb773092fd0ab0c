"""A retrofitted model as values that can be saved: its weights, and which layers were made, so that nobody repeats it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from scbn.retrofitting import advice
from scbn.retrofitting.advice import literal
from scbn.retrofitting.attngan import AttnGANText, fix_masks, masks_fixed
from scbn.retrofitting.binding import HOLDER, BindText, Retrofitted, TextHolder
from scbn.retrofitting.replace import cue_of, norm_layers, retrofit, unretrofit
from scbn.retrofitting.report import Retrofit
from scbn.text import TextFeatures

FORMAT = "scbn.retrofit/1"
_SETTINGS = ("sentence_dim", "word_dim", "hidden_dim", "scale")


def retrofitted_state(model: nn.Module) -> dict[str, Any]:
    """Everything that :func:`load_retrofitted` needs, for ``torch.save``: weights, layers with their cues, ``fix_mask``.

    Args:
        model: what :func:`scbn.retrofit` or :func:`scbn.retrofit_attngan` was called with.

    Returns:
        ``{"format", "retrofit", "state_dict"}``: tensors, text and numbers, so that ``torch.load(...,
        weights_only=True)`` reads it.

    Raises:
        ValueError: the model is not retrofitted, or only a part of it is.

    Example:
        >>> torch.save(scbn.retrofitted_state(netG), "netG_scbn.pth")
        >>> scbn.load_retrofitted(G_NET(), torch.load("netG_scbn.pth", weights_only=True))
    """
    return {"format": FORMAT, "retrofit": _record(model), "state_dict": model.state_dict()}


def load_retrofitted(
    model: nn.Module, state: Mapping[str, Any], *, text: Callable[..., TextFeatures] | None = None
) -> Retrofit:
    """Retrofit a model as another was, and load that one's weights.

    Args:
        model: of the same class and sizes: plain, as its class makes it, or retrofitted in the same way.
        state: what :func:`retrofitted_state` gave.
        text: the callable of :func:`scbn.retrofit`; not needed after :func:`scbn.retrofit_attngan`, whose is known.

    Returns:
        As :func:`scbn.retrofit`, about all conditioned layers.

    Raises:
        ValueError: ``state`` is nothing of the kind, the model is retrofitted in another way, a layer is not there, a
            weight does not fit, or ``text`` is needed. The model is as it was.
    """
    record, weights = _checked(state)
    if advice.wrapped(model):
        raise ValueError(advice.wrapped(model))
    if any(value.is_meta for value in (*model.parameters(), *model.buffers())):
        raise ValueError(
            f"{type(model).__name__} is on the meta device, which holds no weights: give it memory first, "
            "model.to_empty(device=...)"
        )
    plain = not isinstance(getattr(model, HOLDER, None), TextHolder)
    if plain:
        report = _build(model, record, text)
    else:
        differs = _difference(_record(model), record)
        if differs:
            raise ValueError(
                f"{type(model).__name__} is retrofitted in another way than the state to load: {differs}. Give it the plain "
                "model (scbn.unretrofit makes it one)"
            )
        report = Retrofit(model, tuple(norm_layers(model)), tuple(record["layers"]))
    misfit = _misfit(model.state_dict(), weights)
    if misfit:
        if plain:
            unretrofit(model)
        raise ValueError(f"the weights do not fit {type(model).__name__}: {misfit}")
    model.load_state_dict(dict(weights))
    return report


def _record(model: nn.Module) -> dict[str, Any]:
    """How a model is retrofitted, in plain values."""
    if advice.wrapped(model):
        raise ValueError(advice.wrapped(model))
    holder = getattr(model, HOLDER, None)
    if not isinstance(holder, TextHolder):
        raise ValueError(
            f"{type(model).__name__} is not retrofitted; give what scbn.retrofit was called with (of a wrapper, .module)"
        )
    named = list(model.named_modules(remove_duplicate=False))
    layers = {name: _settings(layer) for name, layer in named if _is_of(layer, holder)}
    if len(layers) < sum(isinstance(module, Retrofitted) for _, module in named):
        raise ValueError(
            f"a part of {type(model).__name__} was retrofitted on its own; save the state of that part by itself"
        )
    bound = next(hook.text for hook in model._forward_pre_hooks.values() if isinstance(hook, BindText))
    return {"layers": layers, "fix_mask": masks_fixed(model), "text": _arguments(bound)}


def _is_of(module: nn.Module, holder: TextHolder) -> bool:
    return isinstance(module, Retrofitted) and module.holder is holder


def _settings(layer: Any) -> dict[str, Any]:
    mlp = getattr(layer, "mlp", None)
    return {
        "cue": cue_of(layer),
        "sentence_dim": layer.sentence_dim,
        "word_dim": getattr(layer, "word_dim", None),
        "hidden_dim": None if mlp is None else mlp[0].out_features,
        "scale": getattr(layer, "scale", 1.0),
    }


def _arguments(text: Any) -> dict[str, int | None] | None:
    """Which of the forward's arguments are the text, where that is known."""
    return dict(vars(text)) if isinstance(text, AttnGANText) else None


def _checked(state: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        what = (
            f"a dict with {sorted(map(str, state))[:3]} ..."
            if isinstance(state, Mapping)
            else type(state).__name__
        )
        raise ValueError(
            f"state must be what scbn.retrofitted_state(model) gave, with format {FORMAT!r}, got {what}. A bare state dict "
            "does not say how to retrofit: call scbn.retrofit_attngan or scbn.retrofit with the options of then, and "
            "model.load_state_dict"
        )
    record, weights = state.get("retrofit"), state.get("state_dict")
    whole = (
        isinstance(record, dict)
        and isinstance(weights, Mapping)
        and isinstance(record.get("layers"), dict)
        and len(record["layers"]) > 0
        and all(isinstance(s, dict) and {"cue", *_SETTINGS} <= s.keys() for s in record["layers"].values())
        and isinstance(record.get("fix_mask"), bool)
        and (record.get("text", 0) is None or _are_arguments(record.get("text")))
    )
    if not whole:
        raise ValueError(
            f"state is damaged: {FORMAT!r} holds 'retrofit' and 'state_dict', with parts that are missing"
        )
    assert isinstance(record, dict) and isinstance(weights, Mapping)
    return record, weights


def _are_arguments(text: Any) -> bool:
    known = isinstance(text, dict) and text.keys() == {"sentence", "words", "mask"}
    return known and all(at is None or type(at) is int for at in text.values())


def _build(model: nn.Module, record: dict[str, Any], text: Callable[..., TextFeatures] | None) -> Retrofit:
    if text is None:
        if record["text"] is None:
            raise ValueError(
                "text is needed: this model was retrofitted by scbn.retrofit with a callable of its own"
            )
        text = AttnGANText(**record["text"])
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, settings in record["layers"].items():
        groups.setdefault(tuple(settings[key] for key in _SETTINGS), {})[literal(name)] = settings["cue"]
    try:
        for values, layers in groups.items():
            retrofit(model, layers, text=text, **dict(zip(_SETTINGS, values, strict=True)))
        if record["fix_mask"]:
            fix_masks(model)
    except ValueError:
        if hasattr(model, HOLDER):
            unretrofit(model)
        raise
    return Retrofit(model, tuple(norm_layers(model)), tuple(record["layers"]))


def _difference(now: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first thing in which two retrofits differ."""
    for name in (*wanted["layers"], *now["layers"]):
        a, b = now["layers"].get(name), wanted["layers"].get(name)
        if a is None or b is None:
            return f"{name} is {'a plain norm' if a is None else 'conditioned'}, there {'conditioned' if a is None else 'not'}"
        for key in ("cue", *_SETTINGS):
            if a[key] != b[key]:
                return f"{name} has {key} {a[key]!r}, there {b[key]!r}"
    if now["fix_mask"] != wanted["fix_mask"]:
        return f"fix_mask is {now['fix_mask']}, there {wanted['fix_mask']}"
    if None not in (now["text"], wanted["text"]) and now["text"] != wanted["text"]:
        return f"the text is in the arguments {now['text']}, there {wanted['text']}"
    return ""


def _misfit(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The first weight that is missing, unknown or of another shape."""
    for name in (*own, *given):
        if name not in given:
            return f"{name!r} is missing"
        if name not in own:
            return f"{name!r} is unknown to the model"
        a, b = own[name], given[name]
        if isinstance(a, Tensor) != isinstance(b, Tensor):  # what a module keeps besides may be of any kind
            return f"{name} is a {type(b).__name__}, must be a {type(a).__name__}"
        if isinstance(a, Tensor) and a.shape != b.shape:
            return f"{name} is {tuple(b.shape)}, must be {tuple(a.shape)}"
    return ""
