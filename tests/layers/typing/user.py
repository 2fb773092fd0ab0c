"""A user's file as pyright reads it in strict mode: what is right passes, and what is marked as an error is one.

Not run: tests/layers/test_typing.py has it checked. An ignored error that is none is itself reported.
"""

from __future__ import annotations

from typing import assert_type

import torch
from torch import Tensor, nn

import scbn
from scbn import (
    SentenceSCBN,
    SiameseContrastiveLoss,
    TextFeatures,
    TreeGenerator,
    VisualSemanticEmbedding,
    WordSCBN,
)

text = TextFeatures(torch.randn(2, 6), torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.bool))
x = torch.randn(2, 4, 8, 8)
assert_type(text.to("cpu").map(torch.Tensor.detach).select(slice(1)), TextFeatures)
assert_type(TextFeatures.stack([text.select(0), text.select(1)]), TextFeatures)

sentence, words = SentenceSCBN(4, 6), WordSCBN(4, 5, sentence_dim=6)
assert_type(sentence(x, text), Tensor)
assert_type(words(x, text), Tensor)
assert_type(words(x, text=text), Tensor)
assert_type(words.attention(x, text), Tensor)
assert_type(VisualSemanticEmbedding(4, 5)(x, text), Tensor)
assert_type(SentenceSCBN.from_batch_norm(nn.BatchNorm2d(4), 6), SentenceSCBN)
sentence(x)  # pyright: ignore[reportCallIssue]
words(x, "a bird")  # pyright: ignore[reportArgumentType]

generator = TreeGenerator(6, 5, stages=2, base_size=8, norm=["sentence", nn.BatchNorm2d])
assert_type(generator(torch.randn(2, 100), text).images, tuple[Tensor, ...])
TreeGenerator(6, 5, norm="wrod")  # pyright: ignore[reportArgumentType]

assert_type(SiameseContrastiveLoss(reduction="none")(x, x, torch.ones(2, dtype=torch.bool)), Tensor)
SiameseContrastiveLoss(reduction="average")  # pyright: ignore[reportArgumentType]

with scbn.ops.use_backend("eager"):
    sentence(x, text)
scbn.ops.set_backend("fast")  # pyright: ignore[reportArgumentType]


def read(x: Tensor, sent_emb: Tensor) -> TextFeatures:
    return TextFeatures(sent_emb)


report = scbn.retrofit(nn.Sequential(nn.BatchNorm2d(4)), {"0": "sentence"}, text=read, sentence_dim=6)
assert_type(report, scbn.Retrofit)
assert_type(report.new_parameters(), list[nn.Parameter])
scbn.retrofit(nn.Sequential(nn.BatchNorm2d(4)), {"0": "wrod"}, text=read)  # pyright: ignore[reportArgumentType]
