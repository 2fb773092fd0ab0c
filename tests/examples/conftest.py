"""A run in miniature that several files look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.miniature import shrink
from helpers.training import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        assert run(out) == 0
    return out
