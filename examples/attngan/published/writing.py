"""A run of ours as the files that a published AttnGAN consists of: the reverse of reading them, tensor by tensor."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples.attngan.adapter import Adapter
from examples.attngan.published import names
from examples.sdgan.config import Config
from examples.sdgan.data.cub import CAPTIONS
from examples.sdgan.data.dataset import CaptionedImages
from examples.sdgan.data.vocabulary import PADDING, Vocabulary, tokenize_as_published
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.models.discriminator import Discriminators
from examples.sdgan.models.encoders import InceptionImageEncoder, TextEncoder

_KINDS = {"cub": ("bird", "birds"), "coco": ("coco", "coco")}
_PROTOCOL = 2  # what Python 2, which the published code is written in, reads


def check_publishable(config: Config, sampler: Sampler) -> None:
    """Require models that the published classes can hold.

    Raises:
        names.PublishedError: they cannot; the message says which option of the run is in the way.
    """
    g, d = config.generator, config.discriminator
    wrong = {
        f"--data {config.data}: an AttnGAN's folder is of cub or coco": config.data not in _KINDS,
        "its generator is a tree of ours (--generator.architecture attngan)": g.architecture == "tree",
        f"its norms are {g.norm}: netG_scbn.pth of a retrofit is for scbn.load_retrofitted": g.norm != "batch",
        "its text encoder is a pretrained model (--encoder.text)": not isinstance(sampler.text, TextEncoder),
        f"its images have {config.sizes} px; theirs have 64, 128 and 256": not {*config.sizes} <= {64, 128, 256}
        or (g.architecture == "attngan" and config.base_size != 64),
        f"--discriminator.norm {d.norm}": d.norm != "batch",
        f"--discriminator.condition {d.condition}": d.condition != "concat",
        f"--discriminator.head-channels {d.head_channels} is not 8 times --discriminator.channels {d.channels}": (
            d.head_channels != 8 * d.channels
        ),
        f"--discriminator.max-channels {d.max_channels} is below {config.size // 8} times --discriminator.channels "
        f"{d.channels}": d.max_channels < config.size // 8 * d.channels,
    }
    reasons = [reason for reason, holds in wrong.items() if holds]
    if reasons:
        raise names.PublishedError(f"the published classes cannot hold this model: {'; '.join(reasons)}")


def write_published(
    folder: Path,
    config: Config,
    sampler: Sampler,
    image: nn.Module | None,
    discriminators: Discriminators | None,
    splits: tuple[CaptionedImages, CaptionedImages],
) -> list[str]:
    """Write ``models/``, ``DAMSMencoders/`` and ``data/`` as AttnGAN's README has them.

    Args:
        folder: new.
        config: of the run.
        sampler: the generator, an average over training as upstream's ``netG_epoch_N.pth``, and the text encoder.
        image: the image encoder; written where it is an Inception, which is the published one.
        discriminators: ``None`` where the run keeps none.
        splits: training and test images, whose captions are numbered.

    Returns:
        What was not written and why, a line each.

    Raises:
        names.PublishedError: see :func:`check_publishable`; nothing has been written.
    """
    check_publishable(config, sampler)
    kind, plural = _KINDS[config.data]
    models, encoders, data = folder / "models", folder / "DAMSMencoders" / kind, folder / "data" / plural
    for place in (models, encoders, data):
        place.mkdir(parents=True)
    missing = []
    single = config.generator.architecture == "attndcgan"
    assert isinstance(sampler.generator, Adapter)
    generator = sampler.generator.host.state_dict()
    _save(_plain(generator), models / f"{kind}_{'AttnDCGAN' if single else 'AttnGAN'}2.pth")
    if discriminators is None:
        missing.append("discriminators: the run's checkpoint.pt, which holds them, was not given")
    else:
        for i, (stage, size) in enumerate(zip(discriminators.stages, config.sizes, strict=True)):
            rename = partial(names.of_discriminator, size=size, unconditional=not single)
            _save(_renamed(stage.state_dict(), rename), models / f"netD{i}.pth")
    known, rows = _known(sampler.vocabulary)
    text = sampler.text.state_dict()
    text["embedding.weight"] = text["embedding.weight"][rows]
    _save(_renamed(text, names.of_text_encoder), encoders / "text_encoder200.pth")
    if isinstance(image, InceptionImageEncoder):
        _save(_renamed(image.state_dict(), names.of_image_encoder), encoders / "image_encoder200.pth")
    else:
        missing.append("image encoder: a small one (--encoder.image small); the published one is an Inception v3")
    left = len(sampler.vocabulary.known) - len(known) + 1
    if left:
        missing.append(f"{left:,} words that the published tokenisation would not find")
    missing += _write_captions(data, known, splits, config.captions_per_image or CAPTIONS[config.data])
    return missing


def _save(state: dict[str, Tensor], path: Path) -> None:
    # As a zip file, which is the default, no torch of Python 2 reads it.
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _renamed(state: dict[str, Tensor], rename: Any) -> dict[str, Tensor]:
    """Under the published names; without what the published class does not have."""
    return {theirs: value for name, value in _plain(state).items() if (theirs := rename(name)) is not None}


def _known(vocabulary: Any) -> tuple[list[str], list[int]]:
    """Words by their published number, of which 0 ends a caption, and where their embeddings lie in ours."""
    assert isinstance(vocabulary, Vocabulary)
    known, rows = ["<end>"], [PADDING]
    for number, word in enumerate(vocabulary.words):
        if word in vocabulary.known and tokenize_as_published(word) == [word]:
            known.append(word)
            rows.append(number)
    return known, rows


def _write_captions(
    data: Path, known: list[str], splits: tuple[CaptionedImages, CaptionedImages], each: int
) -> list[str]:
    """The published code finds captions by counting: each image has the same number, and none is empty."""
    numbers = {word: number for number, word in enumerate(known)}
    told, changed = [], 0
    for name, split in zip(("train", "test"), splits, strict=True):
        numbered = []
        for image, captions in zip(_names(split), split.captions, strict=True):
            found = [[numbers[w] for w in tokenize_as_published(c) if w in numbers] for c in captions]
            found = [caption for caption in found if caption]
            if not found:
                raise names.PublishedError(f"{image}: no word of its captions is one that the text encoder knows")
            changed += len(found) != each
            numbered += [found[k % len(found)] for k in range(each)]
        told.append(numbered)
        (data / name).mkdir()
        (data / name / "filenames.pickle").write_bytes(pickle.dumps(list(_names(split)), _PROTOCOL))
        if split.classes is not None:
            classes = pickle.dumps(split.classes.tolist(), _PROTOCOL)
            (data / name / "class_info.pickle").write_bytes(classes)
    content = [*told, dict(enumerate(known)), numbers]
    (data / "captions.pickle").write_bytes(pickle.dumps(content, _PROTOCOL))
    note = f"other than {each} captions: of {changed:,} images the first {each}, or some of them twice"
    return [note] if changed else []


def _names(split: CaptionedImages) -> Iterator[str]:
    """Images as the published code names them: CLASS/NAME of birds, NAME of COCO."""
    for path in getattr(split.images, "paths", ()):
        yield path.stem if split.classes is None else f"{path.parent.name}/{path.stem}"
