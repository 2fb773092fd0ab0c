"""What must not cost a run its work: Ctrl-C, a second start in its folder, an end between two phases."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from helpers.miniature import shrink
from helpers.processes import SCRIPT
from helpers.training import TINY, run, same, weights

from examples.sdgan import sample
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.models import checkpoint
from examples.sdgan.training.distributed import average_losses, broadcast_buffers
from examples.sdgan.training.gan import GanTraining

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _few_birds(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_of_a_terminal_reaches_the_loaders_too(workers: str, tmp_path: Path) -> None:
    """A terminal signals every process of its group; the step under way still needs its data."""
    script, out = tmp_path / "train_few_birds.py", tmp_path / "out"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    command = [sys.executable, str(script), *TINY, "--out", str(out), "--steps", "100000", "--workers", workers]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (out / "samples.png").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "--resume" in output.splitlines()[-1]
    assert checkpoint.load(out / "checkpoint.pt")["steps"]["gan"] >= 3


def test_ctrl_c_while_the_last_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = checkpoint.save

    def pressed(state: dict[str, Any], path: Path, *again: str) -> None:
        original(state, path, *again)
        if state["steps"]["encoders"] == 7:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", pressed)
        assert run(tmp_path, "--log", "none") == 130
    assert checkpoint.load(tmp_path / "checkpoint.pt")["steps"]["encoders"] == 7


def test_a_run_that_ends_between_encoders_and_generator_goes_on_as_if_it_had_not(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self, *arguments) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GanTraining, "__init__", killed)
        assert run(tmp_path, "--log", "none") == 130
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["steps"] == {"encoders": 7}
    assert run(tmp_path, "--log", "none", "--resume") == 0
    assert same(weights(tmp_path), weights(finished))


def test_a_second_start_does_not_overwrite_a_run(finished: Path, capsys: pytest.CaptureFixture) -> None:
    before = (finished / "checkpoint.pt").read_bytes()
    assert run(finished, "--log", "none") == 2
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "checkpoint.pt: holds a run, which a new one would overwrite; take another --out, or go on with it (--resume"
        in told
    )
    assert (finished / "checkpoint.pt").read_bytes() == before


def test_of_a_runs_folder_the_newer_is_taken(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "model" / "config.json").write_text("[]")
    with pytest.raises(checkpoint.CheckpointError, match=r"config.json"):
        load_sampler(tmp_path / "run")
    later = (tmp_path / "run" / "model" / "vocabulary.json").stat().st_mtime + 1
    os.utime(tmp_path / "run" / "checkpoint.pt", (later, later))
    assert load_sampler(tmp_path / "run").config.seed == 0
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("part", [".", "model", "checkpoint.pt"])
def test_a_sample_lies_in_the_runs_folder(part: str, finished: Path) -> None:
    (finished / "sample.png").unlink(missing_ok=True)
    assert sample.main(["--checkpoint", str(finished / part), "--caption", "a red bird", "--count", "1"]) == 0
    assert (finished / "sample.png").is_file()


def test_means_over_parts_that_have_none_of_a_kind() -> None:
    one = cast(Any, SimpleNamespace(world_size=1))
    losses = {"x": 2.0, "a": 3.0, "a/count": 1.5, "b": 0.0, "b/count": 0.0}
    values = average_losses(one, {name: torch.tensor(value) for name, value in losses.items()})
    assert values == {"x": 2.0, "a": 2.0}


def _process(rank: int, path: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2)
    norm = torch.nn.BatchNorm2d(3)
    norm.running_mean += rank + 1
    broadcast_buffers(cast(Any, SimpleNamespace(world_size=2)), norm)
    torch.save(norm.state_dict(), f"{path}/{rank}.pt")
    dist.destroy_process_group()


def test_every_process_has_the_first_ones_statistics(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["running_mean"].eq(1).all()
    assert second["running_mean"].eq(1).all()
