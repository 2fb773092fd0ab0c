"""Implementations of the modulated batch norm behind :mod:`scbn.functional`, and the switch between them.

| path | runs | backward | for |
|---|---|---|---|
| ``"reference"`` | the formula in einops, everything at full size | autograd, any number of times | comparing; slow |
| ``"composed"`` | plain PyTorch operations | autograd, any number of times | every device, export, vmap, double backward |
| ``"compiled"`` | the composed operations under ``torch.compile`` | compiled, once | devices without a path of their own |
| ``"tiled"`` | a tile of positions at a time, in cache | by hand, attention recomputed; x is all it keeps | CPU, float32 and float64 |
| ``"triton"`` | Triton kernels | the same | NVIDIA GPUs from sm_80, float32, bfloat16, float16; up to 127 words |

``"auto"``, the default, takes ``"triton"`` or ``"tiled"`` where it applies (and, on the CPU, where x is large enough to
gain), else ``"composed"``. Asking for a path by name takes it wherever it can run, however small the input; elsewhere
``"composed"`` runs. All paths compute the same function and are tested against :mod:`scbn.reference`.
"""

from __future__ import annotations

from scbn.ops.dispatch import Path, choose, get_path, interpreted, recorded, set_path, use

__all__ = ["Path", "choose", "get_path", "interpreted", "recorded", "set_path", "use"]
