"""Implementations of the modulated batch norm behind :mod:`scbn.functional`, and the switch between them.

| backend | runs | backward | for |
|---|---|---|---|
| ``"reference"`` | the formula in einops, everything at full size | autograd, any number of times | comparing; slow |
| ``"eager"`` | plain PyTorch operations | autograd, any number of times | every device, export, vmap, double backward |
| ``"cpu"`` | a tile of positions at a time, in cache | by hand, attention recomputed; x is all it keeps | CPU, float32 and float64 |
| ``"triton"`` | Triton kernels | the same | NVIDIA GPUs from sm_80, float32, bfloat16, float16; up to 127 words |

``"auto"``, the default, takes ``"triton"`` or ``"cpu"`` where it applies (and, on the CPU, where x is large enough to
gain), else ``"eager"``. Asking for a backend by name takes it wherever it can run, however small the input; elsewhere
``"eager"`` runs. All backends compute the same function and are tested against :mod:`scbn.reference`.
"""

from __future__ import annotations

from scbn.ops.dispatch import (
    Backend,
    choose,
    get_backend,
    interpreted,
    recorded,
    set_backend,
    use_backend,
)

__all__ = ["Backend", "choose", "get_backend", "interpreted", "recorded", "set_backend", "use_backend"]
