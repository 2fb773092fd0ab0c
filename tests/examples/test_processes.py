"""Real processes: two of them train as one does, and none of them loses anything when it is killed."""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import ROOT, SCRIPT, environment
from helpers.training import TINY, same, weights

from examples.sdgan.models import checkpoint


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "train_few_birds.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    return path


def train(script: Path, out: Path, *arguments: str, launcher: tuple[str, ...] = (), **options) -> subprocess.Popen:
    command = [
        sys.executable,
        *launcher,
        str(script),
        *TINY,
        "--accelerator",
        "cpu",
        "--out",
        str(out),
        *arguments,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), **options
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("launch", ["torchrun", "fabric"])
def test_two_processes_train_as_one_does(
    launch: str, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Adam's first steps are as long as the learning rate however small the gradient: where that is zero but for
    # rounding, a weight would move either way. A large eps makes steps follow gradients. After some more steps a GAN
    # makes much of any rounding, in one process too: weights that start off by 1e-7 end by 1e-3 to 1e-2.
    monkeypatch.setenv("ADAM_EPS", "1")
    finish(train(script, tmp_path / "one", "--log", "none", "--steps", "2"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    launcher = torchrun if launch == "torchrun" else ()
    options = ("--devices", "2", "--sync-batch-norm", "--steps", "2")
    output = finish(train(script, tmp_path / "two", *options, launcher=launcher))
    assert len(re.findall("done: look at", output)) == 1
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6 + 1e-2 * float(value.abs().max()), msg=name)
    a, b = (checkpoint.load(tmp_path / n / "checkpoint.pt")["history"] for n in ("one", "two"))
    for phase in ("encoders", "gan"):
        for curve in a[phase]:
            assert b[phase][curve] == pytest.approx(a[phase][curve], rel=1e-3, nan_ok=True), (phase, curve)
    fidelity = [
        json.loads((tmp_path / n / "metrics.json").read_text())["caption_fidelity"] for n in ("one", "two")
    ]
    assert fidelity[0]["images"] == fidelity[1]["images"] == 30


def test_a_batch_that_cannot_be_shared_out(script: Path, tmp_path: Path) -> None:
    process = train(script, tmp_path, "--devices", "3")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "--batch-size: 4 pairs a part cannot be shared out evenly between 3 processes" in " ".join(
        output.split()
    )


def test_kill_9_at_any_step_and_resume_is_the_run_that_never_was_killed(script: Path, tmp_path: Path) -> None:
    options = ("--steps", "60", "--checkpoint-every", "7", "--log", "none")
    finish(train(script, tmp_path / "whole", *options))
    seed = random.SystemRandom().randrange(1 << 30)
    rng, out, killed = random.Random(seed), tmp_path / "killed", []
    while len(killed) < 3:
        resume = ("--resume",) if (out / "checkpoint.pt").exists() else ()
        process = train(script, out, *options, *resume)
        step = rng.randrange(60)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "checkpoint.pt").exists() and checkpoint.load(out / "checkpoint.pt")["steps"].get(
                "gan", 0
            ) >= step:
                break
            time.sleep(0.02)
        time.sleep(rng.random() * 0.3)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed.append(step)
    assert killed, f"{seed=}: the run ended before it could be killed"
    finish(train(script, out, *options, "--resume"))
    assert same(weights(out), weights(tmp_path / "whole")), f"{seed=}, {killed=}"
    histories = [checkpoint.load(p / "checkpoint.pt")["history"] for p in (out, tmp_path / "whole")]
    assert str(histories[0]) == str(histories[1])


def test_a_full_disk_keeps_the_previous_checkpoint(script: Path, tmp_path: Path) -> None:
    finish(train(script, tmp_path, "--steps", "3", "--log", "none"))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    limit = len(before) // 2

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = train(script, tmp_path, "--log", "none", "--resume", preexec_fn=small_disk)
    output, _ = process.communicate(timeout=120)
    told = " ".join(output.split())
    assert process.returncode == 2, output
    assert "checkpoint.pt could not be written" in told
    assert "the previous checkpoint is untouched" in told
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))
