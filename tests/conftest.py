"""Settings for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch: workers that share the cores must not fight for them
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

# Before anything imports triton: where there is no GPU, its kernels run interpreted.
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from hypothesis import HealthCheck, settings

from scbn import ops
from scbn.ops.cpu import tiles

settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
# Of the tests in tests/testing that draw whole calls: few, and the same ones, in the suite; as many as asked, and others.
_asked = os.environ.get("SCBN_FUZZ_EXAMPLES")
settings.register_profile(
    "fuzz",
    max_examples=int(_asked or 1000),
    derandomize=_asked is None,
    deadline=60_000,  # a call that hangs
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=["eager", "cpu"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test that uses this runs on each implementation; tiles are small enough to need several."""
    with pytest.MonkeyPatch.context() as patch, ops.use_backend(request.param):
        patch.setattr(tiles, "VALUES", 60)
        yield request.param


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real captioned photographs (cub/, coco/), which is not part of the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SCBN_DATA", beside))
    if not (folder / "cub").is_dir():
        pytest.skip(f"no real data in {folder}; set SCBN_DATA to a folder with cub/ and coco/ to run this test")
    return folder
