"""The averaged generator as it is at a step, with batch norm statistics of its own: what is drawn and measured."""

from __future__ import annotations

import copy
import random
from typing import Any

from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models.generator import standing_statistics
from examples.sdgan.training.distributed import own_statistics
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.workspace import Workspace

_BATCHES = 20


def snapshot(run: Workspace, gan: GanTraining) -> Sampler:
    """A sampler of the averaged generator, which training goes on without."""
    config = gan.config
    # This process samples alone: its statistics must not wait for others.
    generator: Any = own_statistics(copy.deepcopy(gan.average.module))
    sampler = Sampler(config, run.vocabulary, run.text, generator)
    rng, size = random.Random(config.seed), 2 * config.batch_size
    noise = fixed_noise(_BATCHES * size, config.generator.noise_dim, seed=1).to(run.fabric.device)
    captions = [rng.choice(rng.choice(run.train.captions)) for _ in range(len(noise))]
    # The mean condition, as in sampling.
    draws = (
        (part, sampler.encode(captions[i * size : (i + 1) * size])) for i, part in enumerate(noise.split(size))
    )
    standing_statistics(sampler.generator, draws)
    return sampler
