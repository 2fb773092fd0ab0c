"""The linear layers of a norm: heads that start at zero, and the dtype that a linear layer is fed."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

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
        watched = self._at_zero[0] and not ops.recorded()
        if watched and torch.compiler.is_compiling():
            if "weight" in self._parameters:
                _initialised(self.weight, self.bias)  # while it is compiled
        elif watched:
            self._look()
            y = super().forward(input)
            if y.requires_grad:
                y.register_hook(self._train)
            return y
        return super().forward(input)

    def _train(self, grad: Tensor) -> None:
        self._at_zero[0] = False

    def _look(self) -> None:
        weight, bias = self.weight, self.bias
        if parametrize.is_parametrized(self) or any(hasattr(self, f"weight_{part}") for part in ("g", "orig")):
            if _readable(weight) and bool(weight.isnan().all()):
                raise ValueError(
                    "a head that starts at zero holds NaN: spectral_norm and weight_norm divide its weights by their norm, "
                    "which is 0. Leave the heads (to_gamma, to_beta, the last layer of mlp) out of it, or give them "
                    "weights first"
                )
        elif _initialised(weight, bias):
            self._at_zero[0] = False

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        loaded = state_dict.get(f"{prefix}weight")
        if isinstance(loaded, Tensor):
            self._at_zero[0] = _readable(loaded) and not bool(loaded.any())


def _initialised(weight: Tensor, bias: Tensor) -> bool:
    """Whether a head is not at zero; it warns where that looks like an initialiser's work."""
    if not _readable(weight) or not _readable(bias) or not (bool(weight.any()) or bool(bias.any())):
        return False
    # Of one number nothing can be told but that it is zero. What is frozen is an adapter's base, not initialised.
    learns = weight.requires_grad and bias.requires_grad
    if learns and bool((bias == (bias[0] if len(bias) > 1 else 0)).all()):
        warnings.warn(
            "a head of an SCBN layer should start at zero, but an initialiser has given it weights (net.apply(...) "
            "after the layer was made?): the layer does not start as plain batch normalisation. Call "
            "layer.reset_parameters() after it, or let it leave out the classes of scbn. If you gave these weights "
            "on purpose, nothing is wrong",
            stacklevel=4,
        )
    return True


# For torch.compile: called once, with the weights as they are then.
_initialised._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _readable(tensor: Any) -> bool:
    """Whether the values are there to look at: no shard, no quantised storage, no meta or fake tensor."""
    if torch._C._len_torch_dispatch_stack() and not torch.compiler.is_compiling():
        return False
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta or not tensor.is_floating_point():
        return False
    return tensor.dtype.itemsize > 1 and not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def as_input_of(linear: nn.Module, features: Tensor) -> Tensor:
    """``features`` in the dtype of the weights of a plain linear layer, which refuses any other.

    Where weights are stored in another dtype than they compute in (quantised, or cast by hooks while they are used), the
    module knows itself what to do with its input.
    """
    # Not by the bound method's __func__, of which torch.compile makes another one.
    replaced = "forward" in linear.__dict__ or type(linear).forward is not nn.Linear.forward
    if replaced or linear._forward_pre_hooks:
        return features
    weight = linear.weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point() or weight.dtype.itemsize == 1:
        return features
    return features.to(weight.dtype)
