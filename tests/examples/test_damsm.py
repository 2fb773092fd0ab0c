"""The encoders, and the matching loss against loops over pairs, as the paper writes it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model

from examples.sdgan.config import EncoderOptions
from examples.sdgan.losses.damsm import damsm_loss, word_similarity
from examples.sdgan.models.encoders import InceptionImageEncoder, SmallImageEncoder, TextEncoder, image_encoder
from examples.sdgan.presets import preset
from scbn import TextFeatures

GAMMAS = (4.0, 5.0, 10.0)


def sample(b: int = 5, t: int = 4, d: int = 6) -> tuple[torch.Tensor, torch.Tensor, TextFeatures]:
    regions, code = torch.randn(b, d, 3, 3, dtype=torch.float64), torch.randn(b, d, dtype=torch.float64)
    mask = torch.zeros(b, t, dtype=torch.bool)
    mask[1, 2:] = True
    text = TextFeatures(torch.randn(b, d, dtype=torch.float64), torch.randn(b, t, d, dtype=torch.float64), mask)
    return regions, code, text


def by_hand(regions: torch.Tensor, words: torch.Tensor) -> float:
    """One image (D, H, W) against one caption (T, D)."""
    v = regions.flatten(1)
    s = (words @ v).softmax(0)
    total = 0.0
    for t, word in enumerate(words):
        alpha = (GAMMAS[0] * s[t]).softmax(0)
        context = (alpha * v).sum(1)
        total += math.exp(GAMMAS[1] * float(F.cosine_similarity(context, word, dim=0)))
    return math.log(total)


def test_word_similarity_equals_the_loops() -> None:
    regions, _, text = sample()
    got = word_similarity(regions, text, *GAMMAS[:2])
    for i in range(5):
        for j in range(5):
            words = text.words[j][~text.padding_mask[j]]
            assert float(got[i, j]) == pytest.approx(by_hand(regions[i], words), rel=1e-5)


def test_padding_does_not_matter() -> None:
    regions, code, text = sample()
    other = text._replace(words=text.words.masked_fill(text.padding_mask[:, :, None], 7.0))
    losses = [damsm_loss(regions, code, t, None, GAMMAS) for t in (text, other)]
    torch.testing.assert_close(losses[0], losses[1])


def test_pairs_of_one_class_are_no_negatives() -> None:
    regions, code, text = sample(3)
    classes = torch.tensor([0, 0, 1])
    _, sentence = damsm_loss(regions, code, text, classes, GAMMAS)
    scores = 10 * F.cosine_similarity(code[:, None], text.sentence[None], dim=2).float()
    want = 0.0
    for rows in (scores, scores.T):
        for i, keep in enumerate(([0, 2], [1, 2], [0, 1, 2])):
            want += float(torch.logsumexp(rows[i, keep], 0) - rows[i, i]) / 3
    assert float(sentence) == pytest.approx(want, rel=1e-4)


def test_matching_pairs_lose_less() -> None:
    _, _, text = sample()
    right = damsm_loss(torch.randn(5, 6, 3, 3), text.sentence, text, None, GAMMAS)[1]
    wrong = damsm_loss(torch.randn(5, 6, 3, 3), text.sentence.roll(1, 0), text, None, GAMMAS)[1]
    assert right < wrong


def test_text_encoder_pads_and_masks() -> None:
    encoder = TextEncoder(20, EncoderOptions(embedding_dim=8, dim=6, dropout=0.0)).eval()
    short, long = torch.tensor([[4, 5, 6]]), torch.tensor([[4, 5, 6, 0, 0]])
    a, b = encoder(short), encoder(long)
    torch.testing.assert_close(a.sentence, b.sentence)
    torch.testing.assert_close(a.words, b.words[:, :3])
    assert b.padding_mask.tolist() == [[False, False, False, True, True]]
    assert encoder(torch.zeros(1, 3, dtype=torch.int64)).padding_mask.all()


def test_inception_gives_regions_and_code(tmp_path: Path) -> None:
    random = InceptionImageEncoder(16, "random").train()
    assert not any(m.training for m in random.inception.modules())
    assert {name.split(".")[0] for name, p in random.named_parameters() if p.requires_grad} == {
        "emb_features",
        "emb_code",
    }
    regions, code = random(torch.randn(1, 3, 64, 64))
    assert regions.shape == (1, 16, 17, 17)
    assert code.shape == (1, 16)

    model = get_model("inception_v3", weights=None, init_weights=False)
    torch.save(model.state_dict(), tmp_path / "inception.pth")
    loaded = InceptionImageEncoder(16, str(tmp_path / "inception.pth"))
    images = torch.randn(1, 3, 299, 299)
    want = model.eval().requires_grad_(False)
    want.fc = nn.Identity()
    torch.testing.assert_close(loaded.trunk(images)[1], want(images), rtol=1e-3, atol=1e-4)


def test_unusable_inception_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.pth").write_bytes(b"")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    for weights, message in [
        ("nothing", "neither a file nor the name of torchvision weights"),
        (str(tmp_path / "other.pth"), "no state dict of torchvision's inception_v3"),
        (str(tmp_path / "foreign.pth"), "no state dict of torchvision's inception_v3"),
    ]:
        with pytest.raises(ValueError, match=message):
            InceptionImageEncoder(16, weights)

    def offline(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"cannot be downloaded .*pass the path of a file"):
        InceptionImageEncoder(16, "IMAGENET1K_V1")


def test_the_encoder_fits_the_size() -> None:
    small, large = preset("toy"), preset("cub")
    assert isinstance(image_encoder(small), SmallImageEncoder)
    options = dataclasses.replace(large.encoder, inception_weights="random")
    assert isinstance(image_encoder(dataclasses.replace(large, encoder=options)), InceptionImageEncoder)
