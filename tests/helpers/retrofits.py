"""The smallest retrofit that the command does."""

from __future__ import annotations

TINY = [
    *("--before-steps", "1", "--steps", "2", "--warm-up", "1", "--train.encoder-steps", "2", "--train.size", "32"),
    *("--train.batch-size", "2", "--train.generator.channels", "2", "2", "--train.discriminator.channels", "4"),
    *("--train.encoder.dim", "8", "--train.encoder.embedding-dim", "4", "--train.encoder.batch-size", "4"),
    *("--train.accelerator", "cpu"),
]
