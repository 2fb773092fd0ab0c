"""The one value of text that flows through everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data._utils import collate
from typing_extensions import Self

from scbn.hidden_states import cues

Value = TypeVar("Value", bound=type)


def known_to_torch(cls: Value) -> Value:
    """A named tuple that exported programs may take and return, and that ``torch.load`` reads with ``weights_only``."""
    pytree._register_namedtuple(cls, serialized_type_name=f"scbn.{cls.__name__}")
    torch.serialization.add_safe_globals([cls])
    return cls


@known_to_torch
class TextFeatures(NamedTuple):
    """What a text encoder knows of a batch of captions.

    Every field is optional; a layer asks for the cue it needs and says so if that cue is missing.

    Args:
        sentence: ``(N, D_s)`` floating, one vector a caption.
        words: ``(N, T, D_w)`` floating, batch first, one vector a word.
        padding_mask: ``(N, T)`` bool, ``True`` where a word is padding (the convention of
            :class:`torch.nn.MultiheadAttention`). ``None``: no word is padding.

    Padding contributes exactly nothing, whatever it holds (NaN and inf included). A caption that is nothing
    but padding conditions on nothing: its ``sentence`` is ignored as well.

    Fields are read by name, by unpacking, or, as of any tuple, by number. :meth:`select` picks captions; so does a
    subscript that is no number: ``text[:2]`` is the first two captions. ``DataLoader`` stacks single captions (:meth:`stack`), and programs that take this
    value can be exported and saved.
    """

    sentence: Tensor | None = None
    words: Tensor | None = None
    padding_mask: Tensor | None = None

    @classmethod
    def from_hidden_states(
        cls,
        last_hidden_state: Tensor,
        attention_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        *,
        special_tokens_mask: Tensor | None = None,
    ) -> Self:
        r"""From what a text model of ``transformers`` returns: BERT, CLIP's text tower, T5's encoder, GPT-2.

        ``words`` are the token states. ``sentence`` is ``pooled``, or the mean of the token states,
        :math:`\sum_t m_t h_t / \sum_t m_t` with :math:`m` = ``attention_mask``.

        Args:
            last_hidden_state: (N, T, D) floating.
            attention_mask: (N, T) of integers or bool as tokenizers give it, 1 where there is a token (the opposite of
                ``padding_mask``); ``None`` where no caption has padding.
            pooled: (N, D_s), a sentence vector of the model's own (``pooler_output``, CLIP's ``text_embeds``).
            special_tokens_mask: (N, T), 1 at tokens that are no words ([CLS], <eos>): they are in the mean, but no word
                attention goes to them. Tokenizers give it with ``return_special_tokens_mask=True``.

        Raises:
            ValueError: a shape, dtype or device is wrong; on the CPU also a mask with other values than 0 and 1, or with a
                caption of no token, which an inverted mask has.
        """
        return cls(*cues(last_hidden_state, attention_mask, pooled, special_tokens_mask))

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """``function`` of each field that there is."""
        return type(self)(*(None if field is None else function(field) for field in self))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Every field on another device or in another dtype; arguments as :meth:`torch.Tensor.to`. The mask stays bool."""
        return self.map(
            lambda t: t.to(*args, **kwargs) if t.is_floating_point() else t.to(*args, **kwargs).to(t.dtype)
        )

    def select(self, index: int | slice | Sequence[int] | Tensor) -> Self:
        """The captions at ``index``: a number, a slice, a list of numbers, or a tensor of numbers or bool."""
        if isinstance(index, tuple):
            raise ValueError(
                f"captions are picked by one index, got {index!r}; for words or features index a field"
            )
        return self.map(lambda t: t[index])

    def __getitem__(self, index: Any) -> Any:
        # By number, a field: programs that torch.export writes read a tuple so. All else would be a surprise.
        return tuple.__getitem__(self, index) if isinstance(index, Integral) else self.select(index)

    @classmethod
    def stack(cls, captions: Sequence[TextFeatures]) -> Self:
        """A batch of single captions, each without the axis N: shorter ones are padded, and the padding masked.

        Args:
            captions: with ``sentence`` (D_s,), ``words`` (T, D_w) and ``padding_mask`` (T,), as far as there are; all have
                the same fields, but a mask is needed only where a caption has padding already.

        Raises:
            ValueError: no caption, or a sentence or words that only some have.
        """
        if len(captions) == 0:
            raise ValueError("there is no batch of no captions; pass one at least")
        for name in ("sentence", "words"):
            present = [getattr(one, name) is not None for one in captions]
            if any(present) != all(present):
                raise ValueError(
                    f"captions of one batch must have the same fields: {name} is None in {present.count(False)} of "
                    f"{len(present)}"
                )
        captions = [one.map(_tensor) for one in captions]  # a data set's own may be NumPy's
        sentences = [one.sentence for one in captions if one.sentence is not None]
        words = [one.words for one in captions if one.words is not None]
        masks = [one.padding_mask for one in captions if one.padding_mask is not None]
        lengths = {len(one) for one in words}
        if not words and masks and len(masks) < len(captions):
            raise ValueError(
                f"captions without words must all have a padding_mask or none, got {len(masks)} of {len(captions)}"
            )
        if words and (masks or len(lengths) > 1):
            masks = [
                word.new_zeros(len(word), dtype=torch.bool) if one.padding_mask is None else one.padding_mask
                for one, word in zip(captions, words, strict=True)
            ]
        pad = torch.nn.utils.rnn.pad_sequence
        return cls(
            torch.stack(sentences) if sentences else None,
            pad(words, batch_first=True) if words else None,
            pad(masks, batch_first=True, padding_value=1.0) if masks else None,
        )


def _tensor(field: Any) -> Tensor:
    return field if isinstance(field, Tensor) else torch.as_tensor(field, device="cpu")


def _collate(batch: Sequence[TextFeatures], *, collate_fn_map: object = None) -> TextFeatures:
    return TextFeatures.stack(batch)


# DataLoader's default would stop at a field that is None.
collate.default_collate_fn_map[TextFeatures] = _collate


def empty_captions(padding_mask: Tensor) -> Tensor:
    """(N,) bool: the captions that are nothing but padding, of a mask (N, T); they condition on nothing."""
    return padding_mask.all(1)
