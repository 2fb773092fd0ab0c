"""One run from nothing, or from its checkpoint, to a folder of results."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
import time
from typing import Any, cast

import torch
from rich.console import Console
from torch.utils.data import DataLoader

from examples.sdgan import checkpoint, fidelity, pictures
from examples.sdgan.config import Config
from examples.sdgan.data import CaptionedImages, SiamesePairs, open_data
from examples.sdgan.devices import (
    leaving_is_told,
    make_fabric,
    same_buffers,
    same_everywhere,
    share_statistics,
    together,
)
from examples.sdgan.encoders import InceptionImageEncoder, SmallImageEncoder, TextEncoder, image_encoder
from examples.sdgan.export import write_model
from examples.sdgan.gan import GanTraining, build_generator, standing_statistics
from examples.sdgan.journal import open_journal
from examples.sdgan.loop import NotFinite, Phase, ignore_interrupts, progress_bar, run_phase
from examples.sdgan.measure import measure
from examples.sdgan.pretrain import EncoderTraining
from examples.sdgan.resume import broken_part, changed_data, changed_options
from examples.sdgan.sampler import Sampler
from examples.sdgan.vocabulary import Vocabulary, tokenize

_GRID, _SHEET, _STANDING_BATCHES = 24, 5, 20


class Run:
    """The state of a run; :meth:`go` takes it to its end."""

    again = "--resume"
    """How to go on after what has stopped a run."""

    def __init__(self, config: Config, console: Console) -> None:
        self.config, self.console = config, console
        self.began = time.monotonic()
        self.path = config.out / "checkpoint.pt"
        self.fabric = make_fabric(config)
        self.first = self.fabric.is_global_zero
        self.console = console if self.first else Console(quiet=True)
        torch.manual_seed(config.seed)
        state = together(self.fabric, self._prepare)
        same_everywhere(self.fabric, self.fingerprints["data"], f"--root {config.root}: images or captions")
        same_everywhere(
            self.fabric, state and [state["encoder_step"], state["gan_step"]], f"{self.path}: the steps"
        )
        with leaving_is_told(self.fabric):
            if state:
                self._restore(state)
        steps = {"encoders": self.encoder_step, "gan": self.gan_step}
        journal = together(self.fabric, lambda: open_journal(config, steps, self.first))
        assert journal is not None
        self.journal = journal

    def _prepare(self) -> dict[str, Any] | None:
        """All that a process does alone before it meets the others: read the checkpoint, the data, make encoders."""
        config = self.config
        config.out.mkdir(parents=True, exist_ok=True)
        state = self._state_to_resume()
        self.train, self.test = self._open_data()
        self.fingerprints = {"data": self.train.fingerprint(), "held_out": self.test.fingerprint()}
        for note in dict.fromkeys((*self.train.notes, *self.test.notes)):
            self.console.print(note, highlight=False)
        if state:
            self._compare_data(state)
        words = (
            state["vocabulary"]
            if state
            else Vocabulary.of((c for cs in self.train.captions for c in cs), config.encoder.min_count).words[2:]
        )
        self.vocabulary = Vocabulary(words)
        long = [len(tokenize(c)) > config.encoder.words for captions in self.train.captions for c in captions]
        if 2 * sum(long) > len(long):
            share = f"{sum(long) / len(long):.0%} of the captions"
            self.console.print(
                f"{share} are longer than the option encoder.words, {config.encoder.words}: of these, some "
                "words are heard"
            )
        self.text = TextEncoder(len(self.vocabulary), config.encoder).to(self.fabric.device)
        # A checkpoint brings Inception's weights too: the file they came from may be gone.
        self.image = image_encoder(config, "random" if state else None)
        if config.sync_batch_norm:
            self.image = cast(
                "SmallImageEncoder | InceptionImageEncoder", share_statistics(self.image, self.fabric.device)
            )
        self.image = self.image.to(self.fabric.device)
        self.history: pictures.History = {}
        self.seconds = 0.0
        self.encoder_step = self.gan_step = 0
        self.encoders = EncoderTraining(self.fabric, config, self.text, self.image, self.train)
        self.gan: GanTraining | None = None
        self.sampler: Sampler | None = None
        self._drawn_at = -1
        return state

    def go(self) -> None:
        """Train what is left to train, then measure and draw."""
        with leaving_is_told(self.fabric):
            try:
                self.train_encoders()
                if self.gan is None:
                    # The same weights, whether the encoders were trained just now or before a --resume.
                    torch.manual_seed(self.config.seed)
                    self.gan = GanTraining(self.fabric, self.config, self.text, self.image)
                self.train_generator("gan", self.config.steps)
                together(self.fabric, self._finish, first_only=True)
            except BaseException:
                with contextlib.suppress(Exception):  # what went wrong first is the reason
                    self.journal.close()
                raise
            together(self.fabric, self.journal.close)

    def train_encoders(self) -> None:
        """Match text and image encoder, as far as that is not done."""
        config = self.config
        pairs = config.encoder.batch_size // 2
        if self.encoder_step < self.encoders.steps:
            batches = self._batches(pairs, 0.0, config.seed, self.encoder_step, self.encoders.steps)
            self._phase("encoders", self.encoder_step, self.encoders.steps, pairs, batches, self.encoders.step)
        # Without --sync-batch-norm each process has statistics of its own, and DAMSM must have one encoder.
        same_buffers(self.fabric, self.image)

    def train_generator(self, name: str, steps: int) -> None:
        """Train generator and discriminators up to ``steps``, as far as that is not done."""
        assert self.gan is not None
        if self.gan_step < steps:
            c = self.config
            batches = self._batches(c.batch_size, 0.5, c.seed + 1, self.gan_step, steps)
            self._phase(name, self.gan_step, steps, c.batch_size, batches, self.gan.step)

    def _phase(self, name: str, start: int, stop: int, pairs: int, batches: DataLoader, step: Any) -> None:
        def save(done: int) -> None:
            if name == "encoders":
                self.encoder_step = done
            else:
                self.gan_step = done
            together(self.fabric, lambda: self._save_and_draw(name), first_only=True)

        on_device = (self.fabric.to_device(batch) for batch in batches)
        every, seed = self.config.checkpoint_every, self.config.seed
        phase = Phase(name, start, stop, 2 * pairs, on_device, step, save, every, seed, self.again)
        run_phase(phase, self.fabric, self.history, self.journal, self.console, self.path)

    def _save_and_draw(self, name: str) -> None:
        self.save()
        if name != "encoders":
            self._draw(name)

    def _batches(self, pairs: int, same: float, seed: int, start: int, stop: int) -> DataLoader:
        c, rank, world = self.config, self.fabric.global_rank, self.fabric.world_size
        data = SiamesePairs(self.train, self.vocabulary, c.encoder.words, pairs, c.size, seed, same, rank, world)
        steps = range(start, stop)
        return DataLoader(
            data, batch_size=None, sampler=steps, num_workers=c.workers, worker_init_fn=ignore_interrupts
        )

    def _open_data(self) -> tuple[CaptionedImages, CaptionedImages]:
        if self.config.data == "toy":
            self.console.print("drawing birds ...")
            return open_data(self.config)
        with progress_bar(self.console) as bar:
            task = bar.add_task("checking images", total=None, note="")
            return open_data(self.config, lambda done: bar.update(task, completed=done))

    def _state_to_resume(self) -> dict[str, Any] | None:
        if not self.config.resume:
            if self.path.exists():
                raise checkpoint.CheckpointError(
                    f"{self.path}: holds a run, which a new one would overwrite; take another --out, or go on with it "
                    "(--resume of examples.sdgan.train)"
                )
            return None
        state = checkpoint.load(self.path)
        changed = changed_options(state["config"], self.config)
        if changed:
            raise checkpoint.CheckpointError(
                f"{self.path}: the run to resume had other options ({changed}); repeat its command with --resume added"
            )
        return state

    def _compare_data(self, state: dict[str, Any]) -> None:
        """The data may lie elsewhere than where the run began, but it must be the same."""
        if "data" not in state:
            self.console.print(f"{self.path}: from before data was compared; it must be what the run began with")
            return
        changed = changed_data(state["data"], self.fingerprints["data"])
        if changed:
            raise checkpoint.CheckpointError(
                f"{self.path}: the run to resume learnt from other data ({changed}); --root may lie elsewhere, but must "
                "hold the same images and captions: put back what was changed, or start again without --resume, in "
                "another --out"
            )
        changed = changed_data(state.get("held_out", {}), self.fingerprints["held_out"])
        if changed:
            self.console.print(f"{self.test.name}: not the held-out data that the run began with ({changed})")

    def _restore(self, state: dict[str, Any]) -> None:
        broken = broken_part(state)
        if broken:
            raise checkpoint.CheckpointError(
                f"{self.path}: damaged: {broken} is no plain tensor of finite numbers; go on from an earlier copy, or "
                "start again without --resume, in another --out"
            )
        try:
            self.text.load_state_dict(state["text"])
            self.image.load_state_dict(state["image"])
            self.history, self.seconds = state["history"], state["seconds"]
            self.encoder_step, self.gan_step = state["encoder_step"], state["gan_step"]
            if "encoders" in state:
                self.encoders.load_state_dict(state["encoders"])
            if "gan" in state:
                self.gan = GanTraining(self.fabric, self.config, self.text, self.image)
                self.gan.load_state_dict(state["gan"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise checkpoint.CheckpointError(
                f"{self.path}: its weights do not fit its options ({type(error).__name__}: {error}); "
                "start again without --resume, in another --out"
            ) from error
        self.console.print(f"resumed {self.path} at encoder step {self.encoder_step}, step {self.gan_step}")

    def save(self) -> None:
        """Write the checkpoint, unless weights are broken.

        Raises:
            NotFinite: a weight is NaN or infinite; the previous checkpoint stays.
        """
        state = self.state()
        # All that a resumed run would go on with, optimisers' averages too.
        for part in ("text", "image", "ema", "gan", "encoders"):
            for name, value in checkpoint.tensors_within("", state.get(part)):
                if not checkpoint.is_finite(value):
                    raise NotFinite(f"weights are not finite ({part}: {name[1:]}); {self.path} stays as it was")
        checkpoint.save(state, self.path, **({} if self.again == "--resume" else {"again": self.again}))

    def state(self) -> dict[str, Any]:
        """All that a resumed run or a sampler needs."""
        state: dict[str, Any] = {
            "config": self.config.to_json(),
            "vocabulary": self.vocabulary.words[2:],
            "text": self.text.state_dict(),
            "image": self.image.state_dict(),
            "history": self.history,
            "seconds": self._elapsed(),
            "encoder_step": self.encoder_step,
            "gan_step": self.gan_step,
            **self.fingerprints,
        }
        if self.gan is None:
            state["encoders"] = self.encoders.state_dict()
        else:
            state |= {"gan": self.gan.state_dict(), "ema": self.snapshot().generator.state_dict()}
        return state

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.began

    def snapshot(self) -> Sampler:
        """The averaged generator as it is now, with statistics of its own."""
        assert self.gan is not None
        if self.sampler is not None and self._drawn_at == self.gan_step:
            return self.sampler
        generator: Any = copy.deepcopy(self.gan.average.module)
        if self.config.sync_batch_norm:
            # This process samples alone: its statistics must not wait for others.
            generator = build_generator(self.config).to(self.fabric.device)
            generator.load_state_dict(self.gan.average.module.state_dict())
        sampler = Sampler(self.config, self.vocabulary, self.text, generator)
        rng = random.Random(self.config.seed)
        size, dim = 2 * self.config.batch_size, self.config.generator.noise_dim
        noise = pictures.standing_noise(_STANDING_BATCHES * size, dim, seed=1).to(self.fabric.device)
        captions = [rng.choice(rng.choice(self.train.captions)) for _ in range(len(noise))]
        # The mean condition, as in sampling.
        standing_statistics(
            sampler.generator,
            (
                (part, sampler.encode(captions[i * size : (i + 1) * size]))
                for i, part in enumerate(noise.split(size))
            ),
        )
        self.sampler, self._drawn_at = sampler, self.gan_step
        return sampler

    def _draw(self, phase: str) -> None:
        config, sampler = self.config, self.snapshot()
        captions = [self.test.captions[i % len(self.test)][0] for i in range(_GRID)]
        noise = pictures.standing_noise(_GRID, config.generator.noise_dim)
        images = sampler.images(captions, noise)
        held_out = "captions it was trained on" if self.test is self.train else "held-out captions"
        title = f"{self.test.name}: {held_out}, step {self.gan_step}"
        drawn = [config.out / "samples.png"]
        pictures.sample_grid(images, captions, drawn[0], title=title)
        images, maps, words = sampler.attention(captions[:_SHEET], noise[:_SHEET])
        layer = pictures.finest(maps)
        if layer is not None:
            title = f"where each word is heard, layer {layer[0]}; the number is the map's highest weight"
            drawn.append(config.out / "attention.png")
            pictures.attention_sheet(images, layer[1], words, drawn[1], title=title)
        for path in drawn:
            self.journal.picture(phase, self.gan_step, path)

    def _finish(self) -> None:
        config, sampler = self.config, self.snapshot()
        trained = self._elapsed()
        if not (config.out / "samples.png").is_file() or config.resume:
            self._draw("gan")
        if not (config.out / "attention.png").is_file():
            self.console.print("no attention.png: no norm of this generator listens to words")
        pictures.loss_curves(self.history, config.out / "losses.png")
        write_model(config.out / "model", sampler, self.image)
        metrics: dict[str, Any] = {"data": self.train.name, "images": len(self.train), "steps": self.gan_step}
        if config.data == "toy":
            with progress_bar(self.console) as bar:
                task = bar.add_task("attribute reader", total=fidelity.STEPS, note="measuring")
                metrics |= measure(
                    sampler, self.train, self.test, config.seed, lambda s: bar.update(task, completed=s + 1)
                )
        metrics["losses"] = {
            f"{phase}/{name}": next(value for value in reversed(values) if math.isfinite(value))
            for phase, curves in self.history.items()
            for name, values in curves.items()
            if name != "step"
        }
        metrics["seconds"] = {"trained": round(trained, 1), "total": round(self._elapsed(), 1)}
        metrics["torch"] = torch.__version__
        metrics["config"] = json.loads(config.to_json())
        (config.out / "metrics.json").write_text(
            json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        if "caption_fidelity" in metrics:
            f, chance = metrics["caption_fidelity"], metrics["chance"]["value"]
            low, high = f["interval_95"]
            self.console.print(
                f"caption fidelity {f['value']:.3f} [{low:.3f}, {high:.3f}] on {f['images']} images, chance {chance:.3f}"
            )
