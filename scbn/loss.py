"""The contrastive loss between the two branches of the Siamese structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor, nn

from scbn import checks, functional

Reduction = Literal["mean", "sum", "none", "feature_mean"]
REDUCTIONS = get_args(Reduction)


class SiameseContrastiveLoss(nn.Module):
    r"""SD-GAN's contrastive loss: captions of one image should give one picture, others should not.

    .. math::
        L = \frac{1}{2N} \sum_{n=1}^{N} \big[\, y_n \max(d_n, \alpha)^2 + (1 - y_n) \max(\epsilon - d_n, 0)^2 \,\big],
        \qquad d_n = \lVert v_{1n} - v_{2n} \rVert_2

    Two readings of the paper are settled here:

    - *The flag.* ``same`` is :math:`y`: ``True`` = both captions describe one image. (Some summaries have it the
      other way round, but the margin acts "when y = 0", and a margin only makes sense for different images.)
    - *N* is the number of pairs, as in the classic formula. The other reading, the length F of the feature, is
      ``reduction="feature_mean"``: the mean over pairs divided by F.

    ``alpha`` keeps two captions of one image from being forced to the very same picture: closer than ``alpha`` there
    is no pull. ``alpha=0`` is the classic contrastive loss.

    Args:
        margin: :math:`\epsilon > 0`, how far apart different images are pushed.
        alpha: :math:`0 \le \alpha \le \epsilon`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (per pair) of the bracket over 2, or ``"feature_mean"``.

    Shape:
        ``v1``, ``v2``: (N, F), or sequences of them, one pair a stage (F may differ), whose losses are summed
        ("contrastive losses between tree structures"). ``same``: (N,) bool. Returns a scalar, or (N,) for
        ``"none"``, in float32 (float64 for float64 features). Gradients are finite everywhere; at d = 0 they are 0.

    Raises:
        ValueError: ``alpha > margin``, no stages, or an argument has the wrong type, shape or dtype.

    Source: Yin et al., CVPR 2019, arXiv 1904.01480, section 3.2, equations 2 and 3.
    """

    def __init__(self, margin: float = 1.0, alpha: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__()
        checks.loss.contrastive(margin, alpha, reduction, REDUCTIONS)
        self.margin, self.alpha, self.reduction = margin, alpha, reduction

    if TYPE_CHECKING:  # nn.Module's own says nothing of arguments and result

        def __call__(
            self, v1: Tensor | Sequence[Tensor], v2: Tensor | Sequence[Tensor], same: Tensor
        ) -> Tensor: ...  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, v1: Tensor | Sequence[Tensor], v2: Tensor | Sequence[Tensor], same: Tensor) -> Tensor:
        """The loss between the features ``v1`` and ``v2`` of the two branches."""
        checks.not_symbolic(v1, v2, same)
        losses = []
        for a, b in checks.loss.stages(v1, v2):
            checks.loss.feature_pair(a, b, same)
            losses.append(
                functional.siamese_contrastive_loss(
                    a, b, same, margin=self.margin, alpha=self.alpha, reduction=self.reduction
                )
            )
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total

    def extra_repr(self) -> str:
        return f"margin={self.margin}, alpha={self.alpha}, reduction={self.reduction!r}"
