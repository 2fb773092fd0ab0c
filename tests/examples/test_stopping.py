"""Several processes: what stops one of them stops all, and each says why."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from helpers.processes import ROOT, environment
from helpers.training import TINY

from examples.sdgan.training.distributed import ProcessStopped, leaving_is_told, same_everywhere, together
from examples.sdgan.training.loop import NotFinite

# Every place where one process may fail while the others go on to wait for it.
SCRIPT = """
import os, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from examples.sdgan import train
from helpers.miniature import shrink
from examples.sdgan.models import checkpoint
from examples.sdgan.training import gan, logger, results, trainer, workspace
shrink()
place, rank, log = os.environ["FAIL"].split(" ", 2)
# A file for each process: two of them would write into each other's lines.
sys.stdout = open(log + os.environ.get("LOCAL_RANK", "0"), "w")
owner, name = {{
    "save": (checkpoint, "save"),
    "curves": (logger.TensorBoardLogger, "scalars"),
    "logger": (trainer, "open_logger"),
    "data": (workspace, "open_data"),
    "export": (results, "write_model"),
    "step": (gan.GanTraining, "_learn_generator"),
}}[place]

def fail(*arguments, **options):
    raise OSError(28, "No space left on device")

if os.environ.get("LOCAL_RANK", "0") == rank:
    setattr(owner, name, fail)
if __name__ == "__main__":
    status = train.main(sys.argv[1:])
    print("ended with", status, flush=True)
    sys.exit(status)
"""


@pytest.mark.parametrize(
    ("place", "rank"),
    [
        ("save", 0),
        ("logger", 0),
        ("export", 0),
        ("data", 1),
        ("step", 1),
    ],
)
def test_what_stops_one_process_stops_all(
    place: str, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "train_few_birds.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    monkeypatch.setenv("FAIL", f"{place} {rank} {tmp_path}/told")
    options = [*TINY, "--accelerator", "cpu", "--devices", "2", "--steps", "2", "--encoder-steps", "2"]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(script), *options, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    try:
        output, _ = process.communicate(timeout=120)  # until the last process has closed its end
    finally:
        process.kill()
    assert process.returncode == 2, output
    assert time.monotonic() - began < 100
    told = [" ".join((tmp_path / f"told{i}").read_text().split()) for i in range(2)]
    assert all(text.endswith("ended with 2") for text in told), (told, output)
    assert "error: [Errno 28] No space left on device" in told[rank]
    reason = f"for process {rank} cannot go on: [Errno 28] No space left on device"
    if place == "step":  # in the midst of what all do, the others see no more than that it is gone
        reason = "for another process has ended; its own message says why"
    assert f"error: stopped, {reason}" in told[1 - rank]
    assert "Traceback" not in output


def _stops(rank: int, path: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2)
    fabric = cast(Any, SimpleNamespace(world_size=2, is_global_zero=rank == 0, device="cpu"))
    assert together(fabric, lambda: rank) == rank
    assert together(fabric, lambda: rank, first_only=True) == (0 if rank == 0 else None)

    def fail(which: int, error: BaseException) -> None:
        if rank == which:
            raise error

    for which, error in ((0, ValueError("broken")), (1, OSError(28, "full")), (0, KeyboardInterrupt())):
        with pytest.raises(type(error) if rank == which else ProcessStopped) as stopped:
            together(fabric, lambda which=which, error=error: fail(which, error))
        if rank != which:
            assert f"process {which} cannot go on" in str(stopped.value)
    # A last one that still works: nobody is left behind in an earlier one.
    assert together(fabric, lambda: "on") == "on"
    same_everywhere(fabric, {"a": 1}, "things")
    with pytest.raises(ProcessStopped, match="things of process 1 are not those of process 0"):
        same_everywhere(fabric, rank, "things")
    dist.barrier()
    if rank == 1:
        dist.destroy_process_group()
        return
    time.sleep(1)
    with pytest.raises(ProcessStopped, match="another process has ended"), leaving_is_told(fabric):
        dist.all_reduce(torch.ones(1))


def test_processes_stop_together(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_stops, (str(tmp_path),), nprocs=2)


def test_one_process_alone_has_its_own_errors() -> None:
    fabric = cast(Any, SimpleNamespace(world_size=1))
    with pytest.raises(KeyError):
        together(fabric, lambda: {}["x"])
    with pytest.raises(RuntimeError, match="Connection closed"), leaving_is_told(fabric):
        raise RuntimeError("Connection closed by peer")
    two = cast(Any, SimpleNamespace(world_size=2))
    with pytest.raises(NotFinite, match="/home/peer"), leaving_is_told(two):
        raise NotFinite("weights are not finite; /home/peer/checkpoint.pt stays as it was")
