"""Properties that hold for every input, searched by hypothesis."""

from __future__ import annotations

import pytest
import torch
from helpers.cases import CUES, SENTENCE_DIM, WORD_DIM, layer_of
from hypothesis import given
from hypothesis import strategies as st

from scbn import TextFeatures

pytestmark = pytest.mark.usefixtures("backend")

shapes = st.tuples(
    st.integers(2, 4), st.integers(1, 9), st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple)
).map(lambda parts: (parts[0], parts[1], *parts[2]))
poison = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300])
seeds = st.integers(0, 2**31)


def draw(shape: tuple[int, ...], words: int, seed: int) -> tuple[torch.Tensor, TextFeatures]:
    torch.manual_seed(seed)
    n = shape[0]
    text = TextFeatures(
        torch.randn(n, SENTENCE_DIM, dtype=torch.float64),
        torch.randn(n, words, WORD_DIM, dtype=torch.float64),
        torch.zeros(n, words, dtype=torch.bool),
    )
    return torch.randn(shape, dtype=torch.float64), text


@pytest.mark.parametrize("cue", CUES)
@given(shape=shapes, words=st.integers(1, 6), extra=st.integers(1, 5), value=poison, seed=seeds)
def test_padding_contributes_nothing(cue, shape, words, extra, value, seed) -> None:
    x, text = draw(shape, words, seed)
    layer = layer_of(cue, shape[1])
    padding = torch.full((shape[0], extra, WORD_DIM), value, dtype=torch.float64)
    longer = TextFeatures(
        text.sentence,
        torch.cat((text.words, padding), 1).requires_grad_(),
        torch.cat((text.padding_mask, torch.ones(shape[0], extra, dtype=torch.bool)), 1),
    )
    y = layer(x, text)
    padded = layer(x, longer)
    torch.testing.assert_close(padded, y, rtol=1e-10, atol=1e-12)
    padded.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    if cue != "sentence":
        assert torch.equal(longer.words.grad[:, words:], torch.zeros_like(padding))
        maps = layer.attention(x, longer)
        assert torch.equal(maps[:, words:], torch.zeros_like(maps[:, words:]))


@pytest.mark.parametrize("cue", ["word", "both"])
@given(shape=shapes, words=st.integers(2, 6), seed=seeds)
def test_the_order_of_words_permutes_attention_and_leaves_y_alone(cue, shape, words, seed) -> None:
    x, text = draw(shape, words, seed)
    text.padding_mask[:, -1] = True
    layer = layer_of(cue, shape[1])
    order = torch.randperm(words)
    shuffled = TextFeatures(text.sentence, text.words[:, order], text.padding_mask[:, order])
    torch.testing.assert_close(layer(x, shuffled), layer(x, text), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(layer.attention(x, shuffled), layer.attention(x, text)[:, order])


@pytest.mark.parametrize("cue", CUES)
@given(shape=shapes, words=st.integers(1, 6), seed=seeds)
def test_in_eval_mode_a_sample_does_not_depend_on_its_batch(cue, shape, words, seed) -> None:
    x, text = draw(shape, words, seed)
    layer = layer_of(cue, shape[1]).eval()
    together = layer(x, text)
    alone = torch.cat([layer(x[i : i + 1], TextFeatures(*(t[i : i + 1] for t in text))) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cue", CUES)
@given(shape=shapes, words=st.integers(1, 6), value=poison, training=st.booleans(), seed=seeds)
def test_an_empty_caption_is_plain_batch_norm_and_poisons_nothing(
    cue, shape, words, value, training, seed
) -> None:
    if training and shape[0] * torch.Size(shape[2:]).numel() == 1:
        return
    x, text = draw(shape, words, seed)
    layer = layer_of(cue, shape[1]).train(training)
    text.padding_mask[0] = True
    clean = layer(x, text)
    text.words[0], text.sentence[0] = value, value
    for leaf in (text.words, text.sentence):
        leaf.requires_grad_()
    y = layer(x, text)
    assert torch.equal(y, clean)
    mean, var = (None, None) if training else (layer.bn.running_mean, layer.bn.running_var)
    plain = torch.nn.functional.batch_norm(x, mean, var, layer.bn.weight, layer.bn.bias, training)
    torch.testing.assert_close(y[0], plain[0], rtol=1e-10, atol=1e-12)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    for leaf in (text.words, text.sentence):
        assert leaf.grad is None or leaf.grad.isfinite().all()


@given(shape=shapes, words=st.integers(1, 6), seed=seeds)
def test_attention_sums_to_one(shape, words, seed) -> None:
    x, text = draw(shape, words, seed)
    maps = layer_of("word", shape[1]).attention(x, text)
    assert maps.shape == (shape[0], words, *shape[2:])
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum(1), torch.ones_like(maps[:, 0]))
