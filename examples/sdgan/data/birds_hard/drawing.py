"""Drawing them: patterns that follow a part, legs, tails, what they sit on, and what is behind."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.sdgan.data.birds.attributes import COLOURS, Birds
from examples.sdgan.data.birds.drawing import RGB
from examples.sdgan.data.birds.shapes import beak, ellipse, segment
from examples.sdgan.data.birds_hard.attributes import ATTRIBUTES

_CHUNK = 128
_LEGS = torch.tensor([(0.80, 0.12, 0.12), (0.95, 0.80, 0.12), (0.08, 0.08, 0.10)])
_PERCHES = torch.tensor([(0.33, 0.24, 0.16), (0.45, 0.45, 0.48), (0.25, 0.48, 0.16)])
# Top and bottom of the sky, a forest, a sunset: muted, so that no bird's colour is its background's.
_BACKGROUNDS = torch.tensor(
    [
        ((0.52, 0.66, 0.80), (0.74, 0.80, 0.86)),
        ((0.30, 0.42, 0.32), (0.44, 0.52, 0.36)),
        ((0.62, 0.42, 0.50), (0.88, 0.68, 0.46)),
    ]
)


def draw(birds: Birds, size: int, seed: int) -> Tensor:
    """Draw birds as uint8 images (N, 3, size, size); pose, shade and light vary with ``seed``.

    The picture of a bird depends on its place in ``birds`` and the seed alone, whatever the size.
    """
    rng = torch.Generator().manual_seed(seed)
    chance = torch.rand(len(birds), 32, generator=rng)
    chunks = zip(birds.labels.split(_CHUNK), chance.split(_CHUNK), strict=True)
    return torch.cat([_draw(labels, c, size) for labels, c in chunks])


def _draw(labels: Tensor, chance: Tensor, size: int) -> Tensor:
    attribute = dict(zip(ATTRIBUTES, labels.unbind(1), strict=True))
    draws = iter(chance.unbind(1))
    palette = torch.tensor([RGB[name] for name in COLOURS])

    def vary(low: float, high: float) -> Tensor:
        return (low + (high - low) * next(draws))[:, None, None]

    def is_(name: str, value: int) -> Tensor:
        return (attribute[name] == value)[:, None, None]

    def colour(name: str) -> Tensor:
        jitter = torch.stack([next(draws) for _ in range(3)], 1) * 0.10 - 0.05
        return (palette[attribute[name]] + jitter).clamp(0, 1)[:, :, None, None]

    scale = torch.where(is_("size", 1), vary(0.88, 0.96), vary(0.62, 0.70))
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    dx, dy = vary(-0.10, 0.10) * (1.3 - scale), vary(-0.08, 0.08) * (1.3 - scale)
    x, y = (x - dx) / scale + 0.05, (y - dy) / scale
    pixel = 2 / size / scale

    down = torch.linspace(0, 1, size)[None, None, :, None]
    top, bottom = _BACKGROUNDS[attribute["background"]][..., None, None].unbind(1)
    image = (top + (bottom - top) * down + vary(-0.06, 0.06)[:, None]).expand(-1, -1, -1, size).clone()

    def paint(distance: Tensor, rgb: Tensor) -> None:
        nonlocal image
        cover = (0.5 - distance / pixel).clamp(0, 1)[:, None]
        image = image + (rgb - image) * cover

    def patterned(name: str, rgb: Tensor, across: Tensor, along: Tensor) -> Tensor:
        """The colour, darker (of a dark bird: lighter) in stripes or spots."""
        stripes = (across * 22).sin() > 0.15
        spots = ((across * 21).sin() * (along * 21).sin()) > 0.35
        marked = (is_(name, 1) & stripes) | (is_(name, 2) & spots)
        dark = rgb.mean(1, keepdim=True) < 0.3
        other = torch.where(dark, rgb + 0.55, rgb * 0.35).clamp(0, 1)
        return torch.where(marked[:, None], other, rgb.expand(-1, -1, size, size))

    # The body turns about where it stands; what it stands on does not.
    angle = torch.where(is_("posture", 0), vary(0.36, 0.50), vary(-0.26, -0.12))
    u, v = x * angle.cos() - (y - 0.3) * angle.sin(), x * angle.sin() + (y - 0.3) * angle.cos() + 0.3

    perch = _PERCHES[attribute["perch"]][:, :, None, None]
    branch = (y - 0.76).abs() - 0.05
    rock = ellipse(x, y, (0.05, 0.98), (0.75, 0.26), 0.0)
    blades = 0.74 + 0.09 * (x * 26).sin().abs() - y
    under = torch.where(is_("perch", 0), branch, torch.where(is_("perch", 1), rock, blades))
    paint(under, perch)
    legs = _LEGS[attribute["legs"]][:, :, None, None]
    for foot in (-0.10, 0.14):
        paint(segment(x, y, (foot, 0.36), (foot + 0.03, 0.74), 0.045), legs)

    wing, belly, crown, throat, tail = (colour(name) for name in ("wing", "belly", "crown", "throat", "tail"))
    reach = torch.where(is_("tail length", 1), torch.full_like(scale, 1.0), torch.full_like(scale, 0.55))
    tilt = 0.15 + vary(-0.06, 0.06)
    p, q = u + 0.45, v - 0.14
    p, q = p * tilt.cos() - q * tilt.sin(), p * tilt.sin() + q * tilt.cos()
    paint(torch.maximum(torch.maximum(q.abs() - 0.11, p), -p - reach), tail)
    paint(ellipse(u, v, (0.0, 0.14), (0.50, 0.35), 0.10), patterned("belly pattern", belly, u, v))
    long = is_("beak", 1)
    paint(
        beak(u, v, torch.where(long, torch.full_like(scale, 1.06), torch.full_like(scale, 0.80))),
        torch.tensor([0.90, 0.55, 0.15])[None, :, None, None],
    )
    head = ellipse(u, v, (0.40, -0.26), (0.27, 0.26), 0.0)
    paint(ellipse(u, v, (0.36, -0.06), (0.22, 0.20), 0.0), throat)
    paint(head, throat)
    paint(torch.maximum(head, (v + 0.25) - 0.35 * (u - 0.40)), crown)
    folded = ellipse(u, v, (-0.14, 0.10), (0.38, 0.22), 0.25 + vary(-0.08, 0.08))
    paint(folded - 0.02, torch.zeros(1, 3, 1, 1) + 0.15)
    paint(folded, patterned("wing pattern", wing, u * 0.94 + v * 0.35, v * 0.94 - u * 0.35))
    paint(((u - 0.47).square() + (v + 0.22).square()).sqrt() - 0.065, torch.ones(1, 3, 1, 1))
    paint(((u - 0.48).square() + (v + 0.22).square()).sqrt() - 0.040, torch.zeros(1, 3, 1, 1))
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
