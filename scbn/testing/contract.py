"""What a check is: a rule with a name, and the norm it is tried on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scbn.text import TextFeatures

MakeNorm = Callable[[int], nn.Module]
"""How the norm under test is made: called with the number of channels, gives a norm called as ``norm(x, text)``."""

CHANNELS, WORDS = 6, 4
SHAPE = (3, CHANNELS, 4, 5)


class BrokenContract(AssertionError):
    """A rule that a norm does not keep. The message names it; so does ``rules``."""

    def __init__(self, message: str, rules: tuple[str, ...]) -> None:
        super().__init__(message)
        self.rules = rules


@dataclass(frozen=True)
class Check:
    """One rule of the contract, called on a norm; raises :class:`BrokenContract` where the norm does not keep it.

    Args:
        name: what ``skip`` and failure messages call it.
        rule: what must hold, in words.
        run: raises where it does not.
    """

    name: str
    rule: str
    run: Callable[[Subject], None]

    def __call__(self, make: MakeNorm, *, word_dim: int | None = None, sentence_dim: int | None = None) -> None:
        """Try the rule on the norms that ``make`` makes; see :func:`scbn.testing.check_conditional_norm`."""
        subject = Subject(make, word_dim, sentence_dim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                self.run(subject)
            except Exception as error:
                # Whatever a norm raises, a bare assertion included, is this rule broken.
                message = f"{subject.name} breaks the rule {self.name!r}: {self.rule}.\n{_what(error)}"
                raise BrokenContract(message, (self.name,)) from error

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Subject:
    """The norm under test and the inputs it is tried on.

    Args:
        make, word_dim, sentence_dim: as :func:`scbn.testing.check_conditional_norm`.
    """

    make: MakeNorm
    word_dim: int | None
    sentence_dim: int | None

    def __post_init__(self) -> None:
        if not callable(self.make) or isinstance(self.make, nn.Module):
            raise ValueError(
                f"make must be a callable num_features -> nn.Module, got {type(self.make).__name__}; every check needs a "
                "new norm: pass lambda channels: MyNorm(channels, ...)"
            )
        if self.word_dim is None and self.sentence_dim is None:
            raise ValueError(
                "a conditional norm is conditioned on words or on a sentence; pass word_dim, the size of a word vector, "
                "sentence_dim, the size of the sentence vector, or both"
            )

    @functools.cached_property
    def name(self) -> str:
        """The norm's class."""
        return type(self.make(CHANNELS)).__name__

    def fresh(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The norm as it starts."""
        return self.make(CHANNELS).to(dtype)

    def trained(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The norm with every parameter and running statistic away from its initial value."""
        norm = self.fresh(torch.float64)
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.1)
        bn = holder(norm)
        if bn is not None and isinstance(bn.running_mean, Tensor) and isinstance(bn.running_var, Tensor):
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.5, 2)
        return norm.to(dtype)

    def inputs(
        self, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64, *, padded: bool = True
    ) -> tuple[Tensor, TextFeatures]:
        """x and text; with padding, all captions but the first lose words and the last, of three, all of them."""
        n = shape[0]
        x = torch.randn(shape, dtype=dtype) * 1.5 + 0.3
        sentence = None if self.sentence_dim is None else torch.randn(n, self.sentence_dim, dtype=dtype)
        words = None if self.word_dim is None else torch.randn(n, WORDS, self.word_dim, dtype=dtype)
        mask = torch.zeros(n, WORDS, dtype=torch.bool)
        if padded:
            mask[1:, WORDS // 2 :] = True
            if n > 2:
                mask[-1] = True
        return x, TextFeatures(sentence, words, mask)


def holder(norm: nn.Module) -> nn.Module | None:
    """The module that holds the running statistics, the norm itself or a child; ``None`` where nothing does."""
    return next((module for module in norm.modules() if "running_mean" in module._buffers), None)


def statistics(norm: nn.Module) -> dict[str, Tensor]:
    """A copy of every buffer."""
    return {name: buffer.clone() for name, buffer in norm.named_buffers()}


def plain(norm: nn.Module, x: Tensor) -> Tensor:
    """Batch normalisation of ``x`` with the norm's own scale, shift and statistics, which it leaves alone."""
    bn = holder(norm)
    assert bn is not None, "no module of the norm has a buffer running_mean, which this rule needs to compare with"
    mean, var = (None, None) if norm.training else (bn.running_mean, bn.running_var)
    weight, bias = getattr(bn, "weight", None), getattr(bn, "bias", None)
    eps = getattr(bn, "eps", 1e-5)
    return F.batch_norm(x, mean, var, weight, bias, norm.training, 0.0, eps)  # pyright: ignore[reportArgumentType]


def leaves(x: Tensor, text: TextFeatures) -> tuple[Tensor, TextFeatures]:
    """The same input, asking for gradients."""
    asked = each(text, lambda t: t.detach().clone().requires_grad_() if t.is_floating_point() else t)
    return x.detach().clone().requires_grad_(), asked


def each(text: TextFeatures, change: Callable[[Tensor], Tensor]) -> TextFeatures:
    """``change`` applied to every field that is there."""
    return TextFeatures(*(None if t is None else change(t) for t in text))


def cast(text: TextFeatures, dtype: torch.dtype) -> TextFeatures:
    """Both cues in ``dtype``."""
    return each(text, lambda t: t.to(dtype) if t.is_floating_point() else t)


def same(got: Tensor, want: Tensor, what: str, *, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    """Require equal tensors; ``what`` says which, in the message."""
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol, msg=lambda told: f"{what}: {told}")


def _what(error: Exception) -> str:
    return str(error) if isinstance(error, AssertionError) and str(error) else f"{type(error).__name__}: {error}"
