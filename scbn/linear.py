"""The linear layers of a norm: heads that start at zero, and the dtype that a linear layer is fed."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from scbn import ops


class ZeroHead(nn.Linear):
    """A linear layer that starts at zero: with it, an SCBN layer starts as plain batch normalisation.

    That start should survive what people do to a model. ``reset_parameters`` gives zeros. Initialisers that go by the name
    of a class ("Linear", "Conv", "BatchNorm", as AttnGAN's ``weights_init``) leave this one alone. One that goes by
    ``isinstance`` is noticed at the next call: weights at work that were neither trained nor loaded, with a bias of one
    value, are an initialiser's.

    Args:
        in_features, out_features, device, dtype: as :class:`torch.nn.Linear`.

    Raises:
        ValueError: at a call, for weights that a reparametrisation (spectral or weight norm) divides by their norm, zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # In a list, which DataParallel's replicas share.
        self._at_zero = [True]
        super().__init__(in_features, out_features, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Zero, and expected to be."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self._at_zero[0] = True

    def forward(self, input: Tensor) -> Tensor:
        watched = self._at_zero[0] and not torch.compiler.is_compiling() and not ops.recorded()
        if watched:
            self._look()
        y = super().forward(input)
        if watched and y.requires_grad:
            y.register_hook(self._train)
        return y

    def _train(self, grad: Tensor) -> None:
        self._at_zero[0] = False

    def _look(self) -> None:
        if not _readable(self.weight) or not bool(self.weight.any()):
            return
        if bool(self.weight.isnan().any()):
            raise ValueError(
                "a head that starts at zero holds NaN: spectral_norm and weight_norm divide its weights by their norm, "
                "which is 0. Leave the heads (to_gamma, to_beta, the last layer of mlp) out of it, or give them weights "
                "first"
            )
        self._at_zero[0] = False
        # Of one number nothing can be told but that it is zero.
        same = self.bias == (self.bias[0] if len(self.bias) > 1 else 0)
        if _readable(self.bias) and bool(same.all()):
            warnings.warn(
                "a head of an SCBN layer should start at zero, but an initialiser has given it weights (net.apply(...) "
                "after the layer was made?): the layer does not start as plain batch normalisation. Call "
                "layer.reset_parameters() after it, or let it leave out the classes of scbn. If you gave these weights "
                "on purpose, nothing is wrong",
                stacklevel=2,
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        loaded = state_dict.get(f"{prefix}weight")
        if isinstance(loaded, Tensor) and not (_readable(loaded) and not bool(loaded.any())):
            self._at_zero[0] = False


def _readable(tensor: Any) -> bool:
    """Whether the values are there to look at: no shard, no quantised storage, nothing on the meta device."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta or not tensor.is_floating_point():
        return False
    return tensor.dtype.itemsize > 1 and not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def as_input_of(linear: nn.Module, features: Tensor) -> Tensor:
    """``features`` in the dtype of the weights of a plain linear layer, which refuses any other.

    Where weights are stored in another dtype than they compute in (quantised, or cast by hooks while they are used), the
    module knows itself what to do with its input.
    """
    if getattr(linear.forward, "__func__", None) is not nn.Linear.forward or linear._forward_pre_hooks:
        return features
    weight = linear.weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point() or weight.dtype.itemsize == 1:
        return features
    return features.to(weight.dtype)
