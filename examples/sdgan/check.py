"""What a data set is, before anything is trained on it: ``python -m examples.sdgan.train --check``."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from examples.sdgan.config import Config
from examples.sdgan.data import CaptionedImages, open_data
from examples.sdgan.data.files import FORMATS
from examples.sdgan.data.vocabulary import Vocabulary, tokenize
from examples.sdgan.models.pretrained_text import PretrainedTextEncoder
from examples.sdgan.plots.samples import sample_grid
from examples.sdgan.training.loop import progress_bar

_SHEET, _ORIENTATION = 24, 0x0112


def check(config: Config, console: Console) -> None:
    """Read the data as training would, print what it holds, and draw OUT/data.png.

    Raises:
        DataError: training could not use it.
    """
    if config.encoder.text:
        PretrainedTextEncoder(config.encoder)  # what is wrong with it is said here
    with progress_bar(console) as bar:
        task = bar.add_task("checking images", total=None, note="")
        train, test = open_data(config, lambda done: bar.update(task, completed=done))
    for note in dict.fromkeys((*train.notes, *test.notes)):
        console.print(note, highlight=False)
    table = Table(title=f"{config.data}: {config.root or 'drawn'}", title_justify="left")
    for column in ("", "training", "held out"):
        table.add_column(column)
    sides = [_facts(train, config), _facts(test, config) if test is not train else {}]
    for name in sides[0]:
        table.add_row(name, *(side.get(name, "none") for side in sides))
    console.print(table)
    for line in _problems(train, test, config):
        console.print(line, highlight=False)
    config.out.mkdir(parents=True, exist_ok=True)
    chosen = train.spread(_SHEET)
    images = train.images.load(chosen, config.size, None)
    captions = [train.captions[i][0] for i in chosen]
    sample_grid(images, captions, config.out / "data.png", title=f"{train.name}: {len(train):,} images")
    console.print(f"nothing was trained; look at {(config.out / 'data.png').resolve()}")


def _facts(data: CaptionedImages, config: Config) -> dict[str, str]:
    counts = [len(captions) for captions in data.captions]
    lengths = [len(tokenize(caption)) for captions in data.captions for caption in captions]
    words = Vocabulary.of((c for cs in data.captions for c in cs), config.encoder.min_count)
    facts = {
        "images": f"{len(data):,}",
        "captions": f"{sum(counts):,}",
        "captions an image": _range(counts),
        "images with two different captions": f"{data.paired():,}",
        "words a caption": _range(lengths),
        "captions beyond --encoder.words": f"{sum(n > config.encoder.words for n in lengths):,}",
        "different words": f"{len(words.known):,}",
        "words seen once": f"{sum(n == 1 for n in _occurrences(data).values()):,}",
        "classes": "none" if data.classes is None else f"{len(set(data.classes.tolist())):,}",
    }
    sizes = _sizes(data)
    if sizes:
        facts["width"], facts["height"] = (_range(side) for side in zip(*sizes, strict=True))
        facts[f"smaller than {config.size} px"] = f"{sum(min(size) < config.size for size in sizes):,}"
    return facts


def _problems(train: CaptionedImages, test: CaptionedImages, config: Config) -> list[str]:
    told = []
    if not train.paired():
        told.append("no image has two different captions: every Siamese pair is of two images")
    same = Counter(caption for captions in train.captions for caption in set(captions))
    text, count = same.most_common(1)[0]
    if count > max(2, len(train) // 10):
        told.append(
            f"{count:,} of {len(train):,} images have the caption {text!r:.80}: captions should tell them apart"
        )
    if test is train:
        told.append("no image is held out: measures are of what was trained on")
    if len(train) < 1000 and config.data == "folder":
        told.append(f"{len(train):,} images are few: expect pictures like them, not new ones")
    return told


def _occurrences(data: CaptionedImages) -> Counter[str]:
    return Counter(word for captions in data.captions for caption in captions for word in tokenize(caption))


def _sizes(data: CaptionedImages) -> list[tuple[int, int]]:
    sizes = []
    for path in getattr(data.images, "paths", []):
        with Image.open(path, formats=FORMATS) as image:
            turned = image.getexif().get(_ORIENTATION, 1) >= 5  # as cameras tell, and as it is trained on
            sizes.append(image.size[::-1] if turned else image.size)
    return sizes


def _range(values: Iterable[Any]) -> str:
    values = list(values)
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, median {statistics.median_low(values):,}"
