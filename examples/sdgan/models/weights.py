"""State dicts as others save them: found within what is wrapped around them, and checked before they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from examples.sdgan.models.checkpoint import check_weights, is_finite, reason_of

# What torch.compile, DDP and AveragedModel put into names, and FSDP and activation checkpointing.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Where a file holds several that fit, the first of these is taken, then whichever comes first.
_ENTRIES = ("", "state_dict", "netG", "generator", "model", "G", "ema", "g_ema", "netG_ema", "params_ema")
_DEPTH = 4


class WeightsError(ValueError):
    """A file of weights cannot be used; the message says why, without the file's name."""


class _Match(NamedTuple):
    entry: str
    state: dict[str, Tensor]
    missing: list[str]
    unknown: list[str]
    misfits: list[str]

    def wrong(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.misfits)


def read_weights(path: Path) -> Any:
    """What a file of weights holds, from ``torch.save`` or safetensors, read without running code.

    Raises:
        WeightsError: it is broken, or holds more than weights.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file may raise anything
        raise WeightsError(f"broken, or more than weights, which is not loaded ({reason_of(error)})") from error


def state_dict_for(
    wanted: Mapping[str, Tensor], content: Any, instead: str = "use an earlier checkpoint"
) -> _Match:
    """The state dict with a module's names and shapes, wherever ``content`` has it.

    It may lie within dicts and lists (``{"g_ema": ...}``), names may begin with a module's (``generator.``) and hold what
    wrappers put in (``module.``, ``_orig_mod.``), and counts of batches may be missing, as before PyTorch 0.4.1.

    Args:
        wanted: the module's own state dict.
        content: from :func:`read_weights`.
        instead: what to do where a weight is not finite.

    Returns:
        The state dict by the module's names, and which entry of the file it is.

    Raises:
        WeightsError: none fits, and the message says what was found; or a weight is not finite, or not in the
            module's type.
    """
    own = {_plain(name): name for name in wanted}
    found = [match for entry, group in _groups(content) for match in _matches(own, wanted, entry, group)]
    fits = [match for match in found if not match.wrong()]
    if not fits:
        raise WeightsError(_why_not(own, content, found))
    best = min(fits, key=lambda match: _rank(match.entry))
    for name, value in best.state.items():
        try:
            check_weights(repr(name), value, instead)
            _check_type(repr(name), value, wanted[name].dtype, instead)
        except ValueError as error:
            raise WeightsError(str(error)) from error
    return best


def tensors_named(content: Any, name: str) -> dict[str, Tensor]:
    """The tensors beside the one of this name, wherever ``content`` has it, without what wraps their names.

    Raises:
        WeightsError: there is none.
    """
    groups = sorted(_groups(content), key=lambda found: _rank(found[0]))
    for _, group in groups:
        plain = {_plain(key): value for key, value in group.items()}
        start = next((key.removesuffix(name) for key in plain if key == name or key.endswith(f".{name}")), None)
        if start is not None:
            return {key.removeprefix(start): value for key, value in plain.items() if key.startswith(start)}
    told = "; ".join(f"{f'in {entry!r} ' if entry else ''}{_some(group)}" for entry, group in groups[:4])
    raise WeightsError(f"no tensor is called {name!r}; found {told or 'none at all'}")


def _check_type(name: str, value: Tensor, dtype: torch.dtype, instead: str) -> None:
    """Raise ``ValueError`` where copying into a module's own type would make other numbers of a weight's."""
    if dtype.is_floating_point and not value.is_floating_point():
        raise ValueError(
            f"{name} holds {value.dtype}, must be floating-point: quantised weights mean nothing without their "
            "scales; "
            "save the model's weights as they were before"
        )
    if not is_finite(value.to(dtype)):
        raise ValueError(f"{name} has numbers that are infinite in {dtype}; {instead}")


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _groups(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict with tensors in it, and what the way to it is called."""
    seen: set[int] = set()
    left = [("", content, 0)]
    while left:
        entry, value, depth = left.pop(0)
        # A list may hold itself, or one dict a million times.
        if not isinstance(value, dict | list | tuple) or depth > _DEPTH or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            group = {name: v for name, v in value.items() if isinstance(name, str) and isinstance(v, Tensor)}
            if group:
                yield entry, group
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        left += [
            (f"{entry}.{name}" if entry else str(name), v, depth + 1)
            for name, v in inner
            if isinstance(v, dict | list | tuple)
        ]


def _matches(
    own: dict[str, str], wanted: Mapping[str, Tensor], entry: str, group: dict[str, Tensor]
) -> Iterator[_Match]:
    plain = {_plain(name): value for name, value in group.items()}
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    beginnings = {
        name.removesuffix(known): None
        for known in needed[:1] + needed[-1:]
        for name in plain
        if name == known or name.endswith(f".{known}")
    }
    for start in beginnings:
        part = {name.removeprefix(start): value for name, value in plain.items() if name.startswith(start)}
        missing = [own[name] for name in needed if name not in part]
        unknown = [start + name for name in part if name not in own and name != "n_averaged"]
        state = {own[name]: value for name, value in part.items() if name in own}
        misfits = [
            f"{name!r} is {tuple(value.shape)}, must be {tuple(wanted[name].shape)}"
            for name, value in state.items()
            if value.shape != wanted[name].shape
        ]
        yield _Match(".".join(filter(None, (entry, start.rstrip(".")))), state, missing, unknown, misfits)


def _rank(entry: str) -> tuple[int, int]:
    last = entry.rpartition(".")[2]
    return (_ENTRIES.index(last) if last in _ENTRIES else len(_ENTRIES), entry.count("."))


def _why_not(own: dict[str, str], content: Any, found: list[_Match]) -> str:
    if found:
        best = min(found, key=_Match.wrong)
        where = f"its entry {best.entry!r} has" if best.entry else "it has"
        told = [f"{len(best.missing)} names missing, such as {best.missing[0]!r}"] if best.missing else []
        told += [f"{len(best.unknown)} unknown ones, such as {best.unknown[0]!r}"] if best.unknown else []
        told += [f"{len(best.misfits)} of other shapes, such as {best.misfits[0]}"] if best.misfits else []
        return f"does not fit: {where} {' and '.join(told)}"
    groups = dict(_groups(content))
    if not groups:
        what = f"a dict of {_some(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        return f"neither a state dict nor a dict that holds one, but {what}"
    told = "; ".join(
        f"{f'in {entry!r} ' if entry else ''}{_some(group)}" for entry, group in [*groups.items()][:4]
    )
    return f"no such names: found {told}; expected such as {_some(list(own.values()))}"


def _some(names: Iterable[Any]) -> str:
    shown = [repr(name)[:60] for name in names]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "") if shown else "nothing"
