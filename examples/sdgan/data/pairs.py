"""Siamese pairs: two captions of one image, or of two images, half and half."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from examples.sdgan.data.dataset import CaptionedImages
from examples.sdgan.data.vocabulary import PADDING


class Words(Protocol):
    """What turns a caption into indices, of which 0 is padding."""

    def encode(self, caption: str) -> list[int]: ...


class PairBatch(NamedTuple):
    """B pairs; the first branch's B items come first, then the second's.

    Args:
        images: (2B, 3, S, S) uint8.
        tokens: (2B, T) int64, T the longest caption of the batch.
        same: (B,) bool, ``True`` = both captions of a pair describe one image.
        classes: (2B,) int64, the class, or the image's own index where there are no classes.
        indices: (2B,) int64, which images.
        on_host: ``tokens`` as an array, which stays where it is: what depends on them there asks no GPU.
    """

    images: Tensor
    tokens: Tensor
    same: Tensor
    classes: Tensor
    indices: Tensor
    on_host: np.ndarray | None = None


class SiamesePairs(Dataset[PairBatch]):
    """Batch number ``step``, always the same for one seed: so a resumed run sees what the first would have seen.

    Args:
        data: images and captions.
        vocabulary: to encode captions.
        words: longest caption; of longer ones a random choice of words is kept, in order.
        batch_size: pairs a batch.
        size: pixels.
        seed: of the run.
        same: the share of pairs that are two captions of one image.
        rank, world: every ``world``-th pair from ``rank`` on; the batches of all ranks together are one batch.
    """

    def __init__(
        self,
        data: CaptionedImages,
        vocabulary: Words,
        words: int,
        batch_size: int,
        size: int,
        seed: int,
        same: float = 0.5,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.data, self.words, self.batch_size, self.size, self.seed = data, words, batch_size, size, seed
        # A pair of one image needs two captions of it.
        self.paired = [i for i, captions in enumerate(data.captions) if len(set(captions)) > 1]
        self.alike = int(batch_size * same) if self.paired else 0
        pairs = range(rank, batch_size, world)
        self.mine = [*pairs, *(batch_size + pair for pair in pairs)]
        self.tokens = [[vocabulary.encode(caption) for caption in captions] for captions in data.captions]

    def __len__(self) -> int:
        return 1 << 62

    def __getitem__(self, step: int) -> PairBatch:
        rng = step_rng(self.seed, step)
        count, half = len(self.data), self.alike

        def pick(high: int, n: int) -> Tensor:
            return torch.randint(high, (n,), generator=rng)

        first = pick(count, self.batch_size)
        if 0 < len(self.paired) < count:
            first[:half] = torch.tensor(self.paired)[pick(len(self.paired), half)]
        # A step of at least 1 around the circle of images: never the same image.
        other = (first + 1 + pick(count - 1, self.batch_size)) % count
        same = torch.arange(self.batch_size) < half
        second = torch.where(same, first, other)
        indices = torch.cat((first, second)).tolist()
        chosen = [int(pick(len(self.tokens[i]), 1)) for i in indices]
        for b in range(half):
            shift = 1 + int(pick(len(self.tokens[indices[b]]) - 1, 1))
            chosen[self.batch_size + b] = (chosen[b] + shift) % len(self.tokens[indices[b]])
        captions = [self.tokens[i][c] for i, c in zip(indices, chosen, strict=True)]
        # Known on the host, so trimming costs no synchronisation; attention and DAMSM pay for every word.
        longest = min(self.words, max(map(len, captions)))
        tokens = pad(captions, longest, rng)
        # A generator for each image: whoever loads it crops it alike.
        seeds = pick(1 << 62, len(indices)).tolist()
        images = [
            self.data.images.load([indices[i]], self.size, torch.Generator().manual_seed(seeds[i]))
            for i in self.mine
        ]
        which = torch.tensor(indices)[self.mine]
        classes = which if self.data.classes is None else self.data.classes[which]
        tokens, same = tokens[self.mine], same[self.mine[: len(self.mine) // 2]]
        return PairBatch(torch.cat(images), tokens, same, classes, which, tokens.numpy())


def step_rng(seed: int, step: int) -> torch.Generator:
    """A generator of its own for every step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 62))


def pad(captions: list[list[int]], words: int, rng: torch.Generator | None = None) -> Tensor:
    """Token lists as (N, words) int64; longer captions lose words at random with ``rng``, else at the end."""
    tokens = torch.full((len(captions), words), PADDING)
    for row, caption in zip(tokens, captions, strict=True):
        if len(caption) > words:
            keep = (
                torch.randperm(len(caption), generator=rng)[:words].sort().values
                if rng is not None
                else range(words)
            )
            caption = [caption[int(i)] for i in keep]
        row[: len(caption)] = torch.tensor(caption, dtype=torch.int64)
    return tokens
