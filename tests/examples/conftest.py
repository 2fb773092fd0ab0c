"""A run in miniature that several files look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.sdgan.data import toy
from examples.sdgan.metrics import caption_fidelity


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from helpers.training import run

    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "COUNTS", {"train": 60, "test": 30})
        patch.setattr(caption_fidelity, "STEPS", 3)
        assert run(out) == 0
    return out
