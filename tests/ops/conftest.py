"""What the kernels' tests share."""

from __future__ import annotations

import pytest
import torch
from helpers.tensor_cores import tensor_cores


@pytest.fixture
def rounding_of_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, products as tensor cores round them; a GPU does so by itself."""
    if not torch.cuda.is_available():
        builder = pytest.importorskip("triton.runtime.interpreter").InterpreterBuilder
        monkeypatch.setattr(builder, "create_dot", tensor_cores(builder))
