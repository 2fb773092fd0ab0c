"""Which generators retrofit_attngan recognises, and by which names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import scbn


class Nested(nn.Module):
    """A relative of AttnGAN whose later stage holds its upsampling one level deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.ca_net = nn.Module()
        self.ca_net.fc = nn.Linear(4, 8)
        self.h_net2 = nn.Module()
        self.h_net2.block = nn.Module()
        self.h_net2.block.upsample = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, z: torch.Tensor, sent_emb: torch.Tensor, word_embs: torch.Tensor) -> torch.Tensor:
        return self.h_net2.block.upsample(z)


def test_upsampling_one_level_deeper_is_found() -> None:
    assert scbn.retrofit_attngan(Nested()).names == ("h_net2.block.upsample.1",)


@pytest.mark.parametrize(
    "names",
    [
        "sent_emb, word_embs, mask",
        "sentence, words, masks",
        "sent_embs, words_embs, word_mask",
        "text_embedding, word_emb",
    ],
)
def test_relatives_call_their_text_by_these_names(names: str) -> None:
    model = Nested()
    # A generator's forward with just these names.
    scope: dict = {}
    exec(f"def forward(z, {names}):\n    return z", scope)
    model.forward = scope["forward"]
    assert scbn.retrofit_attngan(model, {"h_net2*": "both"}).replaced[0].cue == "both"
    text = next(iter(model._forward_pre_hooks.values())).text
    given = [torch.zeros(2, 3), torch.randn(2, 4), torch.randn(2, 4, 6), torch.ones(2, 6)]
    found = text(*given[: 2 + names.count(",")])
    assert torch.equal(found.sentence, given[1])
    assert torch.equal(found.words, given[2].mT)
    assert (found.padding_mask is not None) == ("mask" in names)
