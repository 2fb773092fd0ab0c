"""Devices and processes: which there are, and what processes share so that together they are one."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from examples.sdgan.config import Config
from scbn import TextFeatures
from scbn.functional import normalize
from scbn.norm import batch_norm_state

T = TypeVar("T")
# How gloo and NCCL say that somebody is gone.
_CONNECTION = re.compile(r"onnection (closed|reset|refused)|roken pipe|remote process|peer", re.IGNORECASE)
_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers"  # before torch 2.15
)


def make_fabric(config: Config) -> Fabric:
    """Start the processes that the options ask for, or join those that ``torchrun`` started.

    Raises:
        ValueError: the machine has no such devices, or a batch cannot be shared out between them.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    several = config.devices * config.nodes > 1 or launched > 1
    # Buffers are equal without being sent (statistics are shared or else each process's own; spectral norm's vectors
    # follow from the weights), and sending them in a second forward would overwrite what the first one's backward needs.
    strategy = DDPStrategy(**{_BUFFERS: False}) if several else "auto"  # pyright: ignore[reportArgumentType]
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=strategy,
            precision=config.precision,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"--accelerator {config.accelerator}, --devices {config.devices}, --nodes {config.nodes}, "
            f"--precision {config.precision}: {error}"
        ) from error
    if launched > 1 and config.devices * config.nodes != launched:
        raise ValueError(
            f"torchrun started {launched} processes, the options ask for {config.devices} devices on {config.nodes} "
            f"machines; pass --devices (processes a machine) and --nodes to match"
        )
    for name, pairs in (
        ("batch-size", config.batch_size / config.accumulate),
        ("encoder.batch-size", config.encoder.batch_size // 2),
    ):
        if pairs % (config.devices * config.nodes):
            raise ValueError(
                f"--{name}: {pairs:g} pairs a part cannot be shared out evenly between "
                f"{config.devices * config.nodes} processes"
            )
    fabric.launch()
    return fabric


class SharedBatchNorm(_BatchNorm):
    """``nn.SyncBatchNorm`` for the CPU, where PyTorch's own, and DDP around it, refuse."""

    process_group: dist.ProcessGroup | None = None

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of spatial dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        y = normalize(input, batch_norm_state(self, input))
        if self.weight is None or self.bias is None:
            return y
        shape = (1, -1, *(1,) * (input.dim() - 2))
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)


def share_statistics(module: nn.Module, device: torch.device) -> nn.Module:
    """Every batch norm with the statistics of all processes' batches; names in the state dict stay as they are."""
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if device.type == "cpu":
        for norm in converted.modules():
            if isinstance(norm, nn.SyncBatchNorm):
                norm.__class__ = SharedBatchNorm  # pyright: ignore[reportAttributeAccessIssue]
    return converted


class OwnBatchNorm(_BatchNorm):
    """Batch norm over this process's batches alone, for any number of spatial dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any."""


def own_statistics(module: nn.Module) -> nn.Module:
    """Every shared batch norm, in place, as one that looks at this process's batches alone."""
    for norm in module.modules():
        if isinstance(norm, SharedBatchNorm | nn.SyncBatchNorm):
            norm.__class__ = OwnBatchNorm  # pyright: ignore[reportAttributeAccessIssue]
            vars(norm).pop("process_group", None)
    return module


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())
        ]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(fabric: Fabric, tensor: Tensor) -> Tensor:
    """(N, ...) of every process, as (world N, ...) in their order; backwards it sums the processes' gradients."""
    if fabric.world_size == 1:
        return tensor
    gathered = _Gather.apply(tensor)
    assert isinstance(gathered, Tensor)
    return gathered


def gather_text(fabric: Fabric, text: TextFeatures) -> TextFeatures:
    """The text features of all processes."""
    if fabric.world_size == 1:
        return text
    assert text.sentence is not None and text.words is not None and text.padding_mask is not None
    return TextFeatures(
        gather(fabric, text.sentence),
        gather(fabric, text.words),
        gather(fabric, text.padding_mask.to(torch.uint8)).bool(),
    )


def no_sync(fabric: Fabric, module: Any, stay: bool) -> AbstractContextManager[Any]:
    """Backward passes in here leave gradients to the process that made them: more of the batch is to come."""
    return fabric.no_backward_sync(module) if stay and fabric.world_size > 1 else nullcontext()


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """What DDP does, for modules whose parts are called one by one."""
    if fabric.world_size == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= fabric.world_size
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def broadcast_buffers(fabric: Fabric, module: nn.Module) -> None:
    """The first process's buffers in all of them."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def average_losses(fabric: Fabric, losses: dict[str, Tensor]) -> dict[str, float]:
    """As numbers, averaged over processes; waits for the device.

    Where ``NAME/count`` is among them, ``NAME`` is a sum over so many, and left out where there were none.
    """
    stacked = torch.stack([value.float() for value in losses.values()])
    if fabric.world_size > 1:
        dist.all_reduce(stacked)
        stacked /= fabric.world_size
    values = dict(zip(losses, stacked.tolist(), strict=True))
    for name in [name for name in values if f"{name}/count" in values]:
        total, count = values.pop(name), values.pop(f"{name}/count")
        if count:
            values[name] = total / count
    return values


def anyone(fabric: Fabric, flag: bool) -> bool:
    """Whether any process says so; all get the same answer."""
    if fabric.world_size == 1:
        return flag
    told = torch.tensor([float(flag)], device=fabric.device)
    dist.all_reduce(told)
    return bool(told)


class ProcessStopped(RuntimeError):
    """Another process cannot go on, so none can; the message says which and why."""


def together(fabric: Fabric, work: Callable[[], T], first_only: bool = False) -> T | None:
    """Do something that can fail: where it fails in one process all of them raise, and none waits for ever.

    Args:
        fabric: the processes; each must call this at the same point.
        work: what to do; it may hold nothing that processes do together.
        first_only: only the first process does it.

    Returns:
        What ``work`` returned in this process, ``None`` where it was not called.

    Raises:
        ProcessStopped: another process failed; this one's own error is raised as it is.
    """
    if fabric.world_size == 1:
        return work()
    result, failure = None, None
    if fabric.is_global_zero or not first_only:
        try:
            result = work()
        except (Exception, KeyboardInterrupt) as error:
            failure = error
    if not anyone(fabric, failure is not None):
        return result
    reason = None if failure is None else str(failure) or type(failure).__name__
    reasons: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(reasons, reason)
    if failure is not None:
        raise failure
    rank, told = next((rank, told) for rank, told in enumerate(reasons) if told is not None)
    raise ProcessStopped(f"stopped, for process {rank} cannot go on: {told}")


def same_everywhere(fabric: Fabric, value: Any, what: str) -> None:
    """Raise where a value is not the same in all processes.

    Raises:
        ProcessStopped: in every process.
    """
    if fabric.world_size == 1:
        return
    values: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(values, value)
    other = next((rank for rank, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        raise ProcessStopped(f"{what} of process {other} are not those of process 0; give all machines the same")


@contextmanager
def leaving_is_told(fabric: Fabric) -> Iterator[None]:
    """Where a process ends in the midst of what all do, the others' connections break: they say so and end too."""
    try:
        yield
    except RuntimeError as error:
        # Errors of ours are of a type of their own; their words may be any.
        ours = type(error) is not RuntimeError and not isinstance(error, dist.DistError)
        if fabric.world_size == 1 or ours or not _CONNECTION.search(str(error)):
            raise
        raise ProcessStopped(
            f"stopped, for another process has ended; its own message says why ({str(error).splitlines()[0]:.200})"
        ) from error


def leave() -> None:
    """End what the processes have in common; left to the end of Python, threads of gloo sometimes abort it."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        with suppress(RuntimeError):
            dist.destroy_process_group()
