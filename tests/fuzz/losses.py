"""Calls of SiameseContrastiveLoss."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import torch
from torch import Tensor

from scbn import SiameseContrastiveLoss, reference
from scbn.loss import REDUCTIONS

from . import draw, oracle
from .call import Call


def loss(rng: Random) -> Call:
    """One pair of features or one a stage, every reduction, distances at the corners."""
    margin = rng.choice((1.0, 0.3, 2, 1e-3))
    alpha = rng.choice((0.0, 0.1, 1.0)) * margin
    reduction = rng.choice(REDUCTIONS)
    made = SiameseContrastiveLoss(margin, alpha, reduction)
    n, stages = rng.randint(1, 5), rng.choice((None, 1, 2, 3))
    pairs = [_pair(rng, n, rng.randint(1, 8), margin) for _ in range(stages or 1)]
    flags = torch.rand(n) < 0.5
    about = f"{made} {[(tuple(a.shape), a.dtype, b.dtype) for a, b in pairs]}"
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    bundle: Any = (lambda v: v[0]) if stages is None else rng.choice((list, tuple))
    if rng.random() < 0.35:
        what, v1, v2, same = _mistake(rng, bundle(firsts), bundle(seconds), flags)
        return Call(
            "SiameseContrastiveLoss", f"{about}; {what}", lambda: {"loss": made(v1, v2, same)}, mistake=what
        )
    lowest = torch.float64 if all(v.dtype == torch.float64 for pair in pairs for v in pair) else torch.float32
    exact = [(oracle.exact(a), oracle.exact(b)) for a, b in pairs]
    half = any(v.dtype.itemsize == 2 for pair in pairs for v in pair)

    def gradients(total: Tensor, leaves: list[Tensor]) -> dict[str, Tensor]:
        wanted = [v for v in leaves if v.requires_grad]
        if not wanted or half or not all(v.isfinite().all() for v in leaves):
            return {}
        if not total.requires_grad:  # all beyond the margin
            return {f"grad {i}": torch.zeros_like(v) for i, v in enumerate(wanted)}
        found = torch.autograd.grad(total.sum(), wanted, allow_unused=True)
        return {
            f"grad {i}": torch.zeros_like(v) if g is None else g
            for i, (v, g) in enumerate(zip(wanted, found, strict=True))
        }

    def run() -> dict[str, Tensor]:
        total = made(bundle(firsts), bundle(seconds), flags)
        return {"loss": total, **gradients(total, [*firsts, *seconds])}

    def want() -> dict[str, Tensor]:
        total: Any = 0
        for a, b in exact:
            one = [
                reference.siamese_contrastive_loss(a[i : i + 1], b[i : i + 1], flags[i : i + 1], margin, alpha)
                for i in range(n)
            ]
            distances = [(a[i] - b[i]).detach().square().sum() for i in range(n)]
            # The oracle's comparisons drop NaN.
            each = torch.stack([math.nan * o if d.isnan() else o for o, d in zip(one, distances, strict=True)])
            total = (
                total
                + {"none": each, "sum": each.sum(), "mean": each.mean(), "feature_mean": each.mean() / a.shape[1]}[
                    reduction
                ]
            )
        return {"loss": total, **gradients(total, [a for a, _ in exact] + [b for _, b in exact])}

    tolerance = 1e-9 if lowest == torch.float64 else 1e-4
    return Call("SiameseContrastiveLoss", about, run, want, tolerance=tolerance, inputs=[*firsts, *seconds, flags])


def _pair(rng: Random, n: int, features: int, margin: float) -> tuple[Tensor, Tensor]:
    dtype = rng.choice(draw.FLOATS)
    v1 = draw.normal(dtype, n, features)
    v2 = draw.normal(rng.choice((dtype, dtype, torch.float32)), n, features)
    kind = rng.random()
    if kind < 0.2:  # about as far apart as the margin
        v2 = (v1.double() + draw.normal(torch.float64, n, features, spread=margin / features**0.5)).to(v2.dtype)
    elif kind < 0.25:
        v1[rng.randrange(n)] = rng.choice((math.nan, math.inf))
    elif kind < 0.3:
        v1 = v1[:1].expand_as(v1)
    for v in (v1, v2):
        if rng.random() < 0.5:
            v.requires_grad_()
    return v1, v2


def _mistake(rng: Random, v1: Any, v2: Any, same: Any) -> tuple[str, Any, Any, Any]:
    kind = rng.choice(
        ("junk", "flags", "stages", "kind", "rank", "batch", "features", "no pairs", "device", "junk in stages")
    )
    sequence = not isinstance(v1, Tensor)
    first = v1[0] if sequence else v1
    if kind == "junk":
        wrong = draw.junk(rng)
        return (kind, wrong, v2, same) if rng.random() < 0.5 else (kind, v1, wrong, same)
    if kind == "flags":
        wrong = rng.choice(
            (
                same.int(),
                same.float(),
                same[:-1],
                same[:, None],
                same.tolist(),
                draw.junk(rng),
                same.to("meta"),
                same.to_sparse(),
            )
        )
        return kind, v1, v2, wrong
    if kind == "stages":
        return kind, [first, first], [first], same
    if kind == "junk in stages":
        return kind, [first, draw.junk(rng)], [first, first], same
    if kind == "no pairs":
        return kind, first[:0], first[:0], same[:0]
    if kind == "kind":
        what, wrong = draw.wrong_tensor(rng, first)
    elif kind == "rank":
        what, wrong = kind, draw.wrong_rank(rng, first)
    elif kind == "device":
        what, wrong = kind, first.to("meta")
    else:
        what, wrong = kind, draw.wrong_size(rng, first.detach(), 0 if kind == "batch" else 1)
    return what, [wrong] if sequence else wrong, v2[:1] if sequence else v2, same
