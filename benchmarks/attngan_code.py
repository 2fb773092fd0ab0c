"""The published AttnGAN code (a checkout of taoxugit/AttnGAN, folder ``code``), made to run on a current PyTorch.

Nothing of it is kept here: the files are read, changed by the replacements below, and run.
"""

from __future__ import annotations

import contextlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.attngan.hosts import EasyDict

REPLACEMENTS = (
    (".data[0]", ".item()"),  # indexing a scalar, gone since PyTorch 0.5
    ("torch.ByteTensor(masks)", "torch.ByteTensor(masks).bool()"),  # masks are bool since 1.2
    ("models.inception_v3()", "models.inception_v3(init_weights=False)"),
    ("model.load_state_dict(model_zoo.load_url(url))", "pass"),  # random weights: speed is what is measured
)
_FILES = {
    "miscc.config": "miscc/config.py",
    "GlobalAttention": "GlobalAttention.py",
    "model": "model.py",
    "miscc.losses": "miscc/losses.py",
}


class AttnGANTraining:
    """Models, optimisers and one step of ``trainer.py``'s ``condGANTrainer.train``.

    Args:
        code: the checkout's folder ``code``.
        words: vocabulary size.
        batch_size: images a step.
        device: where to train.

    Raises:
        ValueError: the folder holds no such code.
    """

    def __init__(self, code: Path, words: int, batch_size: int, device: str) -> None:
        loaded = _load(code, device)
        model, self.losses, cfg = loaded["model"], loaded["miscc.losses"], loaded["miscc.config"].cfg
        cfg.CUDA = device == "cuda"
        cfg.TRAIN.FLAG, cfg.TREE.BRANCH_NUM = True, 3
        cfg.TRAIN.SMOOTH.GAMMA1, cfg.TRAIN.SMOOTH.GAMMA2, cfg.TRAIN.SMOOTH.GAMMA3 = 4.0, 5.0, 10.0
        cfg.TRAIN.SMOOTH.LAMBDA, cfg.TEXT.EMBEDDING_DIM = 5.0, 256
        cfg.GAN.GF_DIM, cfg.GAN.DF_DIM, cfg.GAN.R_NUM = 32, 64, 2  # bird_attn2.yml
        cfg.GAN.CONDITION_DIM, cfg.GAN.Z_DIM = 100, 100
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            self.text = model.RNN_ENCODER(words, nhidden=256).to(device).eval().requires_grad_(False)
            self.image = model.CNN_ENCODER(256).to(device).eval().requires_grad_(False)
            self.generator = model.G_NET().to(device)
            self.discriminators = [m.to(device) for m in (model.D_NET64(), model.D_NET128(), model.D_NET256())]
        self.generator.train()
        self.average = [p.detach().clone() for p in self.generator.parameters()]
        adam: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), **adam)
        self.optimizers_d = [torch.optim.Adam(m.parameters(), **adam) for m in self.discriminators]
        self.real, self.fake = torch.ones(batch_size, device=device), torch.zeros(batch_size, device=device)
        self.match = torch.arange(batch_size, device=device)
        self.noise = torch.empty(batch_size, 100, device=device)

    def step(self, images: list[Tensor], tokens: Tensor, lengths: Tensor, classes: np.ndarray) -> None:
        """As the published loop: captions come sorted by length, the longest first."""
        hidden = self.text.init_hidden(len(tokens))
        words, sentence = self.text(tokens, lengths, hidden)
        words, sentence = words.detach(), sentence.detach()
        mask = (tokens == 0)[:, : words.size(2)]
        self.noise.normal_(0, 1)
        fake, _, mu, logvar = self.generator(self.noise, sentence, words, mask)
        for i, (net, optimizer) in enumerate(zip(self.discriminators, self.optimizers_d, strict=True)):
            net.zero_grad()
            loss = self.losses.discriminator_loss(net, images[i], fake[i], sentence, self.real, self.fake)
            loss.backward()
            optimizer.step()
            f"{loss.item():.2f}"
        self.generator.zero_grad()
        loss, _ = self.losses.generator_loss(
            self.discriminators, self.image, fake, self.real, words, sentence, self.match, lengths, classes
        )
        kl = self.losses.KL_loss(mu, logvar)
        loss += kl
        f"{kl.item():.2f}"
        loss.backward()
        self.optimizer_g.step()
        for p, average in zip(self.generator.parameters(), self.average, strict=True):
            average.mul_(0.999).add_(p.data, alpha=0.001)


def _load(code: Path, device: str) -> dict[str, Any]:
    missing = [name for name in _FILES.values() if not (code / name).is_file()]
    if missing:
        raise ValueError(f"{code}: no checkout of taoxugit/AttnGAN's folder code; it lacks {', '.join(missing)}")
    easydict = types.ModuleType("easydict")
    easydict.EasyDict = EasyDict  # type: ignore[attr-defined]
    miscc = types.ModuleType("miscc")
    miscc.__path__ = []  # type: ignore[attr-defined]
    sys.modules.setdefault("easydict", easydict)
    sys.modules["miscc"] = miscc
    loaded: dict[str, Any] = {}
    for name, file in _FILES.items():
        source = (code / file).read_text(encoding="utf-8")
        for old, new in REPLACEMENTS:
            source = source.replace(old, new)
        module = types.ModuleType(name)
        sys.modules[name] = module
        exec(compile(source, str(code / file), "exec"), module.__dict__)
        loaded[name] = module
    return loaded
