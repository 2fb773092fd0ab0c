"""Layers and inputs that many tests share, and what the oracle says of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scbn import SentenceSCBN, TextFeatures, WordSCBN, reference
from scbn.ops import sentence as fused_sentence
from scbn.ops import word as fused_word

WORD_DIM, SENTENCE_DIM = 6, 5
CUES = ("sentence", "word", "both")
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
    torch.float32: {"rtol": 3e-4, "atol": 3e-5},
}


@dataclass(frozen=True)
class Case:
    """A shape of x, how many words, and whether some are padding."""

    shape: tuple[int, ...]
    words: int = 4
    padded: bool = False
    layout: torch.memory_format = torch.contiguous_format

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        last = "" if self.layout == torch.contiguous_format else "-last"
        return f"{size}-T{self.words}{'-padded' if self.padded else ''}{last}"


CASES = (
    Case((3, 8, 4, 5)),
    Case((3, 8, 4, 5), padded=True),
    Case((2, 7, 3, 5), words=1),
    Case((4, 3, 1, 1), padded=True),
    Case((1, 4, 6, 6)),
    Case((3, 1, 4, 4), padded=True),
    Case((6, 5), words=3, padded=True),
    Case((3, 5, 7), padded=True),
    Case((2, 4, 2, 3, 4), padded=True),
    Case((3, 8, 4, 5), padded=True, layout=torch.channels_last),
    Case((3, 4, 2, 3, 4), padded=True, layout=torch.channels_last_3d),
    Case((2, 33, 9, 7), words=64, padded=True),
)


def layer_of(cue: str, channels: int, dtype: torch.dtype = torch.float64, **kwargs) -> SentenceSCBN | WordSCBN:
    """A layer of the cue, with every parameter and statistic away from its initial value."""
    if cue == "sentence":
        layer = SentenceSCBN(channels, SENTENCE_DIM, dtype=dtype, **kwargs)
    else:
        sentence = SENTENCE_DIM if cue == "both" else None
        layer = WordSCBN(channels, WORD_DIM, sentence_dim=sentence, dtype=dtype, **kwargs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.1)
        if layer.bn.running_mean is not None and layer.bn.running_var is not None:
            layer.bn.running_mean.normal_()
            layer.bn.running_var.uniform_(0.5, 2)
    return layer


def inputs_of(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, TextFeatures]:
    """x and text; with padding, the second sample loses words and the last, where there are three, all of them."""
    n = case.shape[0]
    x = (torch.randn(case.shape, dtype=dtype) * 1.5 + 0.3).contiguous(memory_format=case.layout)
    words = torch.randn(n, case.words, WORD_DIM, dtype=dtype)
    sentence = torch.randn(n, SENTENCE_DIM, dtype=dtype)
    mask = None
    if case.padded:
        mask = torch.zeros(n, case.words, dtype=torch.bool)
        mask[1:, (case.words + 1) // 2 :] = True
        if n > 2:
            mask[-1] = True
    return x, TextFeatures(sentence, words, mask)


def oracle(layer: nn.Module, x: Tensor, text: TextFeatures) -> Tensor:
    """What the layer must return, computed by the formula in the dtype of x."""
    bn = layer.bn
    assert isinstance(bn, nn.BatchNorm2d)
    parameters = dict(layer.named_parameters())
    if bn.training or bn.running_mean is None or bn.running_var is None:
        mean, var = reference.batch_statistics(x)
    else:
        mean, var = bn.running_mean, bn.running_var
    if isinstance(layer, WordSCBN):
        return reference.word_scbn(x, text, parameters, mean, var, bn.eps, layer.scale)
    return reference.sentence_scbn(x, text, parameters, mean, var, bn.eps)


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal within the tolerance of the dtype."""
    torch.testing.assert_close(actual, expected.to(actual.dtype), **TOLERANCE[dtype])


def check_ops(dtype: torch.dtype, backend: str, device: str = "cpu") -> None:
    """torch.library.opcheck on every operation of a backend, with and without mask and given statistics."""

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    x, tables, own = made(2, 3, 8), [made(2, 4, 3) for _ in range(3)], [made(3), made(3)]
    padding = torch.tensor([[False, False, True, True], [False] * 4], device=device)
    stats = torch.zeros(3, dtype=dtype, device=device), torch.ones(3, dtype=dtype, device=device)
    leaves = [t.clone().requires_grad_() for t in (x, *tables, *own)]
    for mask, given in ((padding, (None, None)), (None, stats)):
        torch.library.opcheck(fused_word.word_norm_op, (*leaves, mask, *given, 1e-5, 0.7, "", backend))
    rest = (padding, *stats, 1e-5, 0.7, True, "", backend)
    torch.library.opcheck(fused_word.word_norm_backward_op, (x, x, *tables, *own, *rest))
    pair = [made(2, 3), made(2, 3)]
    for given in ((None, None), stats):
        leaves = [t.clone().requires_grad_() for t in (x, *pair)]
        torch.library.opcheck(fused_sentence.sentence_norm_op, (*leaves, *given, 1e-5, "", backend))
    torch.library.opcheck(fused_sentence.sentence_norm_backward_op, (x, x, *pair, *stats, 1e-5, True, "", backend))
