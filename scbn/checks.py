"""Every check of the arguments of a public call, in one place.

Static facts only (types, shapes, dtypes, layouts, devices): nothing here reads a value from a tensor, so nothing
synchronises with a device or breaks ``torch.compile(fullgraph=True)``.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scbn.text import TextFeatures

LAYOUTS = "(N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W)"


def positive(**sizes: int) -> None:
    """Require whole numbers of at least 1."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {name}={value!r}")


def finite(**numbers: float) -> None:
    """Require real numbers that are neither NaN nor infinite."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {name}={value!r}")


def norm(eps: float, momentum: float | None) -> None:
    """Require settings that batch normalisation can work with."""
    finite(eps=eps)
    if not eps > 0:
        raise ValueError(
            f"eps must be positive, got {eps=}; it keeps a channel that does not vary from dividing by 0"
        )
    if momentum is not None:
        finite(momentum=momentum)


def parameter_dtype(dtype: torch.dtype | None) -> None:
    """Require a dtype that parameters can have, or none."""
    if dtype is not None and not (
        isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1
    ):
        raise ValueError(f"dtype must be torch.float32, float64, bfloat16 or float16, or None, got {dtype=}")


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
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype=}; convert it with x.float()")
    if x.dtype.itemsize == 1:
        raise ValueError(
            f"x must be float64, float32, bfloat16 or float16, got {x.dtype=}; convert it with x.float()"
        )
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


def sentence_cue(
    text: TextFeatures | Tensor, x: Tensor, sentence_dim: int, what: str = "x"
) -> tuple[Tensor, Tensor | None]:
    """The sentence vectors of ``text`` and its padding mask, checked against ``x``, which an error calls ``what``."""
    sentence, mask = (text.sentence, text.padding_mask) if isinstance(text, TextFeatures) else (text, None)
    if sentence is None:
        raise ValueError(
            "this layer needs the sentence cue, but text.sentence is None; pass TextFeatures(sentence=...) "
            f"of shape (N, {sentence_dim})"
        )
    _cue("sentence", sentence, x, ("N", sentence_dim), what)
    if mask is not None:
        _mask(mask, sentence, text.words if isinstance(text, TextFeatures) else None)
    return sentence, mask


def word_cue(
    text: TextFeatures | Tensor, x: Tensor, word_dim: int, what: str = "x"
) -> tuple[Tensor, Tensor | None]:
    """The word vectors of ``text`` and its padding mask, checked against ``x``, which an error calls ``what``."""
    words, mask = (text.words, text.padding_mask) if isinstance(text, TextFeatures) else (text, None)
    if words is None:
        raise ValueError(
            "this layer needs the word cue, but text.words is None; pass TextFeatures(words=...) "
            f"of shape (N, T, {word_dim})"
        )
    _cue("words", words, x, ("N", "T", word_dim), what)
    if words.shape[1] == 0:
        raise ValueError(
            f"words must hold at least one word, got {words.shape=}; give an empty caption one word and mask it"
        )
    if mask is not None:
        _mask(mask, words, words)
    return words, mask


def _cue(name: str, cue: Tensor, x: Tensor, shape: tuple[str | int, ...], what: str) -> None:
    want = f"({', '.join(str(axis) for axis in shape)})"
    if not isinstance(cue, Tensor):
        raise ValueError(
            f"{name} must be a tensor of shape {want}, got {type(cue).__name__}; "
            "pass TextFeatures(...) or the plain tensor of the one cue the layer needs"
        )
    if cue.dim() != len(shape):
        raise ValueError(f"{name} must have shape {want}, got {name}.shape={tuple(cue.shape)}")
    if cue.shape[-1] != shape[-1]:
        raise ValueError(
            f"the last axis of {name} must have {shape[-1]} features, got {name}.shape={tuple(cue.shape)}; "
            "build the layer with the encoder's size, or transpose (AttnGAN's words are (N, D, T))"
        )
    if not cue.is_floating_point():
        raise ValueError(
            f"{name} must be floating point, got {cue.dtype}; pass encoded features, not word indices"
        )
    dense(name, cue)
    beside(name, cue, what, x.device)
    if cue.shape[0] != x.shape[0]:
        raise ValueError(
            f"{what} and {name} must have the same batch size, got {what}.shape={tuple(x.shape)} and "
            f"{name}.shape={tuple(cue.shape)}; "
            "repeat the text once for every image of a caption"
        )


def _mask(mask: Tensor, cue: Tensor, words: Tensor | None) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"padding_mask must be bool with True = padding, got {kind}; for a mask of ones and zeros "
            "where 1 = padding write mask.bool(), where 1 = word write ~mask.bool()"
        )
    dense("padding_mask", mask)
    known = words if isinstance(words, Tensor) and words.dim() == 3 else None
    if (
        mask.dim() != 2
        or mask.shape[0] != cue.shape[0]
        or mask.shape[1] == 0
        or (known is not None and mask.shape[1] != known.shape[1])
    ):
        want = tuple(known.shape[:2]) if known is not None else f"({cue.shape[0]}, T)"
        raise ValueError(f"padding_mask must have shape (N, T) = {want}, got {mask.shape=}")
    beside("padding_mask", mask, "the text", cue.device)


def contrastive(margin: float, alpha: float, reduction: str, reductions: tuple[str, ...]) -> None:
    """Require usable settings of the contrastive loss."""
    finite(margin=margin, alpha=alpha)
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin=}")
    if alpha < 0:
        raise ValueError(f"alpha must not be negative, got {alpha=}; alpha=0 is the classic contrastive loss")
    if alpha > margin:
        raise ValueError(
            f"alpha must not exceed margin, got {alpha=} and {margin=}: pairs of one image would be kept further "
            "apart than pairs of different images"
        )
    if reduction not in reductions:
        raise ValueError(f"reduction must be one of {reductions}, got {reduction=}")


def feature_pair(v1: Tensor, v2: Tensor, same: Tensor) -> None:
    """Require two batches of feature vectors and one flag a pair."""
    for name, v in (("v1", v1), ("v2", v2)):
        if not isinstance(v, Tensor) or v.dim() != 2:
            got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise ValueError(f"{name} must have shape (N, F), got {got}; flatten feature maps with v.flatten(1)")
        if not v.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {v.dtype}")
        dense(name, v)
    if v1.shape != v2.shape:
        raise ValueError(f"v1 and v2 must have the same shape, got {v1.shape=} and {v2.shape=}")
    if not isinstance(same, Tensor) or same.dtype != torch.bool:
        kind = same.dtype if isinstance(same, Tensor) else type(same).__name__
        raise ValueError(
            f"same must be a bool tensor, True = both captions describe one image, got {kind}; "
            "for labels with 1 = same write labels.bool()"
        )
    dense("same", same)
    beside("v2", v2, "v1", v1.device)
    beside("same", same, "v1", v1.device)
    if same.shape != v1.shape[:1]:
        raise ValueError(f"same must have shape (N,) = ({v1.shape[0]},), got {same.shape=}")
    if v1.numel() == 0:
        raise ValueError(f"the loss of no pairs is undefined, got {v1.shape=}")
