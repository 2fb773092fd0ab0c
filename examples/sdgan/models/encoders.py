"""Text and image encoder: both end in one space of D features, where DAMSM matches them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from examples.sdgan.config import Config, EncoderOptions
from examples.sdgan.data.vocabulary import PADDING
from examples.sdgan.models.checkpoint import reason_of
from examples.sdgan.models.pretrained_text import PretrainedTextEncoder
from examples.sdgan.models.transfer import sent
from examples.sdgan.models.weights import WeightsError, read_weights, state_dict_for
from scbn import TextFeatures


class TextEncoder(nn.Module):
    """Bidirectional LSTM or GRU over word embeddings; sizes and initialisation as AttnGAN's.

    ``forward(tokens, on_host)``: (N, T) int64, 0 = padding -> :class:`scbn.TextFeatures`. ``on_host`` are the same tokens
    as an array, where they are at hand: without it, the lengths of captions are fetched, and a GPU has to finish first.
    """

    def __init__(self, vocabulary_size: int, options: EncoderOptions) -> None:
        super().__init__()
        if options.dim % 2:
            raise ValueError(
                f"the encoder's dim is split between two directions and must be even, got {options.dim}"
            )
        self.embedding = nn.Embedding(vocabulary_size, options.embedding_dim, padding_idx=PADDING)
        self.dropout = nn.Dropout(options.dropout)
        kind = nn.LSTM if options.rnn == "lstm" else nn.GRU
        rnn = kind(options.embedding_dim, options.dim // 2, batch_first=True, bidirectional=True)
        self.add_module(options.rnn, rnn)
        self.kind = options.rnn

    def forward(self, tokens: Tensor, on_host: np.ndarray | None = None) -> TextFeatures:
        mask = tokens == PADDING
        host = tokens.cpu().numpy() if on_host is None else on_host
        # An empty caption still needs one step for the packing; the mask says that it is nothing.
        lengths = torch.from_numpy((host != PADDING).sum(1).clip(min=1))
        # Sorted here: the packing's own sorting fetches the order from the device.
        lengths, order = lengths.sort(descending=True, stable=True)
        there, back = sent(torch.stack((order, order.argsort())), tokens.device)
        embedded = self.dropout(self.embedding(tokens))
        packed = pack_padded_sequence(embedded[there], lengths, batch_first=True)
        output, state = self.get_submodule(self.kind)(packed)
        hidden = (state[0] if self.kind == "lstm" else state)[:, back]
        words, _ = pad_packed_sequence(output, batch_first=True, total_length=tokens.shape[1])
        return TextFeatures(sentence=torch.cat((hidden[0], hidden[1]), 1), words=words[back], padding_mask=mask)


AnyTextEncoder = TextEncoder | PretrainedTextEncoder


def text_encoder(options: EncoderOptions, words: int, empty: bool = False) -> AnyTextEncoder:
    """The text encoder that the options describe; ``empty``: for its shapes alone, without what has to be loaded."""
    return PretrainedTextEncoder(options, empty) if options.text else TextEncoder(words, options)


class SmallImageEncoder(nn.Module):
    """A small CNN: 8x8 regions and one global feature, from images of any size of at least 32.

    ``forward(images)``: (N, 3, S, S) in [-1, 1] -> regions (N, D, 8, 8), global (N, D).
    """

    def __init__(self, dim: int, width: int = 32) -> None:
        super().__init__()

        def block(before: int, after: int, stride: int = 2) -> nn.Sequential:
            conv = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.2))

        self.local = nn.Sequential(block(3, width), block(width, 2 * width), block(2 * width, 4 * width))
        self.deep = nn.Sequential(block(4 * width, 4 * width), block(4 * width, 4 * width))
        self.features = 4 * width * 4
        self.emb_features = nn.Conv2d(4 * width, dim, 1, bias=False)
        self.emb_code = nn.Linear(self.features, dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        local, code = self.trunk(images)
        return self.emb_features(local), self.emb_code(code)

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features before the common space: regions (N, C, 8, 8) and global (N, features)."""
        if images.shape[-1] != 64:
            images = F.interpolate(images, size=(64, 64), mode="bilinear", align_corners=False, antialias=True)
        local = self.local(images)
        return local, self.deep(local).flatten(1)


class InceptionImageEncoder(nn.Module):
    """Inception v3 as DAMSM uses it: 17x17 regions of Mixed_6e and the pooled global feature.

    Only the two projections learn. ``forward(images)``: (N, 3, S, S) in [-1, 1] -> regions (N, D, 17, 17),
    global (N, D).

    Args:
        dim: D.
        weights: path of a state dict, the name of torchvision weights (downloaded by torchvision), or ``"random"``.

    Raises:
        ValueError: the weights are neither, do not fit, or cannot be downloaded.
    """

    features = 2048

    def __init__(self, dim: int, weights: str) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        trunk = _inception(weights).eval().requires_grad_(False)
        self.inception = create_feature_extractor(
            trunk, {"Mixed_6e": "regions", "flatten": "code"}, suppress_diff_warning=True
        )
        self.emb_features = nn.Conv2d(768, dim, 1, bias=False)
        self.emb_code = nn.Linear(self.features, dim)

    def train(self, mode: bool = True) -> InceptionImageEncoder:
        """Only the projections train: the trunk's batch norms keep ImageNet's statistics."""
        super().train(mode)
        self.inception.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        local, code = self.trunk(images)
        return self.emb_features(local), self.emb_code(code)

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features before the common space: regions (N, 768, 17, 17) and global (N, 2048)."""
        images = F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False)
        features = self.inception(images)
        return features["regions"], features["code"]


def _inception(weights: str) -> nn.Module:
    from torchvision.models import get_model

    if weights != "random" and not Path(weights).is_file():
        try:
            return get_model("inception_v3", weights=weights, transform_input=False)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"inception weights {weights!r}: neither a file nor the name of torchvision weights for "
                "inception_v3, such as IMAGENET1K_V1"
            ) from error
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"inception weights {weights!r} cannot be downloaded ({reason_of(error)}); "
                "pass the path of a file with --encoder.inception-weights, or use --encoder.image small"
            ) from error
    model = get_model("inception_v3", weights=None, init_weights=False, transform_input=False)
    if weights != "random":
        try:
            content = read_weights(Path(weights))
            model.load_state_dict(state_dict_for(model.state_dict(), content, "take the file anew").state)
        except (RuntimeError, WeightsError) as error:
            reason = reason_of(error)
            raise ValueError(f"{weights}: no state dict of torchvision's inception_v3 ({reason})") from error
        _check_features(model, weights)
    return model


def _check_features(model: nn.Module, weights: str) -> None:
    """Finite weights may give no finite features: a variance below zero, weights that overflow."""
    pixels = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        if not model.eval()(pixels).isfinite().all():
            raise ValueError(
                f"{weights}: its weights are finite, but the features of an image are not (a variance below "
                "zero, or "
                "weights that overflow); take the file anew"
            )


def image_encoder(config: Config, weights: str | None = None) -> SmallImageEncoder | InceptionImageEncoder:
    """The image encoder that the options name; ``weights`` instead of the options' for Inception's trunk."""
    options = config.encoder
    if options.image == "small" or (options.image == "auto" and config.size < 256):
        return SmallImageEncoder(options.dim)
    return InceptionImageEncoder(options.dim, weights or options.inception_weights)
