"""Statistics over two processes equal one process on the joint batch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import CUES, Case, inputs_of, layer_of
from hosts import HOSTS, four, images
from torch import nn

from scbn import TextFeatures, ops

CASE = Case((5, 4, 3, 5), padded=True)
SHARE = (slice(0, 2), slice(2, 5))  # not the same size: every value counts once, not every process


def _worker(rank: int, folder: str, cue: str, momentum: float | None, path: ops.Path, dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    ops.set_path(path)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        job = torch.load(Path(folder) / "job.pt", weights_only=True)
        layer = layer_of(cue, 4, dtype, momentum=momentum)
        layer.load_state_dict(job["state"])
        model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.ModuleList([layer]))[0]
        x = job["x"][SHARE[rank]].clone().requires_grad_()
        text = TextFeatures(*(t[SHARE[rank]] for t in job["text"]))
        y = model(x, text)
        y.sin().sum().backward()
        for parameter in model.parameters():  # by hand: DistributedDataParallel refuses SyncBatchNorm on the CPU
            dist.all_reduce(parameter.grad)
        result = {"y": y.detach(), "x": x.grad, "buffers": dict(model.bn.named_buffers())}
        result["parameters"] = {name: p.grad for name, p in model.named_parameters()}
        torch.save(result, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("cue", "momentum", "path"),
    [
        *((cue, 0.1, path) for cue in CUES for path in ("composed", "tiled")),
        ("word", None, "tiled"),
        ("word", None, "composed"),
        ("sentence", 0.1, "triton"),
        ("both", 0.1, "triton"),
    ],
)
def test_two_processes_equal_one_on_the_joint_batch(
    cue: str, momentum: float | None, path: ops.Path, tmp_path: Path
) -> None:
    if path == "triton" and not ops.interpreted():
        pytest.skip("on a GPU this needs two of them")
    dtype = torch.float32 if path == "triton" else torch.float64
    layer = layer_of(cue, 4, dtype, momentum=momentum)
    x, text = inputs_of(CASE, dtype)
    x = x + 100  # far from zero, where sums of squares would cancel
    torch.save({"state": layer.state_dict(), "x": x, "text": tuple(text)}, tmp_path / "job.pt")
    mp.start_processes(_worker, (str(tmp_path), cue, momentum, path, dtype), nprocs=2, start_method="spawn")

    close = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
    single = copy.deepcopy(layer)
    x.requires_grad_()
    y = single(x, text)
    y.sin().sum().backward()
    for rank in (0, 1):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(got["y"], y[SHARE[rank]].detach(), **close)
        torch.testing.assert_close(got["x"], x.grad[SHARE[rank]], **close)
        for name, value in single.bn.named_buffers():
            torch.testing.assert_close(got["buffers"][name], value)
        for name, parameter in single.named_parameters():
            torch.testing.assert_close(got["parameters"][name], parameter.grad, **close)


def _train_retrofitted(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        model, call = _host()
        wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        torch.manual_seed(3)
        images(wrapped(*(t[2 * rank : 2 * rank + 2] for t in call)))[-1].square().sum().backward()
        torch.save([p.grad for p in model.parameters()], Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def _host() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A retrofitted StackGAN in eval mode, where a sample does not depend on its batch, and four captions."""
    torch.manual_seed(0)
    host = HOSTS["StackGAN-v2"]
    model = host.make().double().eval()
    host.convert(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.ca_net.forward = lambda s: (s[:, :5], s[:, :5], s[:, :5])
    return model, tuple(t.double() for t in four(4)[:2])


def test_a_retrofitted_model_under_ddp(tmp_path: Path) -> None:
    mp.start_processes(_train_retrofitted, (str(tmp_path),), nprocs=2, start_method="spawn")
    model, call = _host()
    images(model(*call))[-1].square().sum().backward()
    for rank in (0, 1):
        grads = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for got, parameter in zip(grads, model.parameters(), strict=True):
            assert (got is None) == (parameter.grad is None)  # the patched augmentation leaves ca_net unused
            if got is not None:
                torch.testing.assert_close(got, parameter.grad / 2)  # DDP averages over processes
