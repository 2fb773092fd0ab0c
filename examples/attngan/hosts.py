"""Where the AttnGAN to retrofit comes from: our generator, or the user's checkout of the published code, unedited."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from examples.sdgan.config import Config
from examples.sdgan.models.generator import build_attngan
from examples.sdgan.models.weights import WeightsError, read_weights, state_dict_for

_SIZES = "; set --train.generator.* and --train.encoder.dim to the sizes it was trained with"


class HostError(ValueError):
    """The checkout or the checkpoint cannot be used; the message says which, why and what to do."""


def build_host(config: Config, repo: Path | None) -> nn.Module:
    """An AttnGAN of the sizes the options describe.

    Args:
        config: of the trainer.
        repo: a checkout of taoxugit/AttnGAN; ``None`` for ours.

    Raises:
        HostError: ``repo`` is no such checkout, or cannot make images of these sizes.
    """
    return build_attngan(config) if repo is None else _upstream(repo, config)


def load_weights(host: nn.Module, path: Path) -> str:
    """Load a generator's checkpoint in whatever layout people have, see :func:`state_dict_for`.

    Returns:
        The entry of the file that was taken, ``""`` for the file itself.

    Raises:
        HostError: the file is missing, broken, holds code, its weights do not fit, or are not finite.
    """
    if not path.is_file():
        raise HostError(f"--checkpoint {path}: no such file")
    try:
        match = state_dict_for(host.state_dict(), read_weights(path))
        host.load_state_dict(match.state)
    except WeightsError as error:
        reason = str(error).replace("does not fit:", "does not fit this generator:")
        raise HostError(f"--checkpoint {path}: {reason}{_SIZES if 'fit this' in reason else ''}") from error
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise HostError(
            f"--checkpoint {path}: does not fit this generator ({' '.join(lines[1:3]).strip()}){_SIZES}"
        ) from error
    return match.entry


def check_images(host: nn.Module, config: Config, path: Path) -> None:
    """Make two images: finite weights may make none (a variance below zero, weights that overflow).

    Raises:
        HostError: they are not finite.
    """
    dim, g = config.encoder.dim, config.generator
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        training = host.training
        images = host.eval()(torch.randn(2, g.noise_dim), torch.zeros(2, dim), torch.zeros(2, dim, 2), None)[0]
        host.train(training)
    if not all(bool(image.isfinite().all()) for image in images):
        raise HostError(
            f"--checkpoint {path}: its weights are finite, but the images they make are not; use an earlier checkpoint"
        )


def _upstream(repo: Path, config: Config) -> nn.Module:
    code = repo / "code" if (repo / "code").is_dir() else repo
    if not (code / "model.py").is_file() or not (code / "miscc" / "config.py").is_file():
        raise HostError(f"--repo {repo}: no checkout of taoxugit/AttnGAN (code/model.py and code/miscc/config.py)")
    stages = len(config.generator.channels)
    if config.base_size != 64:
        raise HostError(
            f"--repo: its first image has 64 px, so {stages} stages make {64 << (stages - 1)} px; set --train.size"
        )
    with _importing(code):
        model: Any = importlib.import_module("model")
        cfg: Any = importlib.import_module("miscc.config").cfg
    g = config.generator
    cfg.CUDA = False  # its noise is replaced by ours, on whatever device
    cfg.TREE.BRANCH_NUM = stages
    cfg.GAN.GF_DIM, cfg.GAN.R_NUM, cfg.GAN.Z_DIM = g.channels[0], g.residual_blocks, g.noise_dim
    cfg.GAN.CONDITION_DIM, cfg.TEXT.EMBEDDING_DIM = g.condition_dim, config.encoder.dim
    return model.G_DCGAN() if g.architecture == "attndcgan" else model.G_NET()


@contextlib.contextmanager
def _importing(code: Path) -> Iterator[None]:
    """The checkout's modules have common names: on the path for the import alone."""
    sys.path.insert(0, str(code))
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module("easydict")
        if "easydict" not in sys.modules:
            stand_in: Any = types.ModuleType("easydict")
            stand_in.EasyDict = EasyDict
            sys.modules["easydict"] = stand_in
        yield
    finally:
        sys.path.remove(str(code))


class EasyDict(dict):
    """A dict whose keys are attributes: all the checkout needs of the package of this name."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__
