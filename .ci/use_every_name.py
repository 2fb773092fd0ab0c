"""Use each public name of an installed scbn once; run by smoke.py where nothing but the core dependencies exists."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import torch
from torch import nn

import scbn

assert Path(sys.prefix) in Path(scbn.__file__).parents, f"not the installed package: {scbn.__file__}"
assert importlib.metadata.version("scbn") == scbn.__version__
assert (Path(scbn.__file__).parent / "py.typed").is_file()
for name in ("numpy", "torchvision", "lightning", "pytest", "mkdocs", "examples", "benchmarks", "tests"):
    assert importlib.util.find_spec(name) is None, f"{name} is here: the environment is not clean"

text = scbn.TextFeatures(torch.randn(2, 6), torch.randn(2, 3, 5), torch.tensor([[False] * 3, [True] * 3]))
x = torch.randn(2, 4, 8, 8)


class Host(nn.Module):
    """A generator with the names of AttnGAN's, as small as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.h_net1 = nn.ModuleDict({"upsample1": nn.BatchNorm2d(4)})
        self.ca_net = nn.ModuleDict({"fc": nn.Linear(6, 4)})

    def forward(self, x, sent_emb, checkpointed=False):
        norm = self.h_net1["upsample1"]
        return scbn.checkpoint(norm, x) if checkpointed else norm(x)


def layer(norm: nn.Module) -> None:
    leaf = x.clone().requires_grad_()
    y = norm(leaf, text)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    with scbn.ops.use_backend("eager"):
        expected = norm.eval()(x, text)
    with scbn.ops.use_backend("cpu"):
        torch.testing.assert_close(norm.eval()(x, text), expected, rtol=1e-4, atol=1e-5)


def retrofitted() -> Host:
    host = Host()
    report = scbn.retrofit_attngan(host)
    assert isinstance(report, scbn.Retrofit) and len(report.replaced) == 1
    return host


def compiled() -> None:
    norm = scbn.WordSCBN(4, 5, sentence_dim=6)
    expected = norm(x, text)
    torch.testing.assert_close(torch.compile(norm, fullgraph=True)(x, text), expected, rtol=1e-4, atol=1e-5)


def generator() -> None:
    made = scbn.TreeGenerator(6, 5, stages=2, base_size=8, channels=4, residual_blocks=1)
    output = made(torch.randn(2, 100), text)
    assert isinstance(output, scbn.TreeOutput)
    assert output.images[1].shape == (2, 3, 16, 16)


def loss() -> None:
    value = scbn.SiameseContrastiveLoss()(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([True, False]))
    torch.testing.assert_close(value, torch.tensor(0.75))  # (3 + 0) / 4


def norms() -> None:
    (norm,) = scbn.norm_layers(Host())
    assert isinstance(norm, scbn.NormLayer)
    assert (norm.name, norm.channels) == ("h_net1.upsample1", 4)


def embedding() -> None:
    vse = scbn.VisualSemanticEmbedding(4, 5)(x, text)
    assert vse.shape == x.shape
    assert vse[1].eq(0).all()  # the second caption is nothing but padding


def checkpointed() -> None:
    leaf = x.clone().requires_grad_()
    retrofitted()(leaf, text.sentence, True).sum().backward()
    assert leaf.grad is not None


def by_hand() -> None:
    host = Host()
    before = host.eval()(x, text.sentence)
    scbn.retrofit(
        host, {"*": "sentence"}, text=lambda x, sent_emb, *_: scbn.TextFeatures(sent_emb), sentence_dim=6
    )
    torch.testing.assert_close(host(x, text.sentence), before)
    assert scbn.unretrofit(host) == ("h_net1.upsample1",)


def loaded_back() -> None:
    model, again = retrofitted(), Host()
    assert scbn.load_retrofitted(again, scbn.retrofitted_state(model)).names == ("h_net1.upsample1",)


USED = {
    "NormLayer": norms,
    "Retrofit": retrofitted,
    "SentenceSCBN": lambda: layer(scbn.SentenceSCBN(4, 6)),
    "SiameseContrastiveLoss": loss,
    "TextFeatures": lambda: layer(scbn.WordSCBN(4, 5, sentence_dim=6)),
    "TreeGenerator": generator,
    "TreeOutput": generator,
    "VisualSemanticEmbedding": embedding,
    "WordSCBN": lambda: layer(scbn.WordSCBN(4, 5)),
    "checkpoint": checkpointed,
    "load_retrofitted": loaded_back,
    "norm_layers": norms,
    "retrofit": by_hand,
    "retrofit_attngan": retrofitted,
    "retrofitted_state": loaded_back,
    "unretrofit": by_hand,
}
differ = sorted(set(USED) ^ set(scbn.__all__))
assert not differ, f"{__file__}: use each public name once; missing or gone: {differ}"
for use in dict.fromkeys(USED.values()):
    use()
compiled()
print(f"scbn {scbn.__version__}: {len(USED)} public names used, one compiled, torch {torch.__version__}")
