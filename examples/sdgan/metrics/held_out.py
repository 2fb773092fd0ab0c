"""Whether a model is measured on images that it has not learnt from."""

from __future__ import annotations

from typing import Any

from examples.sdgan.data import CaptionedImages
from examples.sdgan.training.resume import same_images


def held_out_of(train: CaptionedImages, test: CaptionedImages, learnt: dict[str, Any]) -> tuple[bool | None, str]:
    """Whether the images to measure on are held out, ``None`` where nobody knows; and what to say of it."""
    unknown = (
        f"{test.name}: the training images beside these are not the ones that the run learnt from, so it is "
        "not known "
        "whether it learnt from these; evaluation.json says held_out: null"
    )
    if learnt and same_images(learnt, test.fingerprint()):
        if test is not train:
            return False, f"{test.name}: these are the images that the run learnt from; they are not held out"
    elif learnt and not same_images(learnt, train.fingerprint()):
        return None, unknown
    if test is train:
        return False, "this data set has no held-out images: measured on what it was trained on"
    return True, ""
