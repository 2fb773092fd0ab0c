"""DAMSM, AttnGAN's deep attentional multimodal similarity model: does this text belong to this image?

Source: Xu et al., "AttnGAN", CVPR 2018, arXiv 1711.10485, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scbn import TextFeatures


def word_similarity(regions: Tensor, text: TextFeatures, gamma1: float, gamma2: float) -> Tensor:
    r"""How well every image fits every caption, word by word, all pairs at once.

    .. math::
        \bar s_{tr} = \mathrm{softmax}_t(e_t \cdot v_r), \quad
        c_t = \sum_r \mathrm{softmax}_r(\gamma_1 \bar s_{tr}) v_r, \quad
        R = \log \sum_t \exp(\gamma_2 \cos(c_t, e_t))

    Args:
        regions: (B, D, H, W).
        text: words (C, T, D) and their padding mask.
        gamma1, gamma2: smoothing over regions and over words.

    Returns:
        (B, C): image b against caption c.
    """
    words, mask = text.words, text.padding_mask
    assert words is not None and mask is not None
    context = regions.flatten(2).float()
    words = words.float()
    scores = torch.einsum("ctd,bdr->bctr", words, context)
    hidden = mask[None, :, :, None]
    attention = scores.masked_fill(hidden, -torch.inf).softmax(2)
    attention = (gamma1 * attention).softmax(3)
    # The attended context c_t = sum_r a_r v_r is never built, for all pairs it would be the largest tensor by far:
    # e . c = sum_r a_r (e . v_r), and |c|^2 = a' V'V a.
    dot = (attention * scores).sum(3)
    gram = torch.einsum("bdr,bds->brs", context, context)
    length = (attention * torch.einsum("bctr,brs->bcts", attention, gram)).sum(3).clamp(min=1e-12).sqrt()
    cosine = dot / (length * words.norm(dim=2)).clamp(min=1e-8)
    return (gamma2 * cosine).masked_fill(mask[None], -torch.inf).logsumexp(2)


def damsm_loss(
    regions: Tensor,
    code: Tensor,
    text: TextFeatures,
    classes: Tensor | None,
    gammas: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    """Words loss and sentence loss of a batch in which image i belongs to caption i.

    Other pairs of the same class are left out: their captions may well fit.

    Args:
        regions: (B, D, H, W); code: (B, D); text: of B captions.
        classes: (B,) int64, or ``None`` where the data has no classes.
        gammas: smoothing over regions, words, captions.

    Returns:
        Two scalars, each the sum of image-to-text and text-to-image cross-entropy.
    """
    gamma1, gamma2, gamma3 = gammas
    assert text.sentence is not None
    word = gamma3 * word_similarity(regions, text, gamma1, gamma2)
    sentence = gamma3 * F.cosine_similarity(code.float()[:, None], text.sentence.float()[None], dim=2)
    target = torch.arange(len(code), device=code.device)
    if classes is not None:
        alike = (classes[:, None] == classes[None]) & ~torch.eye(len(code), dtype=torch.bool, device=code.device)
        word, sentence = word.masked_fill(alike, -torch.inf), sentence.masked_fill(alike, -torch.inf)

    def both_ways(scores: Tensor) -> Tensor:
        return F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)

    return both_ways(word), both_ways(sentence)
