"""One norm for each rule of the contract, and what it does wrong."""

from __future__ import annotations

import torch
from helpers.cases import SENTENCE_DIM, WORD_DIM
from torch import nn

from scbn import TextFeatures, WordSCBN


class Sound(WordSCBN):
    """Both cues; what is wrong with the others is all that tells them from this one."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, WORD_DIM, sentence_dim=SENTENCE_DIM)


class StartsAway(Sound):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.constant_(self.to_gamma.bias, 0.01)


class IgnoresTheText(Sound):
    def forward(self, x, text):
        return super().forward(x, text._replace(words=torch.zeros_like(text.words)))


class NeverLearns(Sound):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.zeros_(self.mlp[-1].weight)
        for parameter in (self.to_gamma, self.to_beta, self.mlp):
            parameter.requires_grad_(False)


class UsesPadding(Sound):
    def forward(self, x, text):
        return super().forward(x, text._replace(padding_mask=None))


class CountsWords(Sound):
    def forward(self, x, text):
        ramp = torch.linspace(0, 1, text.words.shape[1], dtype=text.words.dtype)
        return super().forward(x, text._replace(words=text.words + ramp[:, None]))


class LooksAround(Sound):
    def forward(self, x, text):
        y = super().forward(x, text)
        return y + 0.01 * y.mean(0)


class UsesTheEmptyCaption(Sound):
    def forward(self, x, text):
        mask = text.padding_mask & ~text.padding_mask.all(1, keepdim=True)
        return super().forward(x, text._replace(padding_mask=mask))


class CountsTwice(Sound):
    def forward(self, x, text):
        self.bn(x)
        return super().forward(x, text)


class ChangesItsStatisticsFirst(Sound):
    def forward(self, x, text):
        if self.training and x.dim() == 4 and x.shape[1] == self.num_features:
            with torch.no_grad():
                self.bn.running_mean.lerp_(x.mean((0, 2, 3), dtype=torch.float64), 0.1)
        return super().forward(x, text)


class Asserts(Sound):
    def forward(self, x, text):
        assert x.shape[1] == self.num_features
        return super().forward(x, text)


class TakesAnything(Sound):
    def forward(self, x, text):
        return super().forward(x, text._replace(padding_mask=text.padding_mask.bool()))


class Detaches(Sound):
    def forward(self, x, text):
        return super().forward(x, text._replace(words=text.words.detach()))


class WritesIntoTheText(Sound):
    def forward(self, x, text):
        with torch.no_grad():
            text.words.masked_fill_(text.padding_mask[:, :, None], 0)
        return super().forward(x, text)


class BelievesInStrides(Sound):
    def forward(self, x, text):
        _, c, h, w = x.shape
        as_if_contiguous = x[:1].as_strided((1, c, h, w), (0, 0, w, 1) if 0 in x.stride() else (0, h * w, w, 1))
        return super().forward(torch.cat((as_if_contiguous, x[1:])), text)


class SinglePrecision(Sound):
    def forward(self, x, text):
        return super().forward(x, text).float()


class RoundsEarly(Sound):
    def forward(self, x, text):
        y = super().forward(x, text)
        return y if x.dtype.itemsize > 2 else (y + 100) - 100


class Overflows(Sound):
    def forward(self, x, text):
        return super().forward(x, text._replace(words=(text.words * 1e6) / 1e6))


class FollowsAutocast(Sound):
    def forward(self, x, text):
        y = super().forward(x, text)
        return y.bfloat16() if torch.is_autocast_enabled("cpu") else y


class Contiguous(Sound):
    def forward(self, x, text):
        return super().forward(x, text).contiguous()


class LooksAtValues(Sound):
    def forward(self, x, text):
        y = super().forward(x, text)
        return y if x.sum() > 0 else y.clone()


class KnowsItsHeight(Sound):
    def forward(self, x, text):
        return super().forward(x, text).reshape(-1, x.shape[1], 4, x.shape[3])


class HoldsALambda(Sound):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.after = lambda y: y

    def forward(self, x, text):
        return self.after(super().forward(x, text))


class HidesAValue(Sound):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = float(torch.rand(()))

    def forward(self, x, text):
        return super().forward(x, text) * self.gain


class KnowsItsDevice(Sound):
    def forward(self, x, text):
        return super().forward(x, text) + torch.zeros(x.shape[1], 1, 1)


class CountsItsCalls(Sound):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.calls = 0

    def forward(self, x, text):
        self.calls += 1
        return super().forward(x, text) * torch.tensor(float(self.calls), dtype=x.dtype)


class IsABatchNorm(nn.BatchNorm2d):
    """As conditional norms used to be written: the condition in a subclass."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.to_scale = nn.Linear(SENTENCE_DIM, channels)

    def forward(self, x, text: TextFeatures | None = None):  # pyright: ignore
        if text is None:
            raise TypeError("forward() missing 1 required positional argument: 'text'")
        return super().forward(x) * (1 + self.to_scale(text.sentence))[:, :, None, None]


BROKEN = (
    ("starts_as_batch_norm", StartsAway),
    ("uses_the_text", IgnoresTheText),
    ("uses_the_text", NeverLearns),
    ("padding", UsesPadding),
    ("word_order", CountsWords),
    ("batch_independence", LooksAround),
    ("empty_caption", UsesTheEmptyCaption),
    ("running_statistics", CountsTwice),
    ("bad_input", ChangesItsStatisticsFirst),
    ("bad_input", Asserts),
    ("bad_input", TakesAnything),
    ("gradients", Detaches),
    ("inputs_untouched", WritesIntoTheText),
    ("views", BelievesInStrides),
    ("dtype_kept", SinglePrecision),
    ("dtype_kept", RoundsEarly),
    ("half_precision_norm", Overflows),
    ("autocast", FollowsAutocast),
    ("memory_format", Contiguous),
    ("compiles", LooksAtValues),
    ("exports", KnowsItsHeight),
    ("copies", HoldsALambda),
    ("state_dict", HidesAValue),
    ("meta_device", KnowsItsDevice),
    ("checkpointing", CountsItsCalls),
    ("sync_conversion", IsABatchNorm),
)
