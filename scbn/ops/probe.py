"""Whether Triton, where it is installed, can be used on this machine: it needs a driver it finds and a C compiler."""

from __future__ import annotations

import os
import shutil
import warnings

_trouble: str | None = None


def usable() -> bool:
    """Whether Triton can launch kernels here; asked once a process, and a warning says why not.

    Elsewhere (on images without a compiler, say) PyTorch's own operations work, so the layers use those.
    """
    global _trouble
    if _trouble is None:
        _trouble = _find_trouble()
        if _trouble:
            warnings.warn(
                f"Triton is installed but cannot be used here ({_trouble}), so scbn's layers use PyTorch's own operations, "
                "which are slower and take more memory; results are the same",
                stacklevel=2,
            )
    return not _trouble


# For torch.compile: asked while it compiles.
usable._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _find_trouble() -> str:
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # of whatever kind, an AssertionError too
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    # The code that launches a kernel is compiled for each kind of arguments.
    if not os.environ.get("CC") and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "no C compiler: none of cc, gcc and clang is on the PATH, and CC is not set"
    return ""
