"""The retrofit in one line for AttnGAN and the generators that keep its layer names."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scbn.ops.eager import masked_words
from scbn.retrofitting import advice
from scbn.retrofitting.binding import HOLDER
from scbn.retrofitting.replace import STOOD_FOR, Cue, norm_layers, retrofit
from scbn.retrofitting.report import NormLayer, Retrofit, table
from scbn.text import TextFeatures


class AttnGANText:
    """The text among the arguments of an AttnGAN's forward: words (N, D, T) there, mask (N, T) with True = padding.

    Args:
        sentence, words, mask: positions of the arguments; ``None`` for those the forward has not.
    """

    def __init__(self, sentence: int | None, words: int | None, mask: int | None) -> None:
        self.sentence, self.words, self.mask = sentence, words, mask

    def __call__(self, *args: Any, **_: Any) -> TextFeatures:
        sentence, words, mask = (
            args[at] if at is not None and at < len(args) else None
            for at in (self.sentence, self.words, self.mask)
        )
        return TextFeatures(
            sentence,
            None if words is None else words.transpose(1, 2),
            None if mask is None or words is None else mask.bool(),
        )


def retrofit_attngan(
    netG: nn.Module,
    layers: Mapping[str, Cue] | None = None,
    *,
    fix_mask: bool = False,
    hidden_dim: int | None = None,
    scale: float = 1.0,
) -> Retrofit:
    """:func:`retrofit` for AttnGAN and its relatives: SCBN at the end of each upsampling layer, as SD-GAN has it.

    The first stage, which has no word attention of its own either, is conditioned on the sentence, later stages on the words.
    Sizes are read from the model. Works on AttnGAN's ``G_NET`` and ``G_DCGAN``, DM-GAN, ControlGAN, MirrorGAN, and, with
    the sentence alone, StackGAN-v2.

    Args:
        netG: a generator with upsampling layers ``h_net<i>.upsample*``. Which arguments of its forward are sentence, words
            and mask is read from their names (``sent_emb``, ``word_embs``, ``caption``, ...).
        layers: other patterns and cues than these.
        fix_mask: correct AttnGAN's attention mask, which is tiled so that the pixels of one sample use the mask of
            another (taoxugit/AttnGAN#93). Off by default: it changes what a trained generator draws for batches with
            captions of different lengths, so step 0 is no longer identical.
        hidden_dim, scale: as in :func:`retrofit`.

    Returns:
        As :func:`retrofit`.

    Raises:
        ValueError: as :func:`retrofit`; and ``netG`` is a wrapper, has no batch norm or no layers of these names (the
            message holds the call of :func:`retrofit` that would fit), no argument looks like text, sizes cannot be read,
            or ``fix_mask`` finds no attention to correct.
    """
    if advice.wrapped(netG):
        raise ValueError(advice.wrapped(netG))
    norms = norm_layers(netG)
    if not norms:
        raise ValueError(advice.no_norms(netG))
    at, keyword = advice.text_arguments(netG), advice.by_keyword_only(netG)
    if keyword:
        raise ValueError(
            f"{type(netG).__name__}.forward takes {keyword} by keyword only; use scbn.retrofit with a text callable of the same "
            "arguments, which makes scbn.TextFeatures of them"
        )
    if at.sentence is None:
        names = list(inspect.signature(netG.forward).parameters)
        raise ValueError(
            f"{type(netG).__name__}.forward takes {names}, none of which is called like a sentence (sent_emb, "
            "text_embedding, caption, c, ...); use scbn.retrofit with a text callable of your own, which makes "
            "scbn.TextFeatures of these arguments"
        )
    if layers is None:
        later: Cue = "sentence" if at.words is None else "word"
        wanted: dict[str, Cue] = {
            "h_net1.upsample*": "sentence",
            "h_net[2-9].upsample*": later,
            "h_net[2-9].*.upsample*": later,
        }
        present = [norm.name for norm in norms if norm.problem is None]
        layers = {p: cue for p, cue in wanted.items() if fnmatch.filter(present, p)}
        if not layers:
            raise ValueError(_no_layers(netG, norms))
    if at.words is None and any(cue in ("word", "both") for cue in layers.values()):
        names = list(inspect.signature(netG.forward).parameters)
        raise ValueError(
            f"{type(netG).__name__}.forward takes {names}, none of which is called like words (word_embs, tokens, ...), which "
            "the cue of a layer asks for; use the cue 'sentence', or scbn.retrofit with a text callable of your own"
        )
    if fix_mask and not _attentions(netG):
        raise ValueError(
            f"fix_mask: {type(netG).__name__} has no attention with AttnGAN's applyMask and conv_context"
        )
    report = retrofit(
        netG,
        layers,
        text=AttnGANText(*at),
        sentence_dim=_sentence_dim(netG),
        word_dim=_word_dim(netG) or _sentence_dim(netG),
        hidden_dim=hidden_dim,
        scale=scale,
    )
    if fix_mask:
        fix_masks(netG)
    return report


def fix_masks(model: nn.Module) -> None:
    """Put :class:`MaskedAttention` in the place of every attention of AttnGAN's kind."""
    for parent, child in _attentions(model):
        parent._modules[child] = MaskedAttention(parent.get_submodule(child))
    getattr(model, HOLDER).fix_mask = True


def masks_fixed(model: nn.Module) -> bool:
    """Whether :func:`fix_masks` was here."""
    return getattr(model, HOLDER).fix_mask


def _no_layers(netG: nn.Module, norms: list[NormLayer]) -> str:
    again = [norm.name for norm in norms if norm.cue]
    if any(name.startswith("h_net") and "upsample" in name for name in again):
        return f"{again} are retrofitted already; call unretrofit first"
    call = advice.call(netG, norms, _sentence_dim(netG), _word_dim(netG))
    return (
        f"{type(netG).__name__} has no norm named h_net<i>.upsample*. "
        + (f"This would fit it:\n{call}\n" if call else "Use scbn.retrofit. ")
        + f"Its norms are:\n{table(norms)}"
    )


class MaskedAttention(nn.Module):
    """AttnGAN's attention with every pixel under the mask of its own sample; parameters under the same names.

    Args:
        original: the module it stands for, whose ``conv_context`` it takes over.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        vars(self)[STOOD_FOR] = original
        self.conv_context: nn.Module = original.conv_context  # pyright: ignore[reportAttributeAccessIssue]
        self.mask: Tensor | None = None
        self.train(original.training)

    def applyMask(self, mask: Tensor | None) -> None:
        """The mask of the call to come, (N, T), True or 1 = padding."""
        self.mask = mask

    def forward(self, input: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from ``input`` (N, C, H, W) to ``context`` (N, D, T): the context (N, C, H, W) and the map (N, T, H, W)."""
        source = self.conv_context(context[..., None])[..., 0]
        logits = torch.bmm(source.mT, input.flatten(2))
        if self.mask is not None:
            logits = logits.masked_fill(masked_words(self.mask.bool())[:, :, None], -torch.inf)
        weights = logits.softmax(1)
        shape = input.shape[2:]
        return torch.bmm(source, weights).unflatten(2, shape), weights.unflatten(2, shape)


def _attentions(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Parent and name of every attention of AttnGAN's kind."""
    return [
        (parent, child)
        for parent in model.modules()
        for child, module in parent.named_children()
        if hasattr(module, "applyMask")
        and hasattr(module, "conv_context")
        and not isinstance(module, MaskedAttention)
    ]


def _sentence_dim(model: nn.Module) -> int | None:
    """What the conditioning augmentation takes."""
    layer = getattr(getattr(model, "ca_net", None), "fc", None)
    return layer.in_features if isinstance(layer, nn.Linear) else None


def _word_dim(model: nn.Module) -> int | None:
    """What the first layer that takes words takes."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)) and name.rpartition(".")[2] in (
            "conv_context",
            "conv_context3",
        ):
            return module.in_channels
    return None
