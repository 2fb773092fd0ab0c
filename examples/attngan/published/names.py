"""Names: which tensor of a published state dict is which of ours. The tensors are the same.

Source: taoxugit/AttnGAN, ``code/model.py``: ``RNN_ENCODER``, ``CNN_ENCODER``, ``D_NET64`` to ``D_NET256``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from examples.sdgan.models.weights import WeightsError, read_weights, state_dict_for

# Of each size of image: the convolutions of the trunk in their order, as the published classes call them.
_DEEPER = {
    64: (),
    128: ("img_code_s32", "img_code_s32_1"),
    256: ("img_code_s32", "img_code_s64", "img_code_s64_1", "img_code_s64_2"),
}
# The first trunk is one Sequential, in which only the first convolution has no norm.
_FIRST = {"0.0": "0", "1.0": "2", "1.1": "3", "2.0": "5", "2.1": "6", "3.0": "8", "3.1": "9"}
_HEADS = {
    "real": "UNCOND_DNET.outlogits.0",
    "fits": "COND_DNET.outlogits.0",
    "match.0": "COND_DNET.jointConv.0",
    "match.1": "COND_DNET.jointConv.1",
}


class PublishedError(ValueError):
    """A published file cannot be used; the message names it, says why and what to do."""


def of_text_encoder(name: str) -> str:
    """``RNN_ENCODER``'s name of a tensor of our text encoder."""
    return re.sub(r"^(lstm|gru)\.", "rnn.", name.replace("embedding.", "encoder.", 1))


def of_image_encoder(name: str) -> str:
    """``CNN_ENCODER``'s name of a tensor of our Inception encoder."""
    return name.removeprefix("inception.").replace("emb_code.", "emb_cnn_code.", 1)


def of_discriminator(name: str, size: int, unconditional: bool = True) -> str | None:
    """The published discriminator's name of a tensor of ours for images of this size.

    ``None`` for the Siamese head and, with ``unconditional=False``, for the head that AttnDCGAN's has not.
    """
    if name.startswith("siamese.") or (name.startswith("real.") and not unconditional):
        return None
    for ours, theirs in _HEADS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    found = re.fullmatch(r"trunk\.(\d+)\.(\d)\.(.+)", name)
    assert found is not None, name
    block, part, tensor = found.groups()
    if int(block) < 4:
        return f"img_code_s16.{_FIRST[f'{block}.{part}']}.{tensor}"
    return f"{_DEEPER[size][int(block) - 4]}.{part}.{tensor}"


def load(module: nn.Module, path: Path, rename: Callable[[str], str | None], option: str, what: str) -> str:
    """Load a published file into a module of ours, through their names.

    Args:
        module: of the sizes that the file has.
        path: of the file, in any layout that :func:`state_dict_for` reads.
        rename: from our names to theirs; ``None`` for what they do not have, which stays as it is.
        option: that named the file, for messages.
        what: the file should hold, for messages.

    Returns:
        The entry of the file that was taken, ``""`` for the file itself.

    Raises:
        PublishedError: the file is broken, holds code, does not fit, or is not finite.
    """
    own = {name: theirs for name in module.state_dict() if (theirs := rename(name)) is not None}
    wanted: dict[str, Tensor] = {theirs: module.state_dict()[name] for name, theirs in own.items()}
    try:
        match = state_dict_for(wanted, read_weights(path), "take the file anew")
    except WeightsError as error:
        raise PublishedError(f"{option} {path}: no {what} of AttnGAN: {error}") from error
    given = {name: match.state[theirs] for name, theirs in own.items() if theirs in match.state}
    module.load_state_dict({**module.state_dict(), **given})
    return match.entry
