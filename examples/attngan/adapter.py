"""An AttnGAN, of ours or of a checkout, as the trainer of :mod:`examples.sdgan` calls its generators."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from scbn import TextFeatures, TreeOutput
from scbn.retrofitting.binding import RetrofittedWordSCBN


class Adapter(nn.Module):
    """Calls ``host(z_code, sent_emb, word_embs, mask)``; noise of the conditioning augmentation is given from outside.

    Args:
        host: a generator with AttnGAN's forward and a ``ca_net`` that returns code, mean and log-variance.
        condition_dim: length of that code.
    """

    def __init__(self, host: nn.Module, condition_dim: int) -> None:
        super().__init__()
        self.host = host
        self.augment = SimpleNamespace(condition_dim=condition_dim)
        self._condition_noise: Tensor | None = None
        host.get_submodule("ca_net").register_forward_hook(self._condition)

    def forward(self, noise: Tensor, text: TextFeatures, *, condition_noise: Tensor | None = None) -> TreeOutput:
        """As :class:`scbn.TreeGenerator`; without ``condition_noise`` the condition is its mean."""
        assert text.words is not None
        self._condition_noise = condition_noise
        try:
            images, _, mu, logvar = self.host(noise, text.sentence, text.words.mT.contiguous(), text.padding_mask)
        finally:
            self._condition_noise = None
        return TreeOutput(tuple(images), mu, logvar)

    @torch.no_grad()
    def attention(self, noise: Tensor, text: TextFeatures) -> tuple[TreeOutput, dict[str, Tensor]]:
        """Output, and the word map of every retrofitted layer that attends to words."""
        maps: dict[str, Tensor] = {}

        def record(name: str) -> Any:
            def hook(layer: RetrofittedWordSCBN, args: tuple[Tensor, ...]) -> None:
                assert layer.holder.text is not None
                maps[name] = layer.attention(args[0], layer.holder.text)

            return hook

        layers = [(name, m) for name, m in self.host.named_modules() if isinstance(m, RetrofittedWordSCBN)]
        hooks = [layer.register_forward_pre_hook(record(name)) for name, layer in layers]
        try:
            return self(noise, text), maps
        finally:
            for hook in hooks:
                hook.remove()

    def _condition(
        self, module: nn.Module, args: Any, output: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        _, mu, logvar = output
        noise = self._condition_noise
        return (mu if noise is None else mu + noise * (logvar / 2).exp()), mu, logvar
