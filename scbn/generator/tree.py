"""A tree-structured generator whose norms and stages are plugged in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from scbn import checks
from scbn.attention import VisualSemanticEmbedding
from scbn.generator.stages import (
    ConditioningAugmentation,
    Cue,
    InitialStage,
    MakeNorm,
    RefinementStage,
    norm_factory,
    takes_text,
)
from scbn.text import TextFeatures, empty_captions, known_to_torch
from scbn.word import WordSCBN


@known_to_torch
class TreeOutput(NamedTuple):
    """What :class:`TreeGenerator` returns.

    Args:
        images: one (N, image_channels, S, S) a stage, low to high resolution, values in [-1, 1].
        mu, logvar: (N, condition_dim), the conditioning augmentation's Gaussian.
    """

    images: tuple[Tensor, ...]
    mu: Tensor
    logvar: Tensor


class TreeGenerator(nn.Module):
    r"""Tree-structured text-to-image generator: each stage doubles the size and has an image of its own.

    .. math::
        c \sim N(\mu(s), \sigma(s)), \qquad h_0 = F_0(c, z; \mathrm{text}), \qquad
        h_i = F_i(h_{i-1}; \mathrm{text}), \qquad \hat I_i = \tanh(\mathrm{conv}(h_i))

    The norm at the end of every upsampling block is plugged in, so the baselines are this very generator.

    Args:
        sentence_dim: size D_s of the sentence vector.
        word_dim: size D_w of a word vector; needed where a norm attends to words.
        stages: how many, from 1.
        base_size: pixels of the first stage's image: 4, 8, 16, ...; stage i has ``base_size * 2**i``.
        channels: of the feature map before each image head; one number, or one for each stage.
        residual_blocks: in each stage after the first.
        norm: ``"both"``, ``"word"``, ``"sentence"``, ``"batch"`` (plain, the baseline), or a callable
            ``num_features -> nn.Module`` of your own, called as ``norm(x, text)``, or as ``norm(x)`` if its forward
            takes one argument; or a sequence of these, one for each stage.
        noise_dim, condition_dim: lengths of z and c.
        image_channels: of the images.
        initial_stage: makes the first stage, called as :class:`scbn.generator.stages.InitialStage` with
            ``(in_features, channels, size, norm)``; the module is called as ``stage(code, text)``.
        refinement_stage: makes each later stage, called as :class:`scbn.generator.stages.RefinementStage` with
            ``(in_channels, channels, residual_blocks, norm)``; called as ``stage(h, text)``, it must double the size.

    Shape:
        ``noise`` (N, noise_dim); ``text`` a :class:`TextFeatures` with ``sentence`` (N, D_s) and, for word cues,
        ``words`` (N, T, D_w) and perhaps ``padding_mask`` (N, T). Returns a :class:`TreeOutput`.

    Raises:
        ValueError: an argument has the wrong type, shape, dtype or device, or ``text`` lacks a cue that a norm needs.

    Source: Yin et al., CVPR 2019, arXiv 1904.01480, section 3.1; layer sizes after Xu et al., "AttnGAN", CVPR 2018,
    arXiv 1711.10485.
    """

    def __init__(
        self,
        sentence_dim: int,
        word_dim: int | None = None,
        *,
        stages: int = 3,
        base_size: int = 64,
        channels: int | Sequence[int] = 32,
        residual_blocks: int = 2,
        norm: Cue | MakeNorm | Sequence[Cue | MakeNorm] = "both",
        noise_dim: int = 100,
        condition_dim: int = 100,
        image_channels: int = 3,
        initial_stage: Callable[[int, int, int, MakeNorm], nn.Module] = InitialStage,
        refinement_stage: Callable[[int, int, int, MakeNorm], nn.Module] = RefinementStage,
    ) -> None:
        super().__init__()
        checks.positive(
            sentence_dim=sentence_dim,
            stages=stages,
            base_size=base_size,
            noise_dim=noise_dim,
            condition_dim=condition_dim,
            image_channels=image_channels,
        )
        if word_dim is not None:
            checks.positive(word_dim=word_dim)
        if residual_blocks != 0:
            checks.positive(residual_blocks=residual_blocks)
        self.sentence_dim, self.noise_dim, self.base_size = sentence_dim, noise_dim, base_size
        widths = checks.generator.per_stage("channels", channels, stages)
        for width in widths:
            checks.positive(channels=width)
        norms = [
            norm_factory(one, sentence_dim, word_dim) for one in checks.generator.per_stage("norm", norm, stages)
        ]
        self.augment = ConditioningAugmentation(sentence_dim, condition_dim)
        self.stages = nn.ModuleList([initial_stage(condition_dim + noise_dim, widths[0], base_size, norms[0])])
        for before, width, make_norm in zip(widths, widths[1:], norms[1:], strict=False):
            self.stages.append(refinement_stage(before, width, residual_blocks, make_norm))
        attending = (WordSCBN, VisualSemanticEmbedding)
        self._word_dims = sorted({m.word_dim for m in self.stages.modules() if isinstance(m, attending)})
        self.heads = nn.ModuleList(nn.Conv2d(width, image_channels, 3, padding=1, bias=False) for width in widths)

    if TYPE_CHECKING:  # nn.Module's own says nothing of arguments and result

        def __call__(
            self, noise: Tensor, text: TextFeatures, *, condition_noise: Tensor | None = None
        ) -> TreeOutput: ...  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, noise: Tensor, text: TextFeatures, *, condition_noise: Tensor | None = None) -> TreeOutput:
        """Generate the images of ``text`` from ``noise``.

        Args:
            noise: (N, noise_dim).
            text: the captions.
            condition_noise: (N, condition_dim), the conditioning augmentation's epsilon; by default drawn in
                training and 0 in eval mode.
        """
        checks.not_symbolic(noise, text)
        checks.text_features(text)
        checks.generator.noise(noise, self.noise_dim, self.augment.fc)
        sentence, mask = checks.sentence_cue(text, noise, self.sentence_dim, "noise")
        for word_dim in self._word_dims:  # before any layer runs, so that an error changes no statistics
            checks.word_cue(text, noise, word_dim, "noise")
        if mask is not None:
            sentence = sentence.masked_fill(empty_captions(mask)[:, None], 0)
        if condition_noise is not None:
            checks.generator.condition_noise(
                condition_noise, len(noise), self.augment.condition_dim, self.augment.fc
            )
        condition, mu, logvar = self.augment(sentence, condition_noise)
        h = torch.cat((condition, noise.to(condition.dtype)), 1)
        images = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            h = stage(h, text)
            images.append(head(h).tanh())
        return TreeOutput(tuple(images), mu, logvar)

    @torch.no_grad()
    def attention(
        self, noise: Tensor, text: TextFeatures, *, condition_noise: Tensor | None = None
    ) -> tuple[TreeOutput, dict[str, Tensor]]:
        """Generate, and keep the word map of every layer that has one, for pictures.

        Returns:
            The output, and for each layer with an ``attention(x, text)`` its map (N, T, H, W), by the layer's name
            and in the order in which they run. Empty where no norm attends to words. In training mode this is a
            forward pass like any other and moves the running statistics; call ``eval()`` first.
        """
        maps: dict[str, Tensor] = {}

        def record(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                maps[name] = module.attention(*args, **kwargs)  # pyright: ignore[reportCallIssue]

            return hook

        hooks = [
            module.register_forward_pre_hook(record(name), with_kwargs=True)
            for name, module in self.named_modules()
            # A method, not a child: a stage may well call its own nn.MultiheadAttention "attention".
            if module is not self and inspect.ismethod(getattr(module, "attention", None)) and takes_text(module)
        ]
        try:
            return self(noise, text, condition_noise=condition_noise), maps
        finally:
            for hook in hooks:
                hook.remove()
