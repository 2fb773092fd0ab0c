"""Text features from what transformers' models return: masks the other way round, special tokens, pooling."""

from __future__ import annotations

import pytest
import torch

from scbn import TextFeatures, WordSCBN

STATES = torch.randn(3, 5, 4)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
SPECIAL = torch.tensor([[1, 0, 0, 0, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.int32])
def test_words_mask_and_mean(dtype: torch.dtype) -> None:
    text = TextFeatures.from_hidden_states(STATES, MASK.to(dtype))
    assert text.words is STATES
    assert torch.equal(text.padding_mask, MASK == 0)
    torch.testing.assert_close(text.sentence[1], STATES[1, :3].mean(0))
    assert text.sentence.dtype == STATES.dtype
    assert TextFeatures.from_hidden_states(STATES).padding_mask is None


def test_padding_reaches_no_sentence_whatever_it_holds() -> None:
    states = STATES.clone()
    states[MASK == 0] = torch.nan
    states.requires_grad_()
    text = TextFeatures.from_hidden_states(states, MASK)
    text.sentence.sum().backward()
    assert text.sentence.isfinite().all() and states.grad[MASK == 0].eq(0).all()


def test_special_tokens_are_no_words() -> None:
    text = TextFeatures.from_hidden_states(STATES, MASK, special_tokens_mask=SPECIAL)
    assert torch.equal(text.padding_mask, (MASK == 0) | (SPECIAL == 1))
    torch.testing.assert_close(text.sentence[2], STATES[2, :2].mean(0))  # but the mean has them
    layer, x = WordSCBN(6, 4), torch.randn(3, 6, 2, 2)
    attention = layer.attention(x, text)
    assert attention[0, [0, 4]].eq(0).all()
    assert attention[2].eq(0).all()  # a caption of special tokens alone is empty


def test_a_models_own_sentence() -> None:
    pooled = torch.randn(3, 7)
    assert TextFeatures.from_hidden_states(STATES, MASK, pooled).sentence is pooled


def test_half_precision_is_pooled_in_single() -> None:
    states = torch.full((1, 3000, 2), 1.001, dtype=torch.bfloat16)
    mask = torch.ones(1, 3000, dtype=torch.int64)
    assert TextFeatures.from_hidden_states(states, mask).sentence.eq(states[:, 0]).all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            (STATES, 1 - MASK),
            "no token in caption 0: it is 1 where there is a token, so this may be a padding mask",
        ),
        ((STATES, torch.zeros_like(MASK)), "no token in caption 0"),
        ((STATES, MASK * 2), "attention_mask must hold 0 and 1, got values from 0 to 2"),
        ((STATES, MASK.float()), "of integers or bool with 1 = token, got torch.float32"),
        ((STATES, MASK[:, :4]), r"attention_mask must be \(N, T\) = \(3, 5\), got torch.int64 of shape \(3, 4\)"),
        ((STATES, MASK.tolist()), "attention_mask must be .* got list"),
        ((STATES, MASK.to("meta")), "attention_mask is on meta, last_hidden_state on cpu"),
        (
            (STATES[0], MASK),
            r"last_hidden_state must be floating, \(N, T, D\), got torch.float32 of shape \(5, 4\)",
        ),
        (((STATES,), MASK), "got tuple; of a model's output take output.last_hidden_state"),
        ((STATES.long(), MASK), "last_hidden_state must be floating"),
        ((STATES, MASK, torch.randn(2, 4)), "pooled must be .* with N=3"),
        ((STATES, MASK, "cls"), "pooled must be .* got str"),
    ],
)
def test_what_cannot_be_read_is_refused(arguments: tuple, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TextFeatures.from_hidden_states(*arguments)


def test_it_compiles_in_one_graph() -> None:
    def both(states, mask, special):
        return TextFeatures.from_hidden_states(states, mask, special_tokens_mask=special)

    compiled = torch.compile(both, fullgraph=True, backend="eager")
    for a, b in zip(compiled(STATES, MASK, SPECIAL), both(STATES, MASK, SPECIAL), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["Bert", "CLIPText", "T5Encoder", "GPT2"])
def test_models_of_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    small = {
        "Bert": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
        "CLIPText": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
        "T5Encoder": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 8, "d_kv": 4},
        "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    }[kind]
    config = getattr(transformers, f"{kind.removesuffix('Encoder')}Config")(vocab_size=50, **small)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    tokens = torch.randint(3, 40, (3, 5))
    with torch.no_grad():
        output = model(input_ids=tokens, attention_mask=MASK)
    text = TextFeatures.from_hidden_states(output.last_hidden_state, MASK, getattr(output, "pooler_output", None))
    assert WordSCBN(6, 16, sentence_dim=16)(torch.randn(3, 6, 4, 4), text).shape == (3, 6, 4, 4)
