"""The generator that the options describe, and the statistics that an averaged one is given."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from examples.attngan.adapter import Adapter
from examples.attngan.generator import Generator as AttnGAN
from examples.sdgan.config import Config, GeneratorOptions
from examples.sdgan.models.arms import AttentionStage, ConditionalBatchNorm, SentenceAffine
from scbn import Retrofit, TextFeatures, TreeGenerator, retrofit_attngan
from scbn.generator.stages import InitialStage, RefinementStage


def build_generator(config: Config) -> TreeGenerator | Adapter:
    """The generator that the options describe; both kinds are called alike."""
    options = config.generator
    if options.architecture != "tree":
        host = build_attngan(config)
        add_norms(host, options)
        return Adapter(host, options.condition_dim)
    dim = config.encoder.dim
    rivals = {"affine": SentenceAffine, "cbn": ConditionalBatchNorm}
    norms: list[Any] = [
        partial(rivals[name], sentence_dim=dim) if name in rivals else name
        for name in options.norms or (options.norm,) * len(options.channels)
    ]
    later = partial(AttentionStage, word_dim=dim) if options.attention else RefinementStage
    return TreeGenerator(
        dim,
        dim,
        stages=len(options.channels),
        base_size=config.base_size,
        channels=options.channels,
        residual_blocks=options.residual_blocks,
        norm=tuple(norms),
        noise_dim=options.noise_dim,
        condition_dim=options.condition_dim,
        initial_stage=partial(InitialStage, activation=options.activation),
        refinement_stage=partial(later, activation=options.activation),
    )


def build_attngan(config: Config) -> AttnGAN:
    """AttnGAN's generator of the options' sizes, as published: without what the options ask of its norms."""
    g, dim = config.generator, config.encoder.dim
    stages, single = len(g.channels), g.architecture == "attndcgan"
    return AttnGAN(
        g.channels[0], dim, dim, g.condition_dim, g.noise_dim, g.residual_blocks, stages, config.base_size, single
    )


def add_norms(host: nn.Module, options: GeneratorOptions) -> Retrofit | None:
    """Retrofit an AttnGAN with what the options ask of its norms; nothing for batch."""
    if options.norm == "batch":
        return None
    layers: dict[str, Any] | None = None if options.norm == "both" else {"h_net*upsample*": options.norm}
    return retrofit_attngan(host, layers, fix_mask=options.fix_mask)


@torch.no_grad()
def standing_statistics(generator: Any, draws: Iterable[tuple[Tensor, TextFeatures]]) -> None:
    """Give an averaged generator the batch norm statistics of its own activations.

    Averaged running statistics belong to the weights of many steps, not to their average.

    Args:
        generator: changed in place; left in eval mode.
        draws: noise and text, a batch each.
    """
    norms = [module for module in generator.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    generator.train()
    for noise, text in draws:
        # The mean condition, as in sampling: a drawn one would be another distribution.
        mean = noise.new_zeros(len(noise), generator.augment.condition_dim)
        generator(noise, text, condition_noise=mean)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()
