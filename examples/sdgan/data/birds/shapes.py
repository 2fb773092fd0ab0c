"""The shapes that birds are drawn of: signed distances, negative inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def background(vary, size: int) -> Tensor:
    """A soft vertical gradient between two muted colours."""
    down = torch.linspace(0, 1, size)[None, None, :, None]
    hue, brightness = vary(0, 2 * math.pi)[:, None], vary(0.56, 0.72)[:, None]
    thirds = torch.tensor([0.0, 2.1, 4.2])[None, :, None, None]
    top = brightness + 0.09 * (hue + thirds).cos()
    bottom = brightness * 0.85 + 0.07 * (hue + 1.2 + thirds).cos()
    return (top + (bottom - top) * down).expand(-1, -1, -1, size).clone()


def ellipse(
    u: Tensor, v: Tensor, centre: tuple[float, float], radii: tuple[float, float], tilt: float | Tensor
) -> Tensor:
    """Signed distance to a tilted ellipse, near its edge."""
    tilt = torch.as_tensor(tilt)
    p, q = u - centre[0], v - centre[1]
    p, q = p * tilt.cos() - q * tilt.sin(), p * tilt.sin() + q * tilt.cos()
    return (((p / radii[0]).square() + (q / radii[1]).square()).sqrt() - 1) * min(radii)


def segment(u: Tensor, v: Tensor, a: tuple[float, float], b: tuple[float, float], width: float) -> Tensor:
    """Signed distance to a thick line."""
    p, q, bx, by = u - a[0], v - a[1], b[0] - a[0], b[1] - a[1]
    along = ((p * bx + q * by) / (bx * bx + by * by)).clamp(0, 1)
    return ((p - along * bx).square() + (q - along * by).square()).sqrt() - width


def beak(u: Tensor, v: Tensor, tip: Tensor) -> Tensor:
    """A triangle from the head to ``tip``."""
    start, centre, half = 0.58, -0.20, 0.13
    slope = half / (tip - start)
    side = ((v - centre).abs() - (tip - u) * slope) / (1 + slope.square()).sqrt()
    return torch.maximum(side, start - u)
