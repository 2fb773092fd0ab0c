"""Statistics over two processes equal one process on the joint batch."""

from __future__ import annotations

import copy
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.cases import CUES, Case, inputs_of, layer_of
from helpers.hosts import HOSTS, four, images
from torch import nn

from scbn import TextFeatures, TreeGenerator, ops
from scbn.norm import SCBN

CASE = Case((5, 4, 3, 5), padded=True)
SHARE = (slice(0, 2), slice(2, 5))  # not the same size: every value counts once, not every process


def _worker(
    rank: int, folder: str, cue: str, momentum: float | None, backend: ops.Backend, dtype: torch.dtype
) -> None:
    torch.set_num_threads(1)
    ops.set_backend(backend)
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
    ("cue", "momentum", "backend"),
    [
        *((cue, 0.1, backend) for cue in CUES for backend in ("eager", "cpu")),
        ("word", None, "cpu"),
        ("word", None, "eager"),
        ("sentence", 0.1, "triton"),
        ("both", 0.1, "triton"),
    ],
)
def test_two_processes_equal_one_on_the_joint_batch(
    cue: str, momentum: float | None, backend: ops.Backend, tmp_path: Path
) -> None:
    if backend == "triton" and not ops.interpreted():
        pytest.skip("on a GPU this needs two of them")
    dtype = torch.float32 if backend == "triton" else torch.float64
    layer = layer_of(cue, 4, dtype, momentum=momentum)
    x, text = inputs_of(CASE, dtype)
    x = x + 100  # far from zero, where sums of squares would cancel
    torch.save({"state": layer.state_dict(), "x": x, "text": tuple(text)}, tmp_path / "job.pt")
    mp.start_processes(_worker, (str(tmp_path), cue, momentum, backend, dtype), nprocs=2, start_method="spawn")

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


def _uneven(
    rank: int, folder: str, cue: str, backend: ops.Backend, shares: list[list[int]], words: list[int]
) -> None:
    torch.set_num_threads(1)
    ops.set_backend(backend)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        job = torch.load(Path(folder) / "job.pt", weights_only=True)
        dtype = job["x"].dtype
        layer = layer_of(cue, job["x"].shape[1], dtype)
        layer.load_state_dict(job["state"])
        model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.ModuleList([layer]))[0]
        first, last = shares[rank]
        x = job["x"][first:last].clone().requires_grad_(first < last)  # an empty share comes from nowhere
        text = TextFeatures(*job["text"]).select(slice(first, last))
        # Words of padding alone: for the result nothing, for the choice of a backend everything.
        more = words[rank] - text.words.shape[1]
        text = text._replace(
            words=nn.functional.pad(text.words, (0, 0, 0, more)),
            padding_mask=nn.functional.pad(text.padding_mask, (0, more), value=True),
        )
        y = model(x, text)
        (y.sin().sum() + 0 * sum(p.sum() for p in model.parameters())).backward()
        result = {"y": y.detach(), "x": x.grad, "buffers": dict(model.bn.named_buffers())}
        torch.save(result, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("backend", "shape", "shares", "words"),
    [
        # With backend "auto" 8 samples of this size are beyond the threshold of the fused backend, and 7 are not.
        ("auto", (15, 64, 16, 16), [[0, 8], [8, 15]], [4, 4]),
        ("auto", (8, 64, 16, 16), [[0, 8], [8, 8]], [4, 4]),
        ("auto", (8, 64, 16, 16), [[0, 0], [0, 8]], [4, 4]),
        ("eager", (5, 4, 3, 5), [[0, 5], [5, 5]], [4, 4]),
        ("cpu", (5, 4, 3, 5), [[0, 5], [5, 5]], [4, 4]),
        ("reference", (5, 4, 3, 5), [[0, 5], [5, 5]], [4, 4]),
        ("triton", (5, 4, 3, 5), [[0, 2], [2, 5]], [126, 128]),
        ("triton", (5, 4, 3, 5), [[0, 5], [5, 5]], [4, 4]),
    ],
)
@pytest.mark.parametrize("cue", ["sentence", "both"])
def test_processes_with_uneven_or_empty_shares(
    cue: str,
    backend: ops.Backend,
    shape: tuple[int, ...],
    shares: list[list[int]],
    words: list[int],
    tmp_path: Path,
) -> None:
    """No share decides for a backend that makes other collective calls: that would wait for ever."""
    if backend == "triton" and not ops.interpreted():
        pytest.skip("on a GPU this needs two of them")
    layer = layer_of(cue, shape[1], torch.float32)
    x, text = inputs_of(Case(shape, padded=True), torch.float32)
    torch.save({"state": layer.state_dict(), "x": x, "text": tuple(text)}, tmp_path / "job.pt")
    mp.start_processes(_uneven, (str(tmp_path), cue, backend, shares, words), nprocs=2, start_method="spawn")
    single = copy.deepcopy(layer)
    with ops.use_backend("eager"):
        y = single(x.requires_grad_(), text)
    y.sin().sum().backward()
    for rank, (first, last) in enumerate(shares):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(got["y"], y[first:last].detach(), rtol=1e-3, atol=1e-4)
        assert (got["x"] is None) == (first == last)
        if first < last:
            torch.testing.assert_close(got["x"], x.grad[first:last], rtol=1e-3, atol=1e-4)
        for name, value in single.bn.named_buffers():
            torch.testing.assert_close(got["buffers"][name], value, rtol=1e-4, atol=1e-5)


def _nothing_left(rank: int, folder: str, backend: ops.Backend) -> None:
    torch.set_num_threads(1)
    ops.set_backend(backend)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(nn.ModuleList([layer_of("both", 4, torch.float32)]))[0]
    x, text = inputs_of(Case((2, 4, 5, 5)), torch.float32)
    y = layer(x.requires_grad_(), text)
    y.sum().backward(retain_graph=True)  # the graph is there still when the group goes
    dist.destroy_process_group()
    tasks = Path("/proc/self/task")
    left = [name for task in tasks.iterdir() if "gloo" in (name := (task / "comm").read_text())]
    assert not left, left


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted where Linux lists them")
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_destroying_the_group_ends_gloos_threads(backend: ops.Backend, tmp_path: Path) -> None:
    """One that outlives the interpreter is ended by it: "terminate called without an active exception", status 134."""
    mp.start_processes(_nothing_left, (str(tmp_path), backend), nprocs=2, start_method="spawn")


def _tree() -> tuple[TreeGenerator, tuple[torch.Tensor, TextFeatures]]:
    torch.manual_seed(0)
    tree = TreeGenerator(5, 6, stages=2, base_size=8, channels=4, residual_blocks=1)
    for parameter in tree.parameters():
        nn.init.normal_(parameter, std=0.2)
    _, text = inputs_of(Case((4, 4, 1, 1), padded=True), torch.float32)
    return tree.eval(), (torch.randn(4, 100), text)


def _sharded(rank: int, folder: str, where: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        tree, (noise, text) = _tree()
        mesh = init_device_mesh("cpu", (2,))
        layers = [m for m in tree.modules() if isinstance(m, SCBN)]
        if where == "batch norm":
            for layer in layers:
                fully_shard(layer.bn, mesh=mesh)
            with pytest.raises(ValueError, match=r"fully_shard\(layer\)"):
                tree(noise, text)
            return
        for part in {"layer": layers, "stage": tree.stages, "root": []}[where]:
            fully_shard(part, mesh=mesh)
        fully_shard(tree, mesh=mesh)
        mine = slice(2 * rank, 2 * rank + 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an output is a view, on which nothing is done in place
            output = tree(noise[mine], text.select(mine))
        output.images[-1].square().sum().backward()
        grads = [p.grad.full_tensor() if p.grad is not None else None for p in tree.parameters()]
        torch.save({"image": output.images[-1].detach(), "grads": grads}, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("where", ["layer", "stage", "root", "batch norm"])
def test_fully_shard(where: str, tmp_path: Path) -> None:
    mp.start_processes(_sharded, (str(tmp_path), where), nprocs=2, start_method="spawn")
    if where == "batch norm":
        return
    tree, call = _tree()
    image = tree(*call).images[-1]
    image.square().sum().backward()
    for rank in (0, 1):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(got["image"], image[2 * rank : 2 * rank + 2].detach(), rtol=1e-4, atol=1e-5)
        for grad, parameter in zip(got["grads"], tree.parameters(), strict=True):
            if grad is not None:  # averaged over processes
                torch.testing.assert_close(grad, parameter.grad / 2, rtol=1e-3, atol=1e-4)
            else:
                assert parameter.grad is None or not parameter.grad.any()


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
