"""What a retrofit says it did: a table to print, and the parameters it made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from scbn.retrofitting.binding import Retrofitted


class NormLayer(NamedTuple):
    """A norm of a model.

    Args:
        name: as ``named_modules`` gives it.
        kind: its class.
        channels: how many it normalises.
        cue: what it is conditioned on, where it is retrofitted.
        problem: why it cannot be retrofitted, where it cannot.
        own_forward: its class is not PyTorch's and computes something of its own (statistics over GPUs, say), which an
            SCBN layer in its place does not.
    """

    name: str
    kind: str
    channels: int
    cue: str | None = None
    problem: str | None = None
    own_forward: bool = False


@dataclass(frozen=True)
class Retrofit:
    """What :func:`scbn.retrofit` did; prints as a table.

    Args:
        model: the retrofitted model.
        norms: all of its norms.
        names: those replaced by this call.
    """

    model: nn.Module = field(repr=False)
    norms: tuple[NormLayer, ...]
    names: tuple[str, ...]

    @property
    def replaced(self) -> tuple[NormLayer, ...]:
        """The layers that are conditioned on the text now."""
        return tuple(norm for norm in self.norms if norm.name in self.names)

    @property
    def skipped(self) -> tuple[NormLayer, ...]:
        """The norms left as they are."""
        return tuple(norm for norm in self.norms if norm.cue is None)

    def new_parameters(self) -> list[nn.Parameter]:
        """The parameters that only the conditioning has."""
        layers = [module for module in self.model.modules() if isinstance(module, Retrofitted)]
        return [p for layer in layers for name, p in _named(layer) if not name.startswith("bn.")]

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """All others, those of the adopted norms included."""
        new = {id(p) for p in self.new_parameters()}
        return [p for p in self.model.parameters() if id(p) not in new]

    def parameter_groups(self, *, lr: float, new_lr: float | None = None, **options: Any) -> list[dict[str, Any]]:
        """Two groups for an optimiser: the pretrained parameters with ``lr``, the new with ``new_lr`` (``lr`` if None)."""
        return [
            {"params": self.pretrained_parameters(), "lr": lr, **options},
            {"params": self.new_parameters(), "lr": lr if new_lr is None else new_lr, **options},
        ]

    def __str__(self) -> str:
        count = sum(p.numel() for p in self.new_parameters())
        told = [
            f"{type(self.model).__name__}: {len(self.replaced)} of {len(self.norms)} norms replaced, {count:,} new parameters",
            table(self.norms),
        ]
        foreign = sorted({norm.kind for norm in self.replaced if norm.own_forward})
        if foreign:
            told.append(
                f"{', '.join(foreign)}: the class's own forward no longer runs; statistics are those of a process"
            )
        return "\n".join(told)


def table(norms: list[NormLayer] | tuple[NormLayer, ...]) -> str:
    """A line for each norm."""
    rows = [(n.name or "(the model)", n.kind, str(n.channels), n.cue or n.problem or "-") for n in norms]
    rows.insert(0, ("name", "class", "channels", "cue"))
    if len(rows) == 1:
        return "  (none)"
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows)


def _named(layer: Retrofitted) -> list[tuple[str, nn.Parameter]]:
    assert isinstance(layer, nn.Module)
    return list(layer.named_parameters())
