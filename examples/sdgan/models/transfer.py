"""From the host to a GPU without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

_PINNED = ("cuda",)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; a GPU takes it from pinned memory when it gets there."""
    if device.type not in _PINNED:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
