"""Published encoders and discriminators as models of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from examples.attngan.published import names, sizes
from examples.attngan.published.captions import vocabulary
from examples.attngan.published.folder import Files
from examples.sdgan.config import Config
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.workspace import Given


def given_encoders(files: Files) -> Given:
    """The encoders among some files, and the words that the text encoder knows.

    Raises:
        names.PublishedError: a file cannot be used, or files do not belong together.
    """
    words, text, image = None, None, None
    if files.text_encoder is not None and files.captions is not None:
        _, count = sizes.of_text_encoder(files.text_encoder)
        words = vocabulary(files.captions, count)
        text = _loading(files.text_encoder, names.of_text_encoder, "text encoder")
    if files.image_encoder is not None:
        image = _loading(files.image_encoder, names.of_image_encoder, "image encoder")
    return Given(words, text, image)


def _loading(path: Path, rename: Callable[[str], str], what: str) -> Callable[[nn.Module], str]:
    option = f"--{what.replace(' ', '-')}"
    return partial(names.load, path=path, rename=rename, option=option, what=what)


def load_discriminators(gan: GanTraining, paths: tuple[Path, ...], config: Config) -> None:
    """Load a discriminator for every image; only heads that they do not have, the Siamese one always, start from nothing.

    Raises:
        names.PublishedError: there are not as many as stages, or one does not fit its stage.
    """
    if not paths:
        return
    if len(paths) != len(config.sizes):
        raise names.PublishedError(
            f"--discriminators: {len(paths)} files for {len(config.sizes)} stages of {config.sizes} px; give netD0.pth, "
            "netD1.pth, ... in the order of their sizes"
        )
    discriminators: Any = gan.discriminators.module
    for stage, path, size in zip(discriminators.stages, paths, config.sizes, strict=True):
        rename = partial(names.of_discriminator, size=size, unconditional=sizes.has_unconditional(path))
        names.load(stage, path, rename, "--discriminators", f"discriminator for {size} px")


def sizes_of(files: Files) -> sizes.Sizes:
    """What the files say about the trainer's options.

    Raises:
        names.PublishedError: a file cannot be read, or two contradict each other.
    """
    found: dict[str, sizes.Sizes] = {}
    if files.checkpoint is not None:
        with contextlib.suppress(names.PublishedError):  # what it lacks is told when it is loaded
            found[f"--checkpoint {files.checkpoint}"] = sizes.of_generator(files.checkpoint)
    if files.text_encoder is not None:
        found[f"--text-encoder {files.text_encoder}"] = sizes.of_text_encoder(files.text_encoder)[0]
    if files.image_encoder is not None:
        found[f"--image-encoder {files.image_encoder}"] = sizes.of_image_encoder(files.image_encoder)
    for path in files.discriminators:
        found[f"--discriminators {path}"] = sizes.of_discriminator(path)
    return sizes.merged(found)
