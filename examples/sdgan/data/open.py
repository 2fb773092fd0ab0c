"""The data set that the options name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from examples.sdgan.config import Config
from examples.sdgan.data.coco import coco
from examples.sdgan.data.cub import cub
from examples.sdgan.data.dataset import CaptionedImages, DataError
from examples.sdgan.data.drawn import DRAWN
from examples.sdgan.data.folder import folder
from examples.sdgan.data.toy import birds


def open_data(
    config: Config, progress: Callable[[int], None] = lambda done: None
) -> tuple[CaptionedImages, CaptionedImages]:
    """Training images and, to sample from, held-out ones (the training images where the data has no others).

    Raises:
        DataError: the data is missing or broken, or too small to train on.
    """
    if config.data in DRAWN:
        return birds("train", config.size, kind=config.data), birds("test", config.size, kind=config.data)
    if config.data != "folder" and config.classes != "none":
        raise DataError(f"--classes is of --data folder; {config.data} has its own")
    if config.root is None:
        raise DataError(f"--data {config.data} needs --root DIR, the folder of the data set")
    if config.data == "folder":
        read = partial(folder, config.root, size=config.size, progress=progress, classes=config.classes)
    else:
        of = cub if config.data == "cub" else coco
        more = config.captions_per_image
        read = partial(of, config.root, size=config.size, progress=progress, captions_per_image=more)
    train = read(split="train")
    if len(train) < 2:
        raise DataError(f"{config.root}: needs at least 2 training images with captions, found {len(train)}")
    test = read(split="test")
    both = {*_paths(train)} & {*_paths(test)}
    if both:
        raise DataError(
            f"{min(both)}: is in the training and in the test split; what is trained on is not held out"
        )
    return train, test if len(test) else train


def _paths(data: CaptionedImages) -> list[Path]:
    return [path.resolve() for path in getattr(data.images, "paths", [])]
