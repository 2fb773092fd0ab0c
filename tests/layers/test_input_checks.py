"""Tensors and settings that no layer can work with are refused by name."""

from __future__ import annotations

import pytest
import torch
from helpers.cases import SENTENCE_DIM, WORD_DIM
from torch import nn

from scbn import (
    SentenceSCBN,
    SiameseContrastiveLoss,
    TextFeatures,
    TreeGenerator,
    VisualSemanticEmbedding,
    WordSCBN,
)

X, S, W = torch.randn(2, 8, 4, 4), torch.randn(2, SENTENCE_DIM), torch.randn(2, 3, WORD_DIM)


V, SAME = torch.randn(3, 4), torch.tensor([True, False, True])


ELSEWHERE = {
    "x": (
        lambda: SentenceSCBN(8, SENTENCE_DIM)(X.to("meta"), S.to("meta")),
        "x is on meta but the layer is on cpu",
    ),
    "x of the embedding": (
        lambda: VisualSemanticEmbedding(8, WORD_DIM).attention(X.to("meta"), W.to("meta")),
        "x is on meta but the layer is on cpu",
    ),
    "sentence": (lambda: SentenceSCBN(8, SENTENCE_DIM)(X, S.to("meta")), "sentence is on meta but x is on cpu"),
    "words": (lambda: WordSCBN(8, WORD_DIM)(X, W.to("meta")), r"words is on meta.*words.to\('cpu'\)"),
    "v2": (lambda: SiameseContrastiveLoss()(V, V.to("meta"), SAME), "v2 is on meta but v1 is on cpu"),
    "same": (lambda: SiameseContrastiveLoss()(V, V, SAME.to("meta")), "same is on meta but v1 is on cpu"),
    "noise and text": (
        lambda: TreeGenerator(5, norm="sentence", stages=1, base_size=4, noise_dim=4)(
            V.to("meta"), TextFeatures(torch.randn(3, 5, device="meta"))
        ),
        "noise is on meta but the generator is on cpu",
    ),
    "condition noise": (
        lambda: TreeGenerator(5, norm="sentence", stages=1, base_size=4, noise_dim=4, condition_dim=4)(
            V, TextFeatures(torch.randn(3, 5)), condition_noise=V.to("meta")
        ),
        "condition_noise is on meta but the generator is on cpu",
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_tensor_on_another_device_is_refused_by_name(name: str) -> None:
    call, message = ELSEWHERE[name]
    with pytest.raises(ValueError, match=message):
        call()


SPARSE = {
    "x": lambda: SentenceSCBN(8, SENTENCE_DIM)(X.to_sparse(), S),
    "sentence": lambda: SentenceSCBN(8, SENTENCE_DIM)(X, S.to_sparse()),
    "words": lambda: WordSCBN(8, WORD_DIM)(X, W.to_sparse()),
    "padding_mask": lambda: WordSCBN(8, WORD_DIM)(X, TextFeatures(None, W, torch.zeros(2, 3).bool().to_sparse())),
    "v2": lambda: SiameseContrastiveLoss()(V, V.to_sparse(), SAME),
    "same": lambda: SiameseContrastiveLoss()(V, V, SAME.to_sparse()),
    "noise": lambda: TreeGenerator(5, norm="batch", stages=1, base_size=4, noise_dim=4)(
        V.to_sparse(), TextFeatures(torch.randn(3, 5))
    ),
}


@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_tensor_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be dense, got {name}.layout=.*to_dense\(\)"):
        SPARSE[name]()


def test_a_float8_map_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"x must be float64, float32, .*got x.dtype=torch.float8_e4m3fn; convert"
    ):
        SentenceSCBN(8, SENTENCE_DIM)(X.to(torch.float8_e4m3fn), S)


def eight(t: torch.Tensor) -> torch.Tensor:
    return t.to(torch.float8_e4m3fn)


FLOAT8 = {
    "sentence": lambda: SentenceSCBN(8, SENTENCE_DIM)(X, TextFeatures(eight(S), None, torch.zeros(2, 3).bool())),
    "words": lambda: WordSCBN(8, WORD_DIM)(X, TextFeatures(None, eight(W), torch.zeros(2, 3).bool())),
    "v1": lambda: SiameseContrastiveLoss()(eight(V), V, SAME),
    "v2": lambda: SiameseContrastiveLoss()(V, eight(V), SAME),
    "noise": lambda: TreeGenerator(5, norm="sentence", stages=1, base_size=4, noise_dim=4)(
        eight(V), TextFeatures(torch.randn(3, 5))
    ),
}


@pytest.mark.parametrize("name", FLOAT8)
def test_a_float8_cue_or_feature_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be float64, float32, .*got .*float8_e4m3fn"):
        FLOAT8[name]()


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_condition_noise_that_is_not_floating_is_refused(dtype: torch.dtype) -> None:
    generator = TreeGenerator(5, norm="sentence", stages=1, base_size=4, noise_dim=4, condition_dim=4)
    with pytest.raises(ValueError, match=r"condition_noise must be floating point, got condition_noise.dtype="):
        generator(V, TextFeatures(torch.randn(3, 5)), condition_noise=torch.ones(3, 4, dtype=dtype))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": None}, "eps must be a finite number, got eps=None"),
        ({"eps": 0.0}, "eps must be positive, got eps=0.0"),
        ({"eps": float("nan")}, "eps must be a finite number"),
        ({"momentum": "0.1"}, "momentum must be a finite number, got momentum='0.1'"),
        ({"momentum": True}, "momentum must be a finite number"),
        ({"dtype": torch.int64}, r"dtype must be torch.float32, .*got dtype=torch.int64"),
        ({"dtype": torch.float8_e4m3fn}, "dtype must be torch.float32"),
        ({"dtype": "float32"}, "got dtype='float32'"),
    ],
    ids=str,
)
def test_settings_no_norm_can_work_with_are_refused_when_it_is_made(options, message: str) -> None:
    for make in (SentenceSCBN, WordSCBN):
        with pytest.raises(ValueError, match=message):
            make(8, 5, **options)
    if "dtype" in options:
        with pytest.raises(ValueError, match=message):
            VisualSemanticEmbedding(8, 5, **options)
        with pytest.raises(ValueError, match=message):
            WordSCBN.from_batch_norm(nn.BatchNorm2d(8), 5, **options)
    assert SentenceSCBN(8, 5, momentum=None).bn.momentum is None
