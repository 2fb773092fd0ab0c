"""The measures by hand-made models whose values are known, and the command end to end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers.layouts import described
from helpers.miniature import shrink
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from examples.sdgan import evaluate
from examples.sdgan.data import CaptionedImages
from examples.sdgan.data.birds import ATTRIBUTES
from examples.sdgan.data.drawn import DRAWN
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics import fid
from examples.sdgan.metrics.consistency import Triples, attribute_agreement, distance_ratio, generate_triples
from examples.sdgan.metrics.diversity import diversity
from examples.sdgan.metrics.r_precision import r_precision
from examples.sdgan.plots.comparisons import word_change_sheet
from scbn import TextFeatures

SIZE, DIM = 8, 16


class Drawer:
    """A sampler whose picture is a vector of the caption plus a vector of the noise."""

    def __init__(self, noise_share: float = 0.0, words: str = "own") -> None:
        self.noise_share, self.words = noise_share, words
        self.config = SimpleNamespace(generator=SimpleNamespace(noise_dim=DIM))

    def vector(self, caption: str) -> torch.Tensor:
        # "paraphrases": only the first word, the image's name, counts.
        told = caption.split()[0] if self.words == "paraphrases" else caption
        return torch.randn(
            DIM, generator=torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(told)) % 2**40)
        )

    def images(self, captions: list[str], noise: torch.Tensor) -> torch.Tensor:
        rows = [self.vector(c) + self.noise_share * n for c, n in zip(captions, noise, strict=True)]
        return torch.stack(rows).reshape(-1, 1, 4, 4).repeat(1, 3, 2, 2)

    def encode(self, captions: list[str]) -> TextFeatures:
        return TextFeatures(torch.stack([self.vector(c) for c in captions]))


def features(images: torch.Tensor) -> torch.Tensor:
    return images[:, 0, :4, :4].flatten(1)


def sampler(**kwargs) -> Sampler:
    return cast(Sampler, Drawer(**kwargs))


def test_consistency_of_known_generators() -> None:
    data = described(200)
    unconditional = distance_ratio(generate_triples(sampler(words="paraphrases"), data, 200, 0), features)
    assert unconditional["value"] == 0
    strangers = distance_ratio(generate_triples(sampler(), data, 200, 0), features)
    assert strangers["interval_95"][0] < 1 < strangers["interval_95"][1]
    assert strangers["images"] == 200
    # One noise for all three: it cancels in every distance.
    noisy = distance_ratio(generate_triples(sampler(noise_share=10.0), data, 200, 0), features)
    assert noisy["distance_same"] == pytest.approx(strangers["distance_same"], rel=1e-4)


def test_consistency_needs_paraphrases() -> None:
    with pytest.raises(ValueError, match="two images with two different captions"):
        generate_triples(sampler(), described(5, per=1), 5, 0)
    mixed = CaptionedImages("mixed", cast(Any, None), [["a b"], ["c d", "c d"], ["e f", "e g"], ["h i", "h j"]])
    assert len(generate_triples(sampler(), mixed, 4, 0).captions) == 2


def test_agreement_by_hand() -> None:
    names = list(ATTRIBUTES)  # size, crown, wing, belly, beak
    named = [[["size", "crown"], ["crown", "wing"]], [["beak"], ["beak"]]]
    data = CaptionedImages("x", cast(Any, None), [["a", "b"], ["c", "d"]], named=named, drawn=DRAWN["toy"])
    read = {
        1: torch.tensor([[0, 1, 2, 3, 0], [1, 1, 1, 1, 1]]),
        2: torch.tensor([[0, 1, 0, 3, 1], [0, 1, 1, 0, 1]]),
        3: torch.tensor([[9, 9, 9, 9, 9], [1, 9, 9, 9, 9]]),
    }
    pictures = [torch.full((2, 3, 2, 2), float(k)) for k in read]
    triples = Triples(pictures[0], pictures[1], pictures[2], [0, 1], [(0, 1), (0, 1)])
    found = attribute_agreement(triples, data, lambda images: read[int(images[0, 0, 0, 0])])
    assert len(names) == 5
    assert found["both"] == {"value": 1.0, "interval_95": [1.0, 1.0], "pairs": 2}  # crown of 0, beak of 1
    assert found["one"]["value"] == 0.5  # of image 0: size alike, wing not
    assert found["neither"]["value"] == pytest.approx(
        3 / 6, abs=1e-4
    )  # belly, not beak; crown, wing, not size, belly
    assert found["all"]["value"] == 0.6
    assert found["strangers"]["value"] == 0.1


def test_diversity_of_known_generators() -> None:
    data = described(40)
    assert diversity(sampler(), data, features)["value"] == 0
    # Caption and noise vectors of equal size: changing one is as good as changing the other.
    assert diversity(sampler(noise_share=1.0), data, features)["value"] == pytest.approx(1, abs=0.1)
    assert diversity(sampler(noise_share=3.0), data, features)["value"] == pytest.approx(3, abs=0.3)


class Encoder(torch.nn.Module):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = torch.nn.Parameter(torch.tensor(sign))

    def forward(self, images: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, self.sign.detach() * features(images)


def test_r_precision_of_known_models() -> None:
    data = described(150)
    right = r_precision(sampler(), cast(Any, Encoder(1.0)), data, 0, 150)
    assert (right["value"], right["candidates"], right["draws"]) == (1.0, 100, 10)
    assert r_precision(sampler(), cast(Any, Encoder(-1.0)), data, 0, 150)["value"] == 0
    unconditional = sampler()
    unconditional.vector, encode = lambda caption: Drawer().vector("x"), unconditional.encode  # type: ignore[attr-defined]
    unconditional.encode = lambda captions: TextFeatures(torch.stack([Drawer().vector(c) for c in captions]))  # type: ignore
    assert encode is not None
    assert r_precision(unconditional, cast(Any, Encoder(1.0)), data, 0, 150)["value"] == pytest.approx(
        0.01, abs=0.03
    )
    # 30 classes of 5: the negatives are of the 29 others.
    assert r_precision(sampler(), cast(Any, Encoder(1.0)), described(60, classes=30), 0, 60)["candidates"] == 59
    alone = r_precision(sampler(), cast(Any, Encoder(1.0)), described(10, classes=1), 0, 10)
    assert (alone["value"], alone["candidates"]) == (0.0, 1)  # no negatives, no hits


def test_matching_distance_of_gaussians() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4000, 1, generator=rng) for _ in range(2))

    def distance(x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        return fid.matching_distance(lambda images: torch.cat((images, torch.zeros_like(images)), 1), x, y)

    assert distance(a, a)["value"] == pytest.approx(0, abs=1e-4)
    # (mean shift)^2 + (3 - 1)^2 for standard deviations 3 and 1
    found = distance(a, 3 * b + 2)
    assert found["value"] == pytest.approx(4 + 4, rel=0.1)
    assert found["interval_95"][0] < found["value"] < found["interval_95"][1]
    assert found["floor"] < 0.01


@pytest.fixture(autouse=True)
def _few_birds(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


def test_the_command(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    records = []
    for source in (finished / "checkpoint.pt", finished):
        out = tmp_path / source.name
        assert evaluate.main(["--checkpoint", str(source), "--images", "40", "--out", str(out)]) == 0
        assert "standing statistics" in capsys.readouterr().out
        records.append(json.loads((out / "evaluation.json").read_text()))
        for name in ("evaluation.png", "paraphrases.png"):
            with Image.open(out / name) as image:
                assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert records[0]["measures"] == records[1]["measures"]
    measures = records[0]["measures"]
    assert {"matching_distance", "r_precision", "paraphrase_distance_ratio", "diversity", "agreement_one"} <= set(
        measures
    )
    assert records[0]["generated_images"] == 40
    assert measures["r_precision"]["images"] == 30
    assert records[0]["inception"] == "none"
    known = json.loads((finished / "metrics.json").read_text())["caption_fidelity"]
    assert measures["caption_fidelity"] == known


def test_inception_with_weights_from_a_path(finished: Path, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "inception.pth"
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save({}, path)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("x", ["2048"], str(path))
        for name, value in network.named_parameters():
            if name.endswith("conv.weight"):  # PyTorch's default leaves nothing of an image after so many layers
                torch.nn.init.kaiming_normal_(value)
        torch.save(network.state_dict(), path)
    shrink(monkeypatch.setattr, test=12)
    arguments = ["--checkpoint", str(finished), "--images", "20", "--inception", str(path), "--out", str(tmp_path)]
    assert evaluate.main(arguments) == 0
    measures = json.loads((tmp_path / "evaluation.json").read_text())["measures"]
    assert measures["fid"]["value"] > 0
    assert measures["fid"]["images"] == [12, 20]
    assert measures["kid"]["subset"] == 6
    assert measures["kid"]["std"] > 0
    assert 1 <= measures["inception_score"]["value"] < 1008


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_weights_and_options_that_will_not_do(finished: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(Bomb(), tmp_path / "bomb.pth")
    cases = [
        (["--inception", "nowhere.pth"], "no readable weights"),
        (["--inception", "bomb.pth"], "no readable weights"),
        (["--inception", "other.pth"], "hold another network's weights"),
        (["--images", "3"], "--images must be at least 20"),
        (["--accelerator", "cuda"], "no CUDA device")
        if not torch.cuda.is_available()
        else (["--images", "1"], "20"),
        (["--checkpoint", "nowhere"], "no such checkpoint"),
    ]
    for arguments, message in cases:
        assert evaluate.main(["--checkpoint", str(finished), "--out", "out", *arguments]) == 2
        assert message in capsys.readouterr().out
    assert not (tmp_path / "exploded").exists()


def test_weights_that_cannot_be_downloaded(finished: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    from urllib.error import URLError

    from torch_fidelity import feature_extractor_inceptionv3 as module

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(module, "load_state_dict_from_url", offline)
    arguments = ["--checkpoint", str(finished), "--inception", "download", "--out", str(tmp_path)]
    assert evaluate.main(arguments) == 2
    assert "cannot be downloaded" in capsys.readouterr().out


def test_one_word_at_a_time(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "words.png"
    captions = ["a bird with a red crown", "a bird with a blue crown"]
    word_change_sheet({"a": load_sampler(finished), "b": load_sampler(finished)}, captions, path, "title")
    with Image.open(path) as image:
        assert image.size[0] > 300


def test_images_are_taken_from_all_over_a_sorted_data_set() -> None:
    data = CaptionedImages("x", cast(Any, None), [["a", "b"], ["a"], ["a", "a"], ["c", "d"], ["e", "f"], ["g"]])
    assert data.spread(3) == [0, 2, 4]
    assert data.spread(10) == list(range(6))
    assert data.spread(2, paraphrased=True) == [0, 3]
    assert data.spread(9, paraphrased=True) == [0, 3, 4]
