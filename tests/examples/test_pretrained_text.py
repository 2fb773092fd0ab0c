"""A text model of transformers in the place of the LSTM: trained with, resumed, exported, and what is wrong with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.miniature import shrink
from helpers.text_models import WORDS, text_model
from helpers.training import TINY, same, weights

from examples.sdgan import evaluate, sample, train
from examples.sdgan.config import EncoderOptions
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.models import checkpoint, pretrained_text
from examples.sdgan.models.pretrained_text import PretrainedTextEncoder, TextModelError, revision

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_model(tmp_path_factory.mktemp("text") / "bert")


def options(model: Path, **more: Any) -> EncoderOptions:
    return EncoderOptions(text=str(model), dim=8, words=10, **more)


def test_it_gives_what_the_model_gives(model: Path) -> None:
    encoder = PretrainedTextEncoder(options(model)).eval()
    words = encoder.words()
    captions = ["a small bird with red wings", "a zebra", ""]
    tokens = torch.zeros(3, 10, dtype=torch.int64)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(words.encode(caption))] = torch.tensor(words.encode(caption))
    text = encoder(tokens)
    bert, tokenizer = transformers.BertModel.from_pretrained(model).eval(), words.tokenizer
    batch = tokenizer(captions, padding=True, return_tensors="pt")
    states = bert(**batch).last_hidden_state
    longest = states.shape[1]
    kept = batch["attention_mask"].bool()
    torch.testing.assert_close(text.words[:, :longest][kept], encoder.word(states)[kept], rtol=1e-4, atol=1e-5)
    mean = torch.stack([s[k].mean(0) for s, k in zip(states, kept, strict=True)])
    torch.testing.assert_close(text.sentence, encoder.sentence(mean), rtol=1e-4, atol=1e-5)
    around = [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]
    special = torch.isin(batch["input_ids"], torch.tensor(around))
    assert torch.equal(text.padding_mask[:, :longest], ~kept | special)
    assert text.padding_mask[2].all()  # nothing but special tokens: no caption
    assert words.split(captions[0]) == ["[CLS]", "a", "small", "bird", "with", "red", "wing", "##s", "[SEP]"]
    assert "[UNK]" not in words and "wing" in words


def test_only_projections_are_its_own(model: Path) -> None:
    encoder = PretrainedTextEncoder(options(model))
    assert set(encoder.state_dict()) == {"word.weight", "word.bias", "sentence.weight", "sentence.bias"}
    assert all(p.requires_grad for p in encoder.parameters()) and len(list(encoder.parameters())) == 4
    assert encoder.double().word.weight.dtype == torch.float64
    assert set(PretrainedTextEncoder(options(model), empty=True).state_dict()) == set(encoder.state_dict())


def test_long_captions_keep_their_last_special_token(model: Path) -> None:
    words = PretrainedTextEncoder(options(model)).words()
    assert len(words.encode("a bird with red wings and " * 9)) == 10
    assert words.split("a bird with red wings and " * 9)[-1] == "[SEP]"


def test_captions_are_encoded_once_and_kept(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, encoder = tmp_path / "captions.pt", PretrainedTextEncoder(options(model, text_revision="a")).eval()
    captions = [encoder.words().encode(text) for text in ("a bird", "a small red bird", "a bird")]
    tokens = torch.tensor([captions[0] + [0, 0], captions[1]])
    before = encoder(tokens)
    assert encoder.remember(captions, path, lambda done: None) == ""
    calls: list[int] = []
    original = PretrainedTextEncoder._compute
    monkeypatch.setattr(
        PretrainedTextEncoder, "_compute", lambda self, keys: calls.append(len(keys)) or original(self, keys)
    )
    after = encoder(tokens)
    torch.testing.assert_close(after.words, before.words, rtol=1e-5, atol=1e-6)
    again = PretrainedTextEncoder(options(model, text_revision="a")).eval()
    again.load_state_dict(encoder.state_dict())
    assert again.remember(captions, path, lambda done: None) == ""
    assert torch.equal(again(tokens).words, after.words) and sum(calls) == 0
    other = PretrainedTextEncoder(options(model, text_revision="b")).eval()
    assert "of another model or other captions, computed anew" in other.remember(captions, path, lambda done: None)
    assert sum(calls) == 2
    path.write_bytes(b"broken")
    assert "computed anew" in again.remember(captions, path, lambda done: None)


def test_a_word_it_does_not_know_is_a_word(model: Path) -> None:
    encoder = PretrainedTextEncoder(options(model)).eval()
    tokens = torch.tensor([encoder.words().encode("zebra")])
    assert encoder.words().split("zebra") == ["[CLS]", "[UNK]", "[SEP]"]
    assert encoder(tokens).padding_mask.tolist() == [[True, False, True]]


def test_other_weights_are_another_revision(tmp_path: Path) -> None:
    first, second = (text_model(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 1)))
    assert revision(options(first)) != revision(options(second))
    (second / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes())
    assert revision(options(first)) == revision(options(second))


def test_an_encoder_with_a_decoder_gives_the_encoders_states(tmp_path: Path) -> None:
    folder = text_model(tmp_path / "bart")
    sizes = {"d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes, **heads)
    bart = transformers.BartModel(config).eval()
    bart.save_pretrained(folder)
    encoder = PretrainedTextEncoder(options(folder)).eval()
    indices = encoder.words().encode("a red bird")
    want = bart.get_encoder()(input_ids=torch.tensor([indices]) - 1).last_hidden_state
    torch.testing.assert_close(encoder(torch.tensor([indices])).words, encoder.word(want), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", [1, 2])
def test_room_for_words(words: int, model: Path) -> None:
    with pytest.raises(
        TextModelError, match=rf"--encoder.words {words} leaves no room for words: .* puts 2 tokens around"
    ):
        PretrainedTextEncoder(EncoderOptions(text=str(model), words=words))


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


@pytest.mark.usefixtures("_few")
def test_a_run_from_end_to_end(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = [
        *TINY,
        "--encoder.text",
        str(model),
        "--encoder.words",
        "20",
        "--log",
        "none",
        "--accelerator",
        "cpu",
    ]
    assert train.main([*arguments, "--out", str(one)]) == 0
    state = checkpoint.load(one / "checkpoint.pt")
    stored = json.loads(state["config"])["encoder"]
    assert stored["text"] == str(model) and stored["text_revision"] == revision(EncoderOptions(text=str(model)))
    assert set(state["text"]) == {"word.weight", "word.bias", "sentence.weight", "sentence.bias"}
    assert train.main([*arguments, "--out", str(two), "--steps", "3"]) == 0
    assert train.main([*arguments, "--out", str(two), "--resume"]) == 0
    assert same(weights(one), weights(two))
    for given in (one / "checkpoint.pt", one / "model"):
        assert sample.main(["--checkpoint", str(given), "--caption", "a red bird", "--count", "1"]) == 0
    assert evaluate.main(["--checkpoint", str(one), "--images", "20", "--accelerator", "cpu"]) == 0
    maps = load_sampler(one).attention(["a red bird"], torch.zeros(1, 32))
    assert maps[2] == [["[CLS]", "a", "red", "bird", "[SEP]"]]

    moved = model.with_name("moved")
    model.rename(moved)
    try:
        capsys.readouterr()
        assert sample.main(["--checkpoint", str(one), "--caption", "a red bird"]) == 2
        assert f"--encoder.text {model}: no such folder" in capsys.readouterr().out
        text_model(model, seed=1, layer_norm_eps=1e-6)
        assert sample.main(["--checkpoint", str(one), "--caption", "a red bird"]) == 2
        assert "the run learnt with" in capsys.readouterr().out
        assert train.main([*arguments, "--out", str(two), "--resume"]) == 2
        assert "encoder.text_revision was" in capsys.readouterr().out
        shutil.rmtree(model)
    finally:
        moved.rename(model)


def broken(folder: Path, how: str) -> EncoderOptions:
    model = text_model(folder / "model")
    if how == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
            (model / name).unlink(missing_ok=True)
    if how == "another tokenizer":
        shutil.rmtree(model)
        text_model(model, vocabulary=100)
    if how == "no weights":
        (model / "model.safetensors").unlink()
    if how == "no configuration":
        (model / "config.json").write_text("{")
    if how == "no text model":
        shutil.rmtree(model)
        transformers.ViTConfig(hidden_size=8).save_pretrained(model)
    if how == "not-at/the-hub":
        return EncoderOptions(text=how)
    return options(model if how != "nowhere" else folder / "nowhere", **({"text_revision": ""} if how else {}))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("nowhere", "nowhere: no such folder"),
        ("not-at/the-hub", "its configuration cannot be loaded .*; give the folder of a model, or its name"),
        ("no configuration", "its configuration cannot be loaded"),
        ("no tokenizer", "its tokenizer cannot be loaded"),
        ("another tokenizer", "another model's: it has 17 tokens, the model 100"),
        ("no weights", "its weights cannot be loaded"),
        ("no text model", "is no text model but 'vit'"),
    ],
)
def test_what_is_no_text_model_is_said_in_a_sentence(
    how: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The variable is read when the library is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TextModelError, match=told) as error:
        PretrainedTextEncoder(broken(tmp_path, how))
    assert "\n" not in str(error.value)


def test_captions_longer_than_the_model_reads(model: Path) -> None:
    with pytest.raises(TextModelError, match=r"reads 32 tokens at most, --encoder.words is 40"):
        PretrainedTextEncoder(EncoderOptions(text=str(model), words=40))


def test_without_transformers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TextModelError, match=r"takes transformers: pip install '\.\[hf\]'"):
        pretrained_text.PretrainedTextEncoder(options(model))
