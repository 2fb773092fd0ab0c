"""Triton's interpreter with products as a GPU's tensor cores round them."""

from __future__ import annotations

import numpy as np


def tensor_cores(kind: type):
    """``create_dot`` of Triton's interpreter, with operands rounded as tensor cores do: tf32 by truncation."""
    real = kind.create_dot

    def create_dot(self, a, b, d, input_precision, most):
        def truncated(handle):
            values = handle.data.astype(np.float32)
            return type(handle)((values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32), handle.dtype)

        def times(left, right, start):
            return real(self, left, right, start, input_precision, most)

        if input_precision.name == "TF32":
            return times(truncated(a), truncated(b), d)
        if input_precision.name != "TF32x3":
            return times(a, b, d)
        big = truncated(a), truncated(b)
        small = [truncated(type(t)(t.data - u.data, t.dtype)) for t, u in zip((a, b), big, strict=True)]
        return times(big[0], big[1], times(small[0], big[1], times(big[0], small[1], d)))

    return create_dot
