"""What all phases of a run share: its folder, processes, data, vocabulary and encoders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch.utils.data import DataLoader

from examples.sdgan.config import Config
from examples.sdgan.data import CaptionedImages, SiamesePairs, open_data
from examples.sdgan.data.drawn import DRAWN
from examples.sdgan.data.files import MEMORY
from examples.sdgan.data.pairs import PairBatch
from examples.sdgan.data.vocabulary import Vocabulary, tokenize
from examples.sdgan.models import checkpoint
from examples.sdgan.models.encoders import (
    AnyTextEncoder,
    InceptionImageEncoder,
    SmallImageEncoder,
    TextEncoder,
    image_encoder,
    text_encoder,
)
from examples.sdgan.models.pretrained_text import PretrainedTextEncoder, PretrainedWords, revision
from examples.sdgan.training.distributed import (
    leaving_is_told,
    make_fabric,
    same_everywhere,
    share_statistics,
    together,
)
from examples.sdgan.training.loop import ignore_interrupts, progress_bar
from examples.sdgan.training.phase import Phase
from examples.sdgan.training.resume import changed_data, changed_options, restoring

AGAIN = "--resume"


@dataclass(frozen=True)
class Given:
    """Encoders that somebody has trained already; what is ``None`` is made and trained here.

    Args:
        vocabulary: of the text encoder.
        text, image: called with a new encoder of the options' sizes, whose weights they load; it is then left as it is.
    """

    vocabulary: Vocabulary | None = None
    text: Callable[[TextEncoder], object] | None = None
    image: Callable[[InceptionImageEncoder], object] | None = None


@dataclass
class Workspace:
    """A run's folder and what is in memory for all of its phases.

    Attributes:
        resumed: the checkpoint that the run goes on from; empty for a new run.
        again: how to go on after an error, for its message.
    """

    config: Config
    console: Console
    fabric: Fabric
    train: CaptionedImages
    test: CaptionedImages
    vocabulary: Vocabulary | PretrainedWords
    text: AnyTextEncoder
    image: SmallImageEncoder | InceptionImageEncoder
    resumed: dict[str, Any] = field(default_factory=dict)
    again: str = AGAIN
    began: float = field(default_factory=time.monotonic)
    fingerprints: dict[str, Any] = field(init=False)
    """Of the data learnt from and of the data held out."""

    def __post_init__(self) -> None:
        self.fingerprints = {"data": self.train.fingerprint(), "held_out": self.test.fingerprint()}

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        return self.config.out / "checkpoint.pt"

    @property
    def seconds(self) -> float:
        """That the run has taken so far, what it was resumed from included."""
        return self.resumed.get("seconds", 0.0) + time.monotonic() - self.began

    def with_config(self, config: Config) -> Workspace:
        """The same data and encoders under other options, with nothing to resume."""
        return replace(self, config=config, resumed={})

    def loader(self, phase: Phase, start: int, stop: int) -> DataLoader:
        """The batches of these steps; each process has its part of the pairs."""
        config, wanted = self.config, phase.batches
        rank, world = self.fabric.global_rank, self.fabric.world_size
        pairs = SiamesePairs(
            self.train, self.vocabulary, config.encoder.words, wanted.pairs, config.size, wanted.seed, wanted.same, rank, world
        )  # fmt: skip
        return DataLoader(
            pairs,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=config.workers,
            worker_init_fn=ignore_interrupts,
            collate_fn=_as_it_is,  # pyright: ignore[reportArgumentType]
            pin_memory=self.fabric.device.type == "cuda",
        )


def _as_it_is(batch: PairBatch) -> PairBatch:
    return batch  # the default makes a tensor of every array, which then goes to the device


def open_workspace(
    config: Config,
    console: Console,
    again: str = AGAIN,
    phases: tuple[str, ...] = ("encoders", "gan"),
    given: Given = Given(),
) -> Workspace:
    """Start the processes, read data and checkpoint, make the encoders.

    Args:
        config: of the run.
        console: where progress goes; silent in all processes but the first.
        again: how to go on after an error, for its message.
        phases: of this command; a checkpoint with others is of another one.
        given: encoders that are trained already.

    Raises:
        checkpoint.CheckpointError: the checkpoint cannot be used, or there is one that would be overwritten.
        DataError: the data cannot be used.
        ProcessStopped: another process could not.
        ValueError: the options ask for what this machine has not got.
    """
    began = time.monotonic()
    fabric = make_fabric(config)
    console = console if fabric.is_global_zero else Console(quiet=True)
    torch.manual_seed(config.seed)
    run = together(fabric, lambda: _prepare(config, console, fabric, again, phases, given))
    assert run is not None
    run.began = began
    same_everywhere(fabric, run.fingerprints["data"], f"--root {config.root}: images or captions")
    same_everywhere(fabric, run.resumed.get("steps"), f"{run.path}: the steps")
    with leaving_is_told(fabric), restoring(run.path):
        if run.resumed:
            run.text.load_state_dict(run.resumed["text"])
            run.image.load_state_dict(run.resumed["image"])
    if run.resumed:
        steps = ", ".join(f"{name} step {done}" for name, done in run.resumed["steps"].items())
        console.print(f"resumed {run.path} at {steps}", highlight=False)
    return run


def _prepare(
    config: Config, console: Console, fabric: Fabric, again: str, phases: tuple[str, ...], given: Given
) -> Workspace:
    """All that a process does alone before it meets the others."""
    if config.encoder.text:
        if given.text is not None:
            raise ValueError(
                "--encoder.text names a text model, and a published text encoder is given: take one of them"
            )
        folder = Path(config.encoder.text)
        name = str(folder.resolve()) if folder.is_dir() else config.encoder.text
        encoder = replace(config.encoder, text=name)
        encoder = replace(encoder, text_revision=revision(encoder))
        config = replace(config, encoder=encoder)
    config.out.mkdir(parents=True, exist_ok=True)
    resumed = _state_to_resume(config, phases)
    train, test = _open_data(config, console)
    for note in dict.fromkeys((*train.notes, *test.notes)):
        console.print(note, highlight=False)
    if resumed:
        _compare_data(resumed, train, test, config.out / "checkpoint.pt", console)
        vocabulary = Vocabulary(resumed["vocabulary"], resumed.get("published_vocabulary", False))
    elif given.vocabulary is not None:
        vocabulary = given.vocabulary
    else:
        vocabulary = Vocabulary.of((c for cs in train.captions for c in cs), config.encoder.min_count)
    _tell_long_captions(train, config, console)
    _tell_pairs(train, config, console)
    text = text_encoder(config.encoder, len(vocabulary)).to(fabric.device)
    # A checkpoint brings Inception's weights too: the file they came from may be gone.
    image = image_encoder(config, "random" if resumed or given.image is not None else None)
    words: Vocabulary | PretrainedWords = vocabulary
    if isinstance(text, PretrainedTextEncoder):
        words = text.words()
        _remember(text, words, train, config, console)
    elif given.text is not None:
        given.text(text)
        text.requires_grad_(False)
    if given.image is not None and isinstance(image, InceptionImageEncoder):
        given.image(image)
        image.requires_grad_(False)
    if config.sync_batch_norm:
        image = cast("SmallImageEncoder | InceptionImageEncoder", share_statistics(image, fabric.device))
    image = image.to(fabric.device)
    return Workspace(config, console, fabric, train, test, words, text, image, resumed, again)


def _remember(
    text: PretrainedTextEncoder, words: PretrainedWords, train: CaptionedImages, config: Config, console: Console
) -> None:
    """Encode the training captions once, where memory allows."""
    captions = [words.encode(caption) for captions in train.captions for caption in captions]
    if sum(map(len, captions)) * text.states_dim * 4 > MEMORY:
        console.print(
            f"{len(captions):,} captions are too many to keep encoded; each is encoded whenever it is drawn"
        )
        return
    with progress_bar(console) as bar:
        task = bar.add_task("encoding captions", total=len(captions), note=config.encoder.text)
        told = text.remember(captions, config.out / "captions.pt", lambda done: bar.update(task, completed=done))
    if told:
        console.print(told, highlight=False)


def _open_data(config: Config, console: Console) -> tuple[CaptionedImages, CaptionedImages]:
    if config.data in DRAWN:
        console.print("drawing birds ...")
        return open_data(config)
    with progress_bar(console) as bar:
        task = bar.add_task("checking images", total=None, note="")
        return open_data(config, lambda done: bar.update(task, completed=done))


def _tell_long_captions(train: CaptionedImages, config: Config, console: Console) -> None:
    long = [len(tokenize(c)) > config.encoder.words for captions in train.captions for c in captions]
    if 2 * sum(long) > len(long):
        console.print(
            f"{sum(long) / len(long):.0%} of the captions are longer than the option encoder.words, "
            f"{config.encoder.words}: of these, a part of the words is used"
        )


def _tell_pairs(train: CaptionedImages, config: Config, console: Console) -> None:
    two = train.paired()
    if two < len(train):
        half = config.batch_size // 2 if two else 0
        console.print(
            f"{two:,} of {len(train):,} training images have two different captions: of the {config.batch_size} Siamese "
            f"pairs a step, {half} are of one of these, and {config.batch_size - half} of two images"
        )


def _state_to_resume(config: Config, phases: tuple[str, ...]) -> dict[str, Any]:
    path = config.out / "checkpoint.pt"
    if not config.resume:
        if path.exists():
            raise checkpoint.CheckpointError(
                f"{path}: holds a run, which a new one would overwrite; take another --out, or go on with it (--resume; "
                "--train.resume of examples.attngan.retrofit)"
            )
        return {}
    state = checkpoint.load(path)
    changed = changed_options(state["config"], config)
    if changed:
        raise checkpoint.CheckpointError(
            f"{path}: the run to resume had other options ({changed}); repeat its command with --resume added"
        )
    other = [name for name in state["steps"] if name not in phases]
    if other:
        raise checkpoint.CheckpointError(
            f"{path}: of another command, with a phase {other[0]!r}; resume it with the command that began it"
        )
    return state


def _compare_data(
    state: dict[str, Any], train: CaptionedImages, test: CaptionedImages, path: Path, console: Console
) -> None:
    """The data may lie elsewhere than where the run began, but it must be the same."""
    if "data" not in state:
        console.print(f"{path}: from before data was compared; it must be what the run began with")
        return
    changed = changed_data(state["data"], train.fingerprint())
    if changed:
        raise checkpoint.CheckpointError(
            f"{path}: the run to resume learnt from other data ({changed}); --root may lie elsewhere, but must "
            "hold the same images and captions: put back what was changed, or start again without --resume, in "
            "another --out"
        )
    changed = changed_data(state.get("held_out", {}), test.fingerprint())
    if changed:
        console.print(f"{test.name}: not the held-out data that the run began with ({changed})")
