"""Bad input to every public name: a ValueError that says the rule, what came, and what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from scbn import (
    SentenceSCBN,
    SiameseContrastiveLoss,
    TextFeatures,
    TreeGenerator,
    VisualSemanticEmbedding,
    WordSCBN,
)

X = torch.randn(2, 8, 4, 4)
S, W = torch.randn(2, 5), torch.randn(2, 3, 6)
M = torch.zeros(2, 3, dtype=torch.bool)
V = torch.randn(4, 3)
SAME = torch.tensor([True, False, True, False])

sentence, word, both = SentenceSCBN(8, 5), WordSCBN(8, 6), WordSCBN(8, 6, sentence_dim=5)
vse, loss = VisualSemanticEmbedding(8, 6), SiameseContrastiveLoss()
tree = TreeGenerator(5, 6, stages=1, base_size=4, channels=4, noise_dim=3, condition_dim=4)
Z = torch.randn(2, 3)

CASES: dict[str, tuple[Callable[[], object], str]] = {
    # x
    "x of rank 1": (
        lambda: sentence(X[0, :, 0, 0], S),
        r"x must have shape \(N, C\).*got x.shape=torch.Size\(\[8\]\)",
    ),
    "x of rank 6": (lambda: word(X[..., None, None], W), r"x must have shape.*got x.shape="),
    "x with other channels": (lambda: word(X[:, :5], W), r"num_features=8 channels, got x.shape=.*permute"),
    "x channels last by shape": (lambda: vse(X.movedim(1, -1), W), r"axis 1 of x.*channels first"),
    "x of integers": (
        lambda: sentence(X.int(), S),
        r"floating point, got x.dtype=torch.int32; convert.*x.float\(\)",
    ),
    "x of integers, embedding": (lambda: vse(X.int(), W), r"floating point"),
    "x no tensor": (lambda: sentence([1.0], S), r"x must be a tensor of shape .*got list"),
    "x float64, layer float32": (lambda: word(X.double(), W), r"layer holds torch.float32; call layer.double\(\)"),
    "attention on other channels": (lambda: word.attention(X[:, :5], W), r"num_features=8"),
    # sentence
    "sentence missing": (
        lambda: sentence(X, TextFeatures(words=W)),
        r"needs the sentence cue.*pass TextFeatures\(sentence",
    ),
    "sentence missing, both": (lambda: both(X, TextFeatures(words=W)), r"needs the sentence cue"),
    "sentence of rank 3": (
        lambda: sentence(X, W),
        r"sentence must have shape \(N, 5\), got sentence.shape=\(2, 3, 6\)",
    ),
    "sentence of other size": (lambda: sentence(X, S[:, :4]), r"last axis of sentence must have 5 features"),
    "sentence of integers": (
        lambda: sentence(X, S.long()),
        r"floating point, got sentence.dtype=torch.int64; pass encoded",
    ),
    "sentence of another batch": (lambda: sentence(X, S[:1]), r"same batch size.*repeat the text"),
    "sentence no tensor": (lambda: sentence(X, "a bird"), r"must be a tensor.*got str; pass TextFeatures"),
    # words
    "words missing": (lambda: word(X, TextFeatures(S)), r"needs the word cue.*pass TextFeatures\(words"),
    "words missing, embedding": (lambda: vse(X, TextFeatures(S)), r"needs the word cue"),
    "words for both cues": (lambda: both(X, W), r"needs both cues.*pass TextFeatures\(sentence=..., words=...\)"),
    "words of rank 2": (lambda: word(X, S), r"words must have shape \(N, T, 6\), got words.shape=\(2, 5\)"),
    "words as AttnGAN has them": (lambda: word(X, W.mT), r"last axis of words must have 6.*transpose \(AttnGAN"),
    "word indices": (lambda: word(X, W.long()), r"not word indices"),
    "no words": (lambda: word(X, W[:, :0]), r"at least one word.*mask it"),
    "words of another batch": (lambda: word(X, W[:1]), r"same batch size, got x.shape="),
    # mask
    "mask of numbers": (
        lambda: word(X, TextFeatures(words=W, padding_mask=M.float())),
        r"must be bool with True = padding.*mask.bool\(\)",
    ),
    "mask of another length": (
        lambda: word(X, TextFeatures(words=W, padding_mask=M[:, :2])),
        r"shape \(N, T\) = \(2, 3\), got",
    ),
    "mask of another batch": (
        lambda: vse(X, TextFeatures(words=W, padding_mask=M[:1])),
        r"shape \(N, T\) = \(2, 3\)",
    ),
    "mask of rank 3": (lambda: word(X, TextFeatures(words=W, padding_mask=M[..., None])), r"shape \(N, T\)"),
    "mask no tensor": (lambda: word(X, TextFeatures(words=W, padding_mask=[0])), r"must be bool.*got list"),
    "mask of another batch, sentence": (
        lambda: sentence(X, TextFeatures(S, padding_mask=M[:1])),
        r"padding_mask must have shape",
    ),
    "mask elsewhere": (
        lambda: word(X, TextFeatures(words=W, padding_mask=M.to("meta"))),
        r"padding_mask is on meta.*move it",
    ),
    # construction
    "negative features": (
        lambda: SentenceSCBN(-1, 5),
        r"num_features must be a whole number of at least 1, got num_features=-1",
    ),
    "no features": (lambda: WordSCBN(0, 6), r"num_features must be"),
    "fractional features": (lambda: WordSCBN(8.0, 6), r"num_features must be a whole number"),
    "no sentence_dim": (lambda: SentenceSCBN(8, 0), r"sentence_dim must be"),
    "no hidden_dim": (lambda: SentenceSCBN(8, 5, hidden_dim=0), r"hidden_dim must be"),
    "negative word_dim": (lambda: WordSCBN(8, -6), r"word_dim must be"),
    "negative sentence_dim of both": (lambda: WordSCBN(8, 6, sentence_dim=-5), r"sentence_dim must be"),
    "hidden without sentence": (lambda: WordSCBN(8, 6, hidden_dim=4), r"hidden_dim belongs to the sentence cue"),
    "embedding without features": (lambda: VisualSemanticEmbedding(0, 6), r"num_features must be"),
    "embedding without words": (lambda: VisualSemanticEmbedding(8, True), r"word_dim must be"),
    "adopting a convolution": (
        lambda: SentenceSCBN.from_batch_norm(nn.Conv2d(3, 8, 1), 5),
        r"adopts nn.BatchNorm.*got Conv2d",
    ),
    "adopting an instance norm": (
        lambda: WordSCBN.from_batch_norm(nn.InstanceNorm2d(8), 6),
        r"got InstanceNorm2d",
    ),
    "adopting a lazy norm": (
        lambda: WordSCBN.from_batch_norm(nn.LazyBatchNorm2d(), 6),
        r"no features yet; run the model once",
    ),
    "adopting twice settled": (
        lambda: WordSCBN.from_batch_norm(nn.BatchNorm2d(8), 6, eps=1.0),
        r"\['eps'\] come from the batch norm",
    ),
    "x float64, no statistics": (
        lambda: SentenceSCBN(8, 5, affine=False, track_running_stats=False)(X.double(), S),
        r"call layer.double",
    ),
    "x float64, embedding": (lambda: vse(X.double(), W), r"call layer.double"),
    "scale NaN": (lambda: WordSCBN(8, 6, scale=float("nan")), r"scale must be a finite number, got scale=nan"),
    "scale no number": (lambda: VisualSemanticEmbedding(8, 6, scale="x"), r"scale must be a finite number"),
    "mask of no words": (
        lambda: sentence(X, TextFeatures(S, padding_mask=M[:, :0])),
        r"padding_mask must have shape",
    ),
    "words a list beside a mask": (lambda: word(X, TextFeatures(S, [1], M)), r"words must be a tensor"),
    # loss
    "alpha above margin": (
        lambda: SiameseContrastiveLoss(0.1, 0.2),
        r"alpha must not exceed margin, got alpha=0.2 and margin=0.1",
    ),
    "negative alpha": (
        lambda: SiameseContrastiveLoss(alpha=-0.1),
        r"alpha must not be negative.*alpha=0 is the classic",
    ),
    "no margin": (lambda: SiameseContrastiveLoss(margin=0.0), r"margin must be positive, got margin=0.0"),
    "margin NaN": (lambda: SiameseContrastiveLoss(margin=float("nan")), r"margin must be a finite number"),
    "margin no number": (lambda: SiameseContrastiveLoss("1"), r"margin must be a finite number"),
    "margin infinite": (lambda: SiameseContrastiveLoss(float("inf")), r"margin must be a finite number"),
    "alpha NaN": (lambda: SiameseContrastiveLoss(alpha=float("nan")), r"alpha must be a finite number"),
    "unknown reduction": (
        lambda: SiameseContrastiveLoss(reduction="avg"),
        r"reduction must be one of .*got reduction='avg'",
    ),
    "no stages": (lambda: loss([], [], SAME), r"sequence of them, one a stage, got no stage"),
    "no features at all": (lambda: loss(None, V, SAME), r"v1 must be a tensor .*got NoneType"),
    "other number of stages": (lambda: loss([V], [V, V], SAME), r"as many stages, got 1 and 2"),
    "feature maps": (lambda: loss(V[..., None], V[..., None], SAME), r"shape \(N, F\).*v.flatten\(1\)"),
    "features of other sizes": (lambda: loss(V, V[:, :2], SAME), r"v1 and v2 must have the same shape"),
    "features of integers": (lambda: loss(V.int(), V.int(), SAME), r"v1 must be floating point"),
    "flags as numbers": (lambda: loss(V, V, SAME.int()), r"same must be a bool tensor, True = .*labels.bool\(\)"),
    "flags as a list": (lambda: loss(V, V, [True] * 4), r"same must be a bool tensor.*got list"),
    "flags of another batch": (lambda: loss(V, V, SAME[:2]), r"same must have shape \(N,\) = \(4,\)"),
    "no pairs": (lambda: loss(V[:0], V[:0], SAME[:0]), r"no pairs is undefined"),
    # generator
    "no stage count": (lambda: TreeGenerator(5, 6, stages=0), r"stages must be"),
    "base size 6": (lambda: TreeGenerator(5, 6, base_size=6), r"base_size must be 4, 8, 16.*got base_size=6"),
    "base size 2": (lambda: TreeGenerator(5, 6, base_size=2), r"base_size must be 4, 8, 16"),
    "channels of other stages": (
        lambda: TreeGenerator(5, 6, stages=3, channels=(4, 4)),
        r"channels must be one value or one for each of the 3",
    ),
    "negative channels": (lambda: TreeGenerator(5, 6, channels=-4), r"channels must be"),
    "negative residual blocks": (lambda: TreeGenerator(5, 6, residual_blocks=-1), r"residual_blocks must be"),
    "unknown norm": (
        lambda: TreeGenerator(5, 6, norm="layer"),
        r"norm must be one of .*'both'.* or a callable.*got norm='layer'",
    ),
    "norm no callable": (lambda: TreeGenerator(5, 6, norm=3), r"norm must be one of"),
    "norms of other stages": (
        lambda: TreeGenerator(5, 6, norm=("batch", "word")),
        r"norm must be one value or one for each",
    ),
    "words without a size": (
        lambda: TreeGenerator(5, norm="word"),
        r"norm='word' attends to words; pass word_dim",
    ),
    "negative word_dim of tree": (lambda: TreeGenerator(5, -6), r"word_dim must be"),
    "no noise": (lambda: TreeGenerator(5, 6, noise_dim=0), r"noise_dim must be"),
    "noise of another size": (
        lambda: tree(Z[:, :2], TextFeatures(S, W, M)),
        r"noise must have shape .*= \(N, 3\).*torch.randn",
    ),
    "noise of integers": (lambda: tree(Z.int(), TextFeatures(S, W, M)), r"noise must be floating point"),
    "noise no tensor": (lambda: tree(3, TextFeatures(S, W, M)), r"noise must have shape.*got int"),
    "text a tensor": (lambda: tree(Z, S), r"text must be a TextFeatures\(sentence=..., words=...\), got Tensor"),
    "text without sentence": (lambda: tree(Z, TextFeatures(words=W)), r"needs the sentence cue"),
    "text without words": (
        lambda: TreeGenerator(5, 6, stages=1, base_size=8, noise_dim=3)(Z, TextFeatures(S)),
        r"needs the word cue",
    ),
    "text of another batch": (lambda: tree(Z[:1], TextFeatures(S, W, M)), r"same batch size"),
    "condition noise a list": (
        lambda: tree(Z, TextFeatures(S, W, M), condition_noise=[0]),
        r"condition_noise must be a tensor",
    ),
    "condition noise": (
        lambda: tree(Z, TextFeatures(S, W, M), condition_noise=Z),
        r"condition_noise must have shape \(2, 4\)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_says_what_to_do(name: str) -> None:
    call, message = CASES[name]
    layers = (sentence, word, both)
    before = [copy.deepcopy(layer.state_dict()) for layer in layers]
    with pytest.raises(ValueError, match=message):
        call()
    for layer, state in zip(layers, before, strict=True):
        for key, value in layer.state_dict().items():
            assert torch.equal(value, state[key]), f"{key} changed although the call failed"


@pytest.mark.parametrize("layer", [sentence, word, both], ids=["sentence", "word", "both"])
def test_a_single_value_per_channel_fails_as_batch_norm_does(layer: nn.Module) -> None:
    x, text = torch.randn(1, 8, 1, 1), TextFeatures(S[:1], W[:1], M[:1])
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as theirs:
        nn.BatchNorm2d(8)(x)
    layer = copy.deepcopy(layer)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as ours:
        layer(x, text)
    assert str(ours.value) == str(theirs.value)
    assert layer.bn.num_batches_tracked == 0
    assert layer.eval()(x, text).shape == x.shape


def test_unknown_arguments_are_not_swallowed() -> None:
    for build in (partial(SentenceSCBN, 8, 5), partial(WordSCBN, 8, 6), partial(TreeGenerator, 5, 6)):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            build(sentence_dims=3)
