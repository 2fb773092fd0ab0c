"""Drawing birds: antialiased signed distances, a whole batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.sdgan.data.birds.attributes import ATTRIBUTES, COLOURS, Birds
from examples.sdgan.data.birds.shapes import background, beak, ellipse, segment

RGB = {
    "red": (0.84, 0.10, 0.12),
    "yellow": (0.96, 0.84, 0.10),
    "green": (0.14, 0.62, 0.22),
    "blue": (0.13, 0.30, 0.86),
    "white": (0.97, 0.97, 0.97),
    "black": (0.07, 0.07, 0.09),
    "brown": (0.50, 0.30, 0.13),
}
_CHUNK = 256


def draw(birds: Birds, size: int, seed: int) -> Tensor:
    """Draw birds as uint8 images (N, 3, size, size); pose, shade and background vary with ``seed``.

    All look to the right: in ten minutes a generator that must learn both sides learns birds with two heads.
    The picture of a bird depends on its place in ``birds`` and the seed alone, whatever the size.
    """
    rng = torch.Generator().manual_seed(seed)
    pose = torch.rand(len(birds), 24, generator=rng)
    chunks = zip(birds.labels.split(_CHUNK), pose.split(_CHUNK), strict=True)
    return torch.cat([_draw(labels, p, size) for labels, p in chunks])


def _draw(labels: Tensor, pose: Tensor, size: int) -> Tensor:
    attribute = dict(zip(ATTRIBUTES, labels.unbind(1), strict=True))
    shade = iter(pose.unbind(1))

    def vary(low: float, high: float) -> Tensor:
        return (low + (high - low) * next(shade))[:, None, None]

    palette = torch.tensor([RGB[name] for name in COLOURS])

    def colour(name: str) -> Tensor:
        jitter = torch.stack([next(shade) for _ in range(3)], 1) * 0.10 - 0.05
        return (palette[attribute[name]] + jitter).clamp(0, 1)[:, :, None, None]

    large = (attribute["size"] == 1)[:, None, None]
    long = (attribute["beak"] == 1)[:, None, None]
    scale = torch.where(large, vary(0.90, 1.0), vary(0.64, 0.72))
    angle = vary(-0.16, 0.16)
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    dx, dy = vary(-0.12, 0.12) * (1.3 - scale), vary(-0.15, 0.15) * (1.3 - scale) + 0.06
    x, y = (x - dx) / scale + 0.05, (y - dy) / scale
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    pixel = 2 / size / scale

    image = background(vary, size)

    def paint(distance: Tensor, rgb: Tensor) -> None:
        nonlocal image
        cover = (0.5 - distance / pixel).clamp(0, 1)[:, None]
        image = image + (rgb - image) * cover

    wing, belly, crown = colour("wing"), colour("belly"), colour("crown")
    branch = torch.tensor([0.33, 0.24, 0.16])[None, :, None, None]
    feet = torch.tensor([0.25, 0.20, 0.20])[None, :, None, None]
    horn = torch.tensor([0.93, 0.52, 0.10])[None, :, None, None]
    paint((y - 0.74).abs() - 0.05, branch)
    for foot in (-0.08, 0.14):
        paint(segment(u, v, (foot, 0.40), (foot + 0.05, 0.72), 0.025), feet)
    paint(ellipse(u, v, (-0.66, 0.10), (0.32, 0.11), 0.20 + vary(-0.1, 0.1)), wing * 0.82)
    paint(ellipse(u, v, (0.0, 0.14), (0.52, 0.36), 0.10), belly)
    tip = torch.where(long, torch.full_like(scale, 1.06), torch.full_like(scale, 0.80))
    paint(beak(u, v, tip), horn)
    head = ellipse(u, v, (0.40, -0.26), (0.27, 0.26), 0.0)
    paint(head, belly)
    paint(torch.maximum(head, (v + 0.25) - 0.35 * (u - 0.40)), crown)
    paint(ellipse(u, v, (-0.12, 0.08), (0.38, 0.22), 0.30 + vary(-0.1, 0.1)), wing)
    paint(((u - 0.47).square() + (v + 0.22).square()).sqrt() - 0.065, torch.ones(1, 3, 1, 1))
    paint(((u - 0.48).square() + (v + 0.22).square()).sqrt() - 0.040, torch.zeros(1, 3, 1, 1))
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
