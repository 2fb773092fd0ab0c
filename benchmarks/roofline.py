"""What a training step would take on GPUs nobody here has, from the operations it consists of: ``python -m benchmarks.roofline``.

The step runs on tensors that have shapes and no values. Each operation takes the longer of two times: its arithmetic at
the peak of the tensor cores, its reading and writing at the peak of the memory. Nothing overlaps, nothing is fused, and
nothing reaches a peak: a lower bound for these operations one by one, no prediction.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from examples.sdgan.config import Config
from examples.sdgan.data.pairs import PairBatch
from examples.sdgan.models.encoders import InceptionImageEncoder
from examples.sdgan.presets import preset
from examples.sdgan.training.gan import GanTraining
from scbn import TextFeatures

META = torch.device("meta")


@dataclass(frozen=True)
class Options:
    """The preset's training step at 256 px, in bfloat16, on several GPUs of one machine; defaults: H100 SXM."""

    data: Literal["cub", "coco"] = "cub"
    pairs: tuple[int, ...] = (4, 10, 20, 40)
    """Pairs of a GPU and step."""
    gpus: int = 8
    tflops: float = 989.0
    """Of a GPU, dense, bfloat16."""
    tbytes: float = 3.35
    """Terabytes a second of a GPU's memory."""
    link: float = 450.0
    """Gigabytes a second that a GPU sends to the others."""
    launch: float = 5.0
    """Microseconds of the host for an operation."""


@dataclass
class Cost:
    """Of a step on one GPU.

    Attributes:
        flops: of convolutions and products.
        moved: bytes read and written, each operation alone.
        limited: seconds, each operation at the peak that limits it, by which that is: compute or memory.
        operations: launched.
        parameters: whose gradients processes share.
    """

    flops: float = 0.0
    moved: float = 0.0
    limited: dict[str, float] = dataclasses.field(default_factory=lambda: {"compute": 0.0, "memory": 0.0})
    operations: int = 0
    parameters: int = 0


class Counting(TorchDispatchMode):
    """Adds up the cost of every operation that is no view."""

    def __init__(self, tflops: float, tbytes: float) -> None:
        super().__init__()
        self.peaks, self.cost = (1e12 * tflops, 1e12 * tbytes), Cost()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view:
            self._add(func, args, kwargs, out)
        return out

    def _add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        tensors = [t for t in pytree.tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        tensors = [t for t in tensors if t.device == META]
        if not tensors:
            return
        # Autocast's storage: what is float32 here would be bfloat16, but for the optimisers' own.
        wide = "_foreach" in func.name() or "_fused" in func.name()
        moved = float(
            sum(t.numel() * (2 if t.dtype == torch.float32 and not wide else t.itemsize) for t in tensors)
        )
        count = flop_registry.get(func._overloadpacket)
        flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
        times = {"compute": flops / self.peaks[0], "memory": moved / self.peaks[1]}
        limit = max(times, key=lambda name: times[name])
        self.cost.flops += flops
        self.cost.moved += moved
        self.cost.limited[limit] += times[limit]
        self.cost.operations += 1


class OneProcess:
    """What a phase of training asks of Fabric, for tensors without values."""

    device, world_size, global_rank = META, 1, 0

    def setup(self, module: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        object.__setattr__(module, "module", module)
        return module, optimizer

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def autocast(self) -> Any:
        return contextlib.nullcontext()


class _Text(nn.Module):
    """Shapes of text features; the LSTM itself is left out, below a thousandth of the arithmetic."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, tokens: Tensor, on_host: Any = None) -> TextFeatures:
        n, t = tokens.shape
        return TextFeatures(
            torch.empty(n, self.dim, device=META), torch.empty(n, t, self.dim, device=META), tokens == 0
        )


def step_cost(config: Config, tflops: float, tbytes: float) -> Cost:
    """One step of a process's part of the batch."""
    n, words = 2 * config.batch_size, config.encoder.words
    with META, _optimizers_for_shapes():
        text, image = _Text(config.encoder.dim), InceptionImageEncoder(config.encoder.dim, "random")
        fabric: Any = OneProcess()
        gan = GanTraining(fabric, config, text, image)  # pyright: ignore[reportArgumentType]
        which = torch.zeros(n, dtype=torch.int64)
        pixels = torch.zeros(n, 3, config.size, config.size, dtype=torch.uint8)
        same = torch.ones(config.batch_size, dtype=torch.bool)
        batch = PairBatch(pixels, torch.ones(n, words, dtype=torch.int64), same, which, which)
    with Counting(tflops, tbytes) as counting:
        gan.step(0, batch)
    trained = (*gan.generator.parameters(), *gan.trained)
    counting.cost.parameters = sum(p.numel() for p in trained)
    return counting.cost


@contextlib.contextmanager
def _optimizers_for_shapes() -> Any:
    """Adam as one operation over all parameters, which fused is, and which takes tensors without values."""
    adam = torch.optim.Adam
    torch.optim.Adam = lambda *args, fused=None, **options: adam(*args, foreach=True, **options)
    try:
        yield
    finally:
        torch.optim.Adam = adam


def terms(cost: Cost, options: Options) -> dict[str, float]:
    """Seconds of a step by what takes them; the all-reduce is a ring's, of float32 gradients."""
    share = 2 * (options.gpus - 1) / options.gpus
    return {
        "compute": cost.limited["compute"],
        "memory": cost.limited["memory"],
        "all-reduce": share * 4 * cost.parameters / (1e9 * options.link),
        "launches": 1e-6 * options.launch * cost.operations,
    }


def main() -> int:
    """Print the table."""
    options = tyro.cli(Options, prog="python -m benchmarks.roofline")
    console = Console(soft_wrap=True)
    table = Table(
        *("pairs", "TFLOP", "GB", "compute", "memory", "all-reduce", "launches", "images/s"),
        title=f"{options.data}, 256 px, ms a step of {options.gpus} GPUs",
    )
    for pairs in options.pairs:
        config = dataclasses.replace(preset(options.data), batch_size=pairs)
        cost = step_cost(config, options.tflops, options.tbytes)
        found = terms(cost, options)
        # The host launches while the GPU works; gradients are sent after they are computed.
        seconds = max(found["compute"] + found["memory"], found["launches"]) + found["all-reduce"]
        cells = [f"{1e3 * found[name]:.1f}" for name in ("compute", "memory", "all-reduce", "launches")]
        images = 2 * pairs * options.gpus / seconds
        table.add_row(str(pairs), f"{cost.flops / 1e12:.2f}", f"{cost.moved / 1e9:.0f}", *cells, f"{images:,.0f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
