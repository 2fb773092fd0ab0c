"""Matching text and image encoder before anything is generated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn

from examples.sdgan.config import Config
from examples.sdgan.data.dataset import CaptionedImages, to_float
from examples.sdgan.data.pairs import PairBatch
from examples.sdgan.losses.damsm import damsm_loss
from examples.sdgan.models.encoders import AnyTextEncoder, InceptionImageEncoder, SmallImageEncoder
from examples.sdgan.training.distributed import average_gradients, broadcast_buffers, gather, gather_text
from examples.sdgan.training.phase import Batches, Phase

if TYPE_CHECKING:
    from examples.sdgan.training.trainer import Trainer


class EncoderTraining(Phase):
    """First the image encoder learns the data's labels (where asked for), then both encoders learn to match.

    From scratch, matching alone gets nowhere in minutes; the labels stand in for ImageNet, which taught Inception.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: Config,
        text: AnyTextEncoder,
        image: SmallImageEncoder | InceptionImageEncoder,
        data: CaptionedImages,
    ) -> None:
        self.name, self.steps = "encoders", config.encoder_steps
        self.batches = Batches(config.encoder.batch_size // 2, same=0.0, seed=config.seed)
        self.fabric, self.options = fabric, config.encoder
        targets = data.labels
        # Of classes of hardly more than one image each, there is nothing to learn but the images.
        if targets is None and data.classes is not None and 2 * len(data.classes.unique()) <= len(data.classes):
            targets = data.classes[:, None]
        can_learn = targets is not None and isinstance(image, SmallImageEncoder)
        self.label_steps = int(self.steps * self.options.label_share) if can_learn else 0
        self.targets = None if targets is None else targets.to(fabric.device)
        self.sizes = [] if targets is None else [int(n) + 1 for n in targets.max(0).values]
        self.labels = nn.Linear(image.features, max(sum(self.sizes), 1)).to(fabric.device)
        self.text, self.image = text, image
        learning = [p for m in (text, image, self.labels) for p in m.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            learning, self.options.lr, weight_decay=self.options.weight_decay, fused=True
        )

    def step(self, step: int, batch: PairBatch) -> dict[str, Tensor]:
        """One update; the learning rate rises and falls once in each of the two parts."""
        labels = step < self.label_steps
        done = step / self.label_steps if labels else (step - self.label_steps) / (self.steps - self.label_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * min(done * 10 + 0.05, 0.5 * (1 + math.cos(math.pi * done)))
        for encoder in (self.text, self.image):  # what is given, with all its weights, is left as it is
            encoder.train(any(p.requires_grad for p in encoder.parameters()))
        images = to_float(batch.images).contiguous(memory_format=torch.channels_last)
        losses = self._labels(images, batch) if labels else self._match(images, batch)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        average_gradients(self.fabric, (p for group in self.optimizer.param_groups for p in group["params"]))
        nn.utils.clip_grad_norm_(self.text.parameters(), self.options.text_clip)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _labels(self, images: Tensor, batch: PairBatch) -> dict[str, Tensor]:
        assert self.targets is not None
        target = self.targets[batch.indices]
        with self.fabric.autocast():
            logits = self.labels(self.image.trunk(images)[1]).float().split(self.sizes, 1)
        parts = [F.cross_entropy(logit, t) for logit, t in zip(logits, target.unbind(1), strict=True)]
        return {"labels": torch.stack(parts).mean()}

    def _match(self, images: Tensor, batch: PairBatch) -> dict[str, Tensor]:
        with self.fabric.autocast():
            regions, code = self.image(images)
            text = self.text(batch.tokens, batch.on_host)
        gammas = (self.options.gamma1, self.options.gamma2, self.options.gamma3)
        # Every caption of the joint batch is a negative.
        fabric = self.fabric
        word, sentence = damsm_loss(
            gather(fabric, regions),
            gather(fabric, code),
            gather_text(fabric, text),
            gather(fabric, batch.classes),
            gammas,
        )
        return {"words": word, "sentence": sentence}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the encoders."""
        return {"optimizer": self.optimizer.state_dict(), "labels": self.labels.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.labels.load_state_dict(state["labels"])


def train_encoders(trainer: Trainer) -> None:
    """Match text and image encoder, as far as that is not done."""
    run = trainer.workspace
    trainer.fit(EncoderTraining(run.fabric, run.config, run.text, run.image, run.train))
    # Of a resumed run too: from here on, both are asked, with nothing dropped out.
    run.text.eval()
    run.image.eval()
    # Without --sync-batch-norm each process has statistics of its own, and DAMSM must have one encoder.
    broadcast_buffers(run.fabric, run.image)
