"""Models that are not AttnGAN's: the message carries their owner through."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import scbn
from scbn.retrofitting.advice import text_arguments


class Stranger(nn.Module):
    """Upsampling layers and arguments of its own naming, as in tree-shaped generators since StackGAN."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(6, 8 * 16)
        self.upsample1 = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, 1, 1), nn.BatchNorm2d(4))
        self.upsample2 = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4))
        self.residual = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4))
        self.image = nn.Conv2d(4, 3, 1)

    def forward(self, noise, sentence_embed, words_embed, word_mask=None):
        h = self.start(noise).view(-1, 8, 4, 4)
        return self.image(self.residual(self.upsample2(self.upsample1(h))))


class OfOneVector(Stranger):
    def forward(self, z, embed_vector):
        return super().forward(z, embed_vector, None)


def arguments(kind: type[nn.Module]) -> dict[str, Any]:
    noise, vector = torch.randn(3, 6), torch.randn(3, 5)
    if kind is OfOneVector:
        return {"z": noise, "embed_vector": vector}
    mask = torch.tensor([[0, 0, 0, 1]] * 3).bool()
    return {"noise": noise, "sentence_embed": vector, "words_embed": torch.randn(3, 7, 4), "word_mask": mask}


@pytest.mark.parametrize("kind", [Stranger, OfOneVector])
def test_the_call_in_the_message_works(kind: type[nn.Module]) -> None:
    model, call = kind().eval(), arguments(kind)
    before = model(**call)
    with pytest.raises(ValueError, match=r"no norm named h_net<i>.upsample\*. This would fit it") as told:
        scbn.retrofit_attngan(model)
    pasted = re.search(r"from scbn.*\nscbn\.retrofit.*\n", str(told.value))
    assert pasted is not None and "=256)  # set it to the size of " in pasted[0]
    exec(
        pasted[0].replace("256", str(call[list(call)[-1 if kind is OfOneVector else 2]].shape[1])),
        {"scbn": scbn, "netG": model},
    )
    assert [norm.name for norm in scbn.norm_layers(model) if norm.cue] == ["upsample1.2", "upsample2.2"]
    torch.testing.assert_close(model(**call), before)
    model.train()(**call).sum().backward()
    heads = [p for name, p in model.named_parameters() if "to_beta.weight" in name or "mlp.2.weight" in name]
    assert heads and all(p.grad is not None and bool(p.grad.any()) for p in heads)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("z_code, sent_emb, word_embs, mask", (1, 2, 3)),
        ("z_code, sent_emb, word_embs, mask, cap_lens", (1, 2, 3)),
        ("noise, sentence_embed, words_embed", (1, 2, None)),
        ("z, embed_vector", (1, None, None)),
        ("noise, c", (1, None, None)),
        ("x, wordEmbs, sentEmb, wordMask", (2, 1, 3)),
        ("z, text_embeddings, token_embeddings, attention_mask", (1, 2, 3)),
        ("z, caption, caption_lengths", (1, None, None)),
        ("z, noise_embedding, text_embedding", (2, None, None)),
        ("x, time_embedding, text_embedding", (2, None, None)),
        ("x, pos_embed, prompt_embeds", (2, None, None)),
        ("z, t_emb, c", (2, None, None)),
        ("z, class_embedding", (None, None, None)),
        ("z, num_words", (None, None, None)),
        ("x", (None, None, None)),
    ],
)
def test_arguments_are_read_by_kind(names: str, found: tuple[int | None, ...]) -> None:
    model, scope = nn.Module(), {}
    exec(f"def forward({names}):\n    pass", scope)
    model.forward = scope["forward"]
    assert text_arguments(model) == found


class Hidden(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, z, c):
        return self.norm(z)


@pytest.mark.parametrize(
    ("norm", "told"),
    [
        (nn.GroupNorm(2, 4), "has no batch norm, but 1 GroupNorm"),
        (
            nn.Sequential(nn.InstanceNorm2d(3), nn.LayerNorm(3), nn.LayerNorm(3)),
            "but 2 LayerNorm, 1 InstanceNorm2d",
        ),
        (nn.Conv2d(3, 3, 1), "has no batch norm and no other norm"),
    ],
)
def test_models_without_batch_norms(norm: nn.Module, told: str) -> None:
    for call in (
        lambda: scbn.retrofit_attngan(Hidden(norm)),
        lambda: scbn.retrofit(Hidden(norm), {"*": "sentence"}, text=lambda z, c: c, sentence_dim=4),
    ):
        with pytest.raises(ValueError, match=f"{told}.*put scbn.SentenceSCBN or scbn.WordSCBN into its code"):
            call()


def test_wrappers() -> None:
    from torch.optim.swa_utils import AveragedModel

    model = Stranger()
    for wrapper, inner in (
        (nn.DataParallel(model), "netG.module, and wrap it after that"),
        (AveragedModel(model), "netG.module, and wrap"),
        (torch.compile(model), "netG._orig_mod, and compile it after that"),
    ):
        with pytest.raises(ValueError, match=f"is a wrapper: give the model inside, {inner}"):
            scbn.retrofit_attngan(wrapper)  # pyright: ignore[reportArgumentType]


def test_names_with_brackets_are_patterns_of_themselves() -> None:
    class Bracketed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ca_net = nn.ModuleDict({"fc": nn.Linear(5, 8)})
            self.up = nn.ModuleDict({"norm[0]": nn.BatchNorm2d(3), "other": nn.BatchNorm2d(3)})

        def forward(self, z, sent_emb):
            return self.up["other"](self.up["norm[0]"](z))

    model = Bracketed()
    scbn.retrofit_attngan(model, {"up.norm[[]0]": "sentence"})
    again = Bracketed()
    assert scbn.load_retrofitted(again, scbn.retrofitted_state(model)).names == ("up.norm[0]",)


@pytest.mark.parametrize(
    ("names", "layers", "told"),
    [
        ("z, *, sent_emb, word_embs=None", {"norm": "sentence"}, "takes sent_emb by keyword only"),
        ("z, caption, *, word_embs=None", {"norm": "sentence"}, "takes word_embs by keyword only"),
        (
            "z, caption",
            {"norm": "word"},
            "none of which is called like words .*, which the cue of a layer asks for",
        ),
    ],
)
def test_text_that_cannot_be_found(names: str, layers: dict[str, Any], told: str) -> None:
    model, scope = Hidden(nn.BatchNorm2d(3)), {}
    exec(f"def forward({names}):\n    pass", scope)
    model.forward = scope["forward"]
    with pytest.raises(ValueError, match=told):
        scbn.retrofit_attngan(model, layers)
