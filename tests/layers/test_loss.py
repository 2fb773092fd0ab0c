"""The contrastive loss against pairs worked out by hand and against the oracle."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scbn
from scbn import SiameseContrastiveLoss, reference


def pair(distance: float, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two features (1, 2) at a distance, in the direction (3, 4) / 5."""
    v1 = torch.tensor([[0.25, -1.0]], dtype=dtype)
    return v1, v1 + torch.tensor([[0.6, 0.8]], dtype=dtype) * distance


# margin 1, alpha 0.1, half the bracket: (1/2) max(d, 0.1)^2 for the same image, (1/2) max(1 - d, 0)^2 for others
BY_HAND = [
    (True, 0.0, 0.005),
    (True, 0.05, 0.005),
    (True, 0.1, 0.005),
    (True, 0.5, 0.125),
    (True, 2.0, 2.0),
    (False, 0.0, 0.5),
    (False, 0.25, 0.28125),
    (False, 1.0, 0.0),
    (False, 3.0, 0.0),
]


@pytest.mark.parametrize(("same", "distance", "value"), BY_HAND)
def test_single_pairs_by_hand(same: bool, distance: float, value: float) -> None:
    loss = SiameseContrastiveLoss()(*pair(distance), torch.tensor([same]))
    assert loss.shape == ()
    assert float(loss) == pytest.approx(value, abs=1e-12)


def test_every_reduction_by_hand() -> None:
    v = [pair(distance) for _, distance, _ in BY_HAND]
    v1, v2 = torch.cat([a for a, _ in v]), torch.cat([b for _, b in v])
    same = torch.tensor([flag for flag, _, _ in BY_HAND])
    values = torch.tensor([value for _, _, value in BY_HAND], dtype=torch.float64)
    want = {"none": values, "sum": values.sum(), "mean": values.mean(), "feature_mean": values.mean() / 2}
    for reduction, expected in want.items():
        torch.testing.assert_close(SiameseContrastiveLoss(reduction=reduction)(v1, v2, same), expected)


def test_alpha_zero_is_the_classic_loss() -> None:
    loss = SiameseContrastiveLoss(alpha=0.0)
    assert float(loss(*pair(0.05), torch.tensor([True]))) == pytest.approx(0.05**2 / 2)
    assert float(loss(*pair(0.0), torch.tensor([True]))) == 0


def test_true_pulls_and_false_pushes() -> None:
    for same, sign in ((True, 1), (False, -1)):
        v1, v2 = pair(0.5)
        v2.requires_grad_()
        SiameseContrastiveLoss()(v1, v2, torch.tensor([same])).backward()
        assert (torch.sign(v2.grad) == sign * torch.sign(v2 - v1)).all()


@given(seed=st.integers(0, 2**31), n=st.integers(1, 6), features=st.integers(1, 5))
def test_equals_the_oracle(seed: int, n: int, features: int) -> None:
    torch.manual_seed(seed)
    margin = float(torch.rand(()) * 2 + 0.1)
    alpha = float(torch.rand(()) * margin)
    v1 = torch.randn(n, features, dtype=torch.float64, requires_grad=True)
    v2 = torch.randn(n, features, dtype=torch.float64)
    same = torch.rand(n) < 0.5
    got = SiameseContrastiveLoss(margin, alpha)(v1, v2, same)
    want = reference.siamese_contrastive_loss(v1, v2, same, margin, alpha)
    torch.testing.assert_close(got, want)
    if want.requires_grad:
        torch.testing.assert_close(
            torch.autograd.grad(got, v1)[0], torch.autograd.grad(want, v1)[0], rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("distance", "same"), list(itertools.product([0.0, 0.1, 1.0], [True, False])))
def test_gradients_are_finite_at_the_corners(distance: float, same: bool, dtype: torch.dtype) -> None:
    v1, v2 = pair(distance, dtype)
    v1.requires_grad_()
    loss = SiameseContrastiveLoss()(v1, v2, torch.tensor([same]))
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert v1.grad.isfinite().all()
    assert distance > 0 or not v1.grad.any()


def test_half_precision_is_computed_in_float32() -> None:
    v1 = torch.full((1, 4096), 100.0, dtype=torch.float16)
    loss = SiameseContrastiveLoss()(v1, torch.zeros_like(v1), torch.tensor([True]))
    assert float(loss) == 4096 * 100.0**2 / 2  # overflows float16
    a, b = torch.randn(2, 1, 50).half()
    exact = ((a.double() - b.double()) ** 2).sum() / 2
    assert float(SiameseContrastiveLoss()(a, b, torch.tensor([True]))) == pytest.approx(float(exact), rel=1e-6)
    assert SiameseContrastiveLoss()(a.float(), b.double(), torch.tensor([True])).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        v = torch.randn(4, 8)
        assert SiameseContrastiveLoss()(v, v.flip(0), torch.ones(4, dtype=torch.bool)).dtype == torch.float32


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_stages_are_summed(stages: int) -> None:
    v1 = [torch.randn(4, 3 + i) for i in range(stages)]
    v2 = [torch.randn(4, 3 + i) for i in range(stages)]
    same = torch.tensor([True, False, True, False])
    loss = SiameseContrastiveLoss()
    want = sum(loss(a, b, same) for a, b in zip(v1, v2, strict=True))
    torch.testing.assert_close(loss(v1, tuple(v2), same), want)


def test_gradcheck() -> None:
    v1, v2 = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True).unbind()
    same = torch.tensor([True, False, True, False, True])
    assert torch.autograd.gradcheck(lambda a, b: SiameseContrastiveLoss()(a, b, same), (v1, v2))
    assert torch.autograd.gradgradcheck(lambda a, b: SiameseContrastiveLoss()(a, b, same), (v1, v2))


def test_the_second_features_are_called_by_their_name() -> None:
    v, same = torch.randn(3, 4), torch.tensor([True, False, True])
    loss = scbn.SiameseContrastiveLoss()
    for wrong, message in ((v[..., None], r"v2 must have shape \(N, F\)"), (v.int(), "v2 must be floating point")):
        with pytest.raises(ValueError, match=message):
            loss(v, wrong, same)
    with pytest.raises(ValueError, match="v2 must be a tensor"):
        loss(v, None, same)
