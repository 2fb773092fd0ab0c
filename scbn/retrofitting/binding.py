"""How text reaches layers that sit deep in someone else's model, whose forward passes them nothing but ``x``.

A forward pre-hook on the root turns the forward's arguments into :class:`TextFeatures` and puts them into a holder that
every retrofitted layer can reach; a forward hook, called even after an exception, takes them out again. The holder is a
module without parameters, so that deepcopy, pickle and DataParallel's replicas keep or copy it with the layers.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint

from scbn.linear import ZeroHead
from scbn.norm import recomputing
from scbn.sentence import SentenceSCBN
from scbn.text import TextFeatures
from scbn.word import WordSCBN

HOLDER = "scbn_text"


class TextHolder(nn.Module):
    """The text that the model runs on, while it runs: one call at a time, so threads need a copy of the model each."""

    text: TextFeatures | None
    fix_mask = False

    def __init__(self) -> None:
        super().__init__()
        self.text = None

    def forward(self, x: Any) -> Any:
        """What it is given, for models that call each of their children in turn."""
        return x

    # It has no tensors, but a place in the metadata of a state dict, which torch.save keeps.
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        _note(destination, prefix, fix_mask=self.fix_mask)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        stored = local_metadata.get("fix_mask", self.fix_mask)
        if stored != self.fix_mask:
            error_msgs.append(
                f"the weights are of a model retrofitted with fix_mask={stored}, this one has fix_mask={self.fix_mask} "
                "and would draw other images; retrofit it with the same, or use scbn.load_retrofitted"
            )


class Retrofitted:
    """A layer in the place of a norm: called with ``x`` alone, it finds the text in its holder."""

    bn: nn.Module
    holder: TextHolder
    cue: str

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own forward, with the text of the model's call."""
        text = self.holder.text
        if text is None:
            raise RuntimeError(
                f"{type(self).__name__} has no text: it is bound while the whole retrofitted model runs, and only then. "
                "Call the model itself and not a part of it; under activation checkpointing use scbn.checkpoint, which "
                "keeps the text for the second run, instead of torch.utils.checkpoint.checkpoint"
            )
        return super().forward(x, text)  # pyright: ignore[reportAttributeAccessIssue]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # pyright: ignore[reportAttributeAccessIssue]
        _note(destination, prefix, cue=self.cue, scale=getattr(self, "scale", 1.0))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        other = self._made_otherwise(state_dict, prefix, local_metadata)
        if other:
            args[-1].append(
                f"{prefix[:-1]}: {other}; retrofit the model with the same, or use scbn.load_retrofitted"
            )
            return
        # A checkpoint from before the retrofit has the norm's tensors where the layer now is, and none of the layer's own.
        stored = self.bn.state_dict()
        original = [n for n in stored if prefix + n in state_dict and f"{prefix}bn.{n}" not in state_dict]
        # A norm that has nothing to store leaves nothing to find.
        kept_nothing = not stored and "cue" not in local_metadata
        if original or (kept_nothing and not any(name.startswith(prefix) for name in state_dict)):
            for name in original:
                state_dict[f"{prefix}bn.{name}"] = state_dict.pop(prefix + name)
            # The conditioning goes back to its start: what is loaded is a model without any.
            own: dict[str, Tensor] = self.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
            modules = dict(self.named_modules())  # pyright: ignore[reportAttributeAccessIssue]
            for name, value in own.items():
                if not name.startswith("bn."):
                    at_zero = isinstance(modules.get(name.rpartition(".")[0]), ZeroHead)
                    state_dict.setdefault(prefix + name, torch.zeros_like(value) if at_zero else value)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)  # pyright: ignore[reportAttributeAccessIssue]

    def _made_otherwise(self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> str:
        """How the layer that was saved differs from this one; nothing where it does not, or was a plain norm."""
        words = f"{prefix}word_proj.weight" in state_dict
        sentence = any(name.startswith(f"{prefix}mlp.") for name in state_dict)
        stored = {(True, True): "both", (True, False): "word", (False, True): "sentence"}.get((words, sentence))
        if stored is not None and stored != self.cue:
            return f"the weights are of a layer with the cue {stored!r}, this one has {self.cue!r}"
        scale = getattr(self, "scale", 1.0)
        if local_metadata.get("scale", scale) != scale:
            return f"the weights are of a layer with scale={local_metadata['scale']}, this one has scale={scale}"
        return ""


class RetrofittedSentenceSCBN(Retrofitted, SentenceSCBN):
    """:class:`SentenceSCBN` in the place of a norm."""

    cue = "sentence"


class RetrofittedWordSCBN(Retrofitted, WordSCBN):
    """:class:`WordSCBN` in the place of a norm."""

    @property
    def cue(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What it is conditioned on."""
        return "word" if self.sentence_dim is None else "both"


def _note(destination: Any, prefix: str, **values: Any) -> None:
    """Into the metadata of a state dict: what weights alone do not tell."""
    metadata = getattr(destination, "_metadata", None)
    if metadata is not None:
        metadata.setdefault(prefix[:-1], {}).update(values)


class BindText:
    """Forward pre-hook of the root: its arguments, through the user's callable, become the text of this call.

    Args:
        text: takes the forward's arguments, returns :class:`TextFeatures`.
        parameters: the forward's positional parameters, name to default (``inspect.Parameter.empty`` where there is
            none), so that a keyword call binds as a positional one does.
    """

    def __init__(self, text: Callable[..., TextFeatures], parameters: dict[str, Any]) -> None:
        self.text, self.parameters = text, parameters

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positional, named = list(args), dict(kwargs)
        for name in list(self.parameters)[len(args) :]:
            if name in named:
                positional.append(named.pop(name))
            elif self.parameters[name] is not inspect.Parameter.empty and any(o in named for o in self.parameters):
                positional.append(self.parameters[name])  # left out, with later ones given by name
            else:
                break
        found = self.text(*positional, **named)
        if not isinstance(found, TextFeatures):
            raise ValueError(
                f"text must return scbn.TextFeatures(sentence=..., words=..., padding_mask=...), got {type(found).__name__}"
            )
        holder = getattr(module, HOLDER)
        holder.text = found


class ReleaseText:
    """Forward hook of the root: stale text would give wrong gradients in silence."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        getattr(module, HOLDER).text = None


def bind(model: nn.Module, text: Callable[..., TextFeatures], parameters: dict[str, Any]) -> None:
    """Hang both hooks on the root, which has the holder already."""
    model.register_forward_pre_hook(BindText(text, parameters), with_kwargs=True)
    model.register_forward_hook(ReleaseText(), always_call=True)


def unbind(model: nn.Module) -> None:
    """Take both hooks and the holder off the root again."""
    for hooks, kind in ((model._forward_pre_hooks, BindText), (model._forward_hooks, ReleaseText)):
        for key in [key for key, hook in hooks.items() if isinstance(hook, kind)]:
            del hooks[key]
            model._forward_pre_hooks_with_kwargs.pop(key, None)
            model._forward_hooks_always_called.pop(key, None)
    delattr(model, HOLDER)


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Activation checkpointing inside a retrofitted model: torch's, with a snapshot of the text the model runs on.

    Memory is saved by running ``function`` again in the backward. The running statistics of scbn's layers move once all the
    same (with torch's own, and in other norms, twice). By then the model's call is over and its text gone
    (kept, it would be the text of some later call), so plain ``torch.utils.checkpoint.checkpoint`` ends in an error.

    Args:
        function: a module, a method of one, or a function or partial that closes over modules.
        args: its arguments.
        kwargs: options of :func:`torch.utils.checkpoint.checkpoint`, where ``use_reentrant`` is always ``False``; others are
            the function's.

    Returns:
        What ``function`` returns.

    Raises:
        ValueError: ``use_reentrant=True``, which runs the first time without gradients and hides the text's.
    """
    if kwargs.pop("use_reentrant", False):
        raise ValueError(
            "scbn.checkpoint is torch's non-reentrant checkpoint; leave use_reentrant out or set it to False"
        )
    holders = list(dict.fromkeys(_holders((function, *args))))
    texts = [holder.text for holder in holders]

    def run(*again: Any, **named: Any) -> Any:
        with _holding(holders, texts):
            return function(*again, **named)

    if not torch.compiler.is_compiling():  # which takes no contexts, and moves statistics once by itself
        kwargs["context_fn"] = functools.partial(
            _contexts, kwargs.get("context_fn", torch_checkpoint.noop_context_fn)
        )
    return torch_checkpoint.checkpoint(run, *args, use_reentrant=False, **kwargs)


class _Again(contextlib.AbstractContextManager):
    """Around each further run: what the caller asked for, and statistics that stay.

    A class, because one region may be run again several times: for two losses, or for a second derivative.
    """

    def __init__(self, theirs: Any) -> None:
        self.theirs = theirs
        self.entered: list[contextlib.ExitStack] = []

    def __enter__(self) -> None:
        stack = contextlib.ExitStack()
        stack.enter_context(self.theirs)
        stack.enter_context(recomputing())
        self.entered.append(stack)

    def __exit__(self, *error: Any) -> bool | None:
        return self.entered.pop().__exit__(*error)


def _contexts(theirs: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    forward, again = theirs()
    return forward, _Again(again)


@contextlib.contextmanager
def _holding(holders: list[TextHolder], texts: list[TextFeatures | None]) -> Iterator[None]:
    before = [holder.text for holder in holders]
    for holder, text in zip(holders, texts, strict=True):
        holder.text = text
    try:
        yield
    finally:
        for holder, text in zip(holders, before, strict=True):
            holder.text = text


def _holders(things: tuple[Any, ...], depth: int = 4) -> Iterator[TextHolder]:
    """Holders of the modules that are, own or are closed over by ``things``."""
    for thing in things:
        if isinstance(thing, nn.Module):
            yield from (module for module in thing.modules() if isinstance(module, TextHolder))
        elif depth and isinstance(thing, functools.partial):
            yield from _holders((thing.func, *thing.args, *thing.keywords.values()), depth - 1)
        elif depth and isinstance(thing, types.MethodType):
            yield from _holders((thing.__self__,), depth - 1)
        elif depth and isinstance(thing, types.FunctionType):
            closed = inspect.getclosurevars(thing).nonlocals.values()
            yield from _holders((*closed, *(thing.__defaults__ or ())), depth - 1)
        elif depth and isinstance(thing, (list, tuple)):
            yield from _holders(tuple(thing), depth - 1)
        elif depth and isinstance(thing, dict):
            yield from _holders(tuple(thing.values()), depth - 1)
