"""Checks of feature maps, and of how they meet a layer's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LAYOUTS = "(N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W)"


def floating(name: str, tensor: Tensor, instead: str) -> None:
    """Require a dtype that can be computed in; the message ends with what to do instead."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {name}.dtype={tensor.dtype}; {instead}")
    if tensor.dtype.itemsize == 1:
        raise ValueError(
            f"{name} must be float64, float32, bfloat16 or float16, got {name}.dtype={tensor.dtype}; {instead}"
        )


def dense(name: str, tensor: Tensor) -> None:
    """Require a tensor whose values lie in memory one beside the other."""
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got {name}.layout={tensor.layout}; pass {name}.to_dense()")


def beside(name: str, tensor: Tensor, other: str, device: torch.device) -> None:
    """Require a tensor on the device of another."""
    if tensor.device != device:
        raise ValueError(
            f"{name} is on {tensor.device} but {other} is on {device}; move it with {name}.to('{device}')"
        )


def not_symbolic(*values: object) -> None:
    """Require values, not torch.fx's stand-ins for them."""
    if any(type(value).__module__ == "torch.fx.proxy" for value in values):
        raise ValueError(
            "torch.fx.symbolic_trace cannot follow scbn, whose modules look at shapes and dtypes; use torch.export.export "
            "or torch.compile, or a torch.fx.Tracer whose is_leaf_module takes the modules of scbn for leaves"
        )


def visual(x: Tensor, num_features: int | None) -> None:
    """Require a floating visual feature map with ``num_features`` channels."""
    not_symbolic(x)
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a tensor of shape {LAYOUTS}, got {type(x).__name__}")
    if not 2 <= x.dim() <= 5:
        raise ValueError(f"x must have shape {LAYOUTS}, got {x.shape=}")
    floating("x", x, "convert it with x.float()")
    dense("x", x)
    if num_features is not None and x.shape[1] != num_features:
        raise ValueError(
            f"axis 1 of x must have num_features={num_features} channels, got {x.shape=}; "
            "build the layer with num_features=x.shape[1], or permute x to channels first"
        )


def at_hand(bn: nn.Module) -> None:
    """Require a batch norm whose tensors are there to be read: the layer never calls it."""
    held = getattr(bn, "weight", None)
    if not isinstance(bn, _BatchNorm) or type(held).__name__ == "DTensor":
        raise ValueError(
            f"the layer reads the tensors of its batch norm and never calls it, so a tool that hooks onto it or wraps it "
            f"(got {type(held).__name__} in {type(bn).__name__}) does not get its turn; apply the tool to the whole layer, "
            "a stage or the model: fully_shard(layer); for FSDP, a policy with {SentenceSCBN, WordSCBN} and not with batch "
            "norms"
        )


def meets(x: Tensor, *holders: nn.Module) -> None:
    """Require weights that are on x's device, and in float64 for a float64 x, or precision is lost.

    Of the first of ``holders`` that has any, by attribute: replicas of DataParallel have no parameters, and quantised
    layers none that is a tensor.
    """
    tensors = (getattr(holder, name, None) for holder in holders for name in ("weight", "running_mean"))
    held = next((tensor for tensor in tensors if isinstance(tensor, Tensor)), None)
    if held is None:
        return
    if held.is_meta and not x.is_meta:
        raise ValueError(
            "the layer's weights are on the meta device but x is not: give them memory (layer.to_empty(device=...), then "
            "load_state_dict or reset_parameters), or, where hooks bring them at each call (accelerate's cpu_offload, "
            "dispatch_model), pass preload_module_classes=['SentenceSCBN', 'WordSCBN'], after a retrofit ['RetrofittedSentenceSCBN', "
            "'RetrofittedWordSCBN']: the layer reads its batch norm's tensors without calling it"
        )
    beside("x", x, "the layer", held.device)
    if x.dtype == torch.float64 and held.dtype != torch.float64 and held.is_floating_point():
        raise ValueError(f"x is float64 but the layer holds {held.dtype}; call layer.double(), or pass x.float()")


def batch_values(x: Tensor) -> None:
    """Require more than one value per channel, of which batch statistics are; with BatchNorm's own message."""
    if x.numel() == x.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
