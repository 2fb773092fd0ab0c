"""The child ``bn`` of every SCBN layer: how it is made, adopted and read.

The norm is a child and not a base class: ``nn.SyncBatchNorm.convert_sync_batchnorm`` replaces subclasses of
``_BatchNorm`` wholesale and would silently drop the condition; a child it converts correctly.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from scbn import checks
from scbn.functional import BatchNormState


class SCBN(nn.Module):
    """What the SCBN layers share: a batch norm child and the ways to get one."""

    bn: _BatchNorm

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        checks.positive(num_features=num_features)
        checks.norm(eps, momentum)
        checks.parameter_dtype(dtype)
        # The 2-D class only holds weights and statistics: its forward, and with it its check of rank, never runs.
        self.bn = nn.BatchNorm2d(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    @property
    def num_features(self) -> int:
        """Channels C of the feature map."""
        return self.bn.num_features

    @classmethod
    def from_batch_norm(cls, bn: nn.Module, *args: Any, **kwargs: Any) -> Self:
        """Build the layer around an existing batch norm, which becomes the child ``bn`` as it is.

        Weights, running statistics, eps, momentum, device, dtype and mode are the given norm's; at first the layer
        computes what ``nn.BatchNorm2d`` with these weights and statistics would. (A norm whose class has a forward of
        its own is adopted too, but that forward no longer runs.)

        Args:
            bn: any ``nn.BatchNorm*d`` or ``nn.SyncBatchNorm``, initialised.
            args, kwargs: the layer's own arguments after ``num_features``.

        Raises:
            ValueError: ``bn`` is no batch norm, is lazy, or ``kwargs`` repeat what ``bn`` settles.
        """
        bn = checks.adoptable(bn, kwargs)
        like = bn.weight if bn.weight is not None else bn.running_mean
        if like is not None:
            kwargs = {"device": like.device, "dtype": like.dtype, **kwargs}
        layer = cls(bn.num_features, *args, **kwargs)
        layer.bn = bn
        return layer.train(bn.training)

    def reset_parameters(self) -> None:
        """Weights and statistics as when the layer was made: plain batch normalisation."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()

    def _check(self, x: Tensor) -> None:
        checks.visual(x, self.num_features)
        checks.at_hand(self.bn)
        for hook in self.bn._forward_pre_hooks.values():
            # What torch.nn.utils works out before each call (pruning, weight norm): the layer reads bn and does not call it.
            if type(hook).__module__.startswith("torch.nn.utils."):
                hook(self.bn, (x,))
        checks.meets(x, self.bn, *(m for m in self.modules() if isinstance(m, nn.Linear)))

    def extra_repr(self) -> str:
        return f"{self.num_features}"


def batch_norm_state(bn: _BatchNorm, x: Tensor) -> BatchNormState:
    """Read from ``bn`` what normalising ``x`` takes, as ``_BatchNorm.forward`` does.

    Raises:
        ValueError: batch statistics of a single value per channel, with BatchNorm's own message.
    """
    use_batch = bn.training or (bn.running_mean is None and bn.running_var is None)
    group = _sync_group(bn) if use_batch and bn.training else None
    if use_batch and group is None:
        checks.batch_values(x)
    tracking = bn.training and bn.track_running_stats
    keep = tracking or not bn.training
    return BatchNormState(
        running_mean=bn.running_mean if keep else None,
        running_var=bn.running_var if keep else None,
        weight=bn.weight,
        bias=bn.bias,
        use_batch_statistics=use_batch,
        momentum=bn.momentum,
        eps=bn.eps,
        num_batches_tracked=bn.num_batches_tracked if tracking else None,
        group=group,
        frozen=_recomputing(),
    )


@contextlib.contextmanager
def recomputing() -> Iterator[None]:
    """Within the block layers compute what they computed before, and their statistics stay: they have moved already."""
    before = getattr(_mode, "recomputing", False)
    _mode.recomputing = True
    try:
        yield
    finally:
        _mode.recomputing = before


def _recomputing() -> bool:
    # Compiled, a checkpointed region is recomputed by the compiler, which moves statistics once by itself.
    return not torch.compiler.is_compiling() and getattr(_mode, "recomputing", False)


# Of the thread: a backward on a GPU recomputes in one of its own.
_mode = threading.local()


def _sync_group(bn: _BatchNorm) -> dist.ProcessGroup | None:
    # By attribute: DDP refuses nn.SyncBatchNorm on the CPU, and other libraries have norms of their own.
    if not hasattr(bn, "process_group") or not dist.is_available() or not dist.is_initialized():
        return None
    group: Any = bn.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None
