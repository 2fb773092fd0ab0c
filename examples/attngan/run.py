"""Train an AttnGAN or load one, retrofit it, fine-tune it, and compare: the trainer is that of :mod:`examples.sdgan`."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor

from examples.attngan.adapter import Adapter
from examples.attngan.hosts import build_host, check_images, load_weights
from examples.attngan.published.folder import Files, told
from examples.attngan.published.models import given_encoders, load_discriminators
from examples.attngan.sheet import side_by_side
from examples.sdgan.config import Config
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics import caption_fidelity
from examples.sdgan.metrics.birds import measure
from examples.sdgan.metrics.r_precision import r_precision
from examples.sdgan.metrics.sample_size import check_negatives
from examples.sdgan.plots import samples
from examples.sdgan.training.callbacks import DrawSamples, SaveCheckpoint, WarmUp
from examples.sdgan.training.distributed import together
from examples.sdgan.training.encoders import train_encoders
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.loop import progress_bar
from examples.sdgan.training.resume import restoring
from examples.sdgan.training.trainer import Trainer
from examples.sdgan.training.workspace import Workspace, open_workspace
from scbn import retrofit_attngan

FINE_TUNING = "fine-tune"
_SHEET, _QUERIES = 6, 500


@dataclass(frozen=True)
class Plan:
    """What to retrofit and how long to train it.

    Args:
        files: what there is already: a generator (without one an AttnGAN is trained first), encoders, discriminators.
        repo: checkout of the published code, to use instead of our generator.
        before_steps: of the AttnGAN itself, where no checkpoint brings one.
        warm_up: fine-tuning steps in which the discriminators alone learn; a checkpoint brings none of them.
        fix_mask: see :func:`scbn.retrofit_attngan`.
    """

    files: Files
    repo: Path | None
    before_steps: int
    warm_up: int
    fix_mask: bool


class FineTuning(GanTraining):
    """Training of a retrofitted generator; its checkpoint holds also the generator it began with."""

    def __init__(self, run: Workspace, generator: Adapter, before: Sampler, fix_mask: bool) -> None:
        super().__init__(run.fabric, run.config, run.text, run.image, generator, name=FINE_TUNING)
        self.before, self.fix_mask = before, fix_mask

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {**super().state_dict(), "before": self.before.generator.state_dict(), "fix_mask": self.fix_mask}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        if state["fix_mask"] != self.fix_mask:
            raise ValueError(f"--fix-mask was {state['fix_mask']}, is {self.fix_mask}")
        super().load_state_dict(state)


def retrofit(config: Config, plan: Plan, console: Console) -> None:
    """Encoders, AttnGAN, retrofit, fine-tuning with the Siamese loss; then the sheet and the numbers."""
    # Before anything is trained: a file that does not fit should not be found out after the encoders.
    torch.manual_seed(config.seed)
    host = build_host(config, plan.repo)
    entry, files = "", plan.files
    if files.checkpoint is not None:
        entry = load_weights(host, files.checkpoint)
        check_images(host, config, files.checkpoint)
    phases = ("encoders", "attngan", FINE_TUNING)
    run = open_workspace(config, console, "--train.resume", phases, given_encoders(files))
    check_negatives(run.test, _QUERIES)
    for line in told(files) if files else ():
        run.console.print(line, highlight=False)
    if entry:
        run.console.print(f"weights of {files.checkpoint}, its entry {entry}")
    with Trainer(run, [SaveCheckpoint(), DrawSamples(), WarmUp(plan.warm_up, FINE_TUNING)]) as trainer:
        train_encoders(trainer)
        # The same weights, whether the phases before ran just now or before a --train.resume.
        torch.manual_seed(config.seed)
        before, discriminators = _before(trainer, Adapter(host, config.generator.condition_dim), plan)
        shown = Shown.of(run)
        columns = {"before": shown.images(before)}

        torch.manual_seed(config.seed + 1)
        adapter = copy.deepcopy(before.generator)
        report = retrofit_attngan(adapter.get_submodule("host"), fix_mask=plan.fix_mask)
        run.console.print(str(report), highlight=False)
        columns["step 0"] = shown.images(dataclasses.replace(before, generator=adapter.eval()))
        change = float((columns["step 0"] - columns["before"]).abs().max())
        run.console.print(f"largest change of a pixel by the retrofit itself: {change:.1e} (of 2)")

        gan = FineTuning(run, cast(Adapter, adapter), before, plan.fix_mask)
        if discriminators is not None:
            gan.discriminators.load_state_dict(discriminators)
        trainer.fit(gan)
        after = trainer.sampler(gan)
        columns["after"] = shown.images(after)
        metrics = {"data": run.train.name, "largest_change_at_step_0": change, "report": str(report)}
        compare = partial(_compare, trainer, plan, before, after, shown, columns, metrics)
        together(run.fabric, compare, first_only=True)


def _before(trainer: Trainer, adapter: Adapter, plan: Plan) -> tuple[Sampler, dict[str, Any] | None]:
    """The AttnGAN to retrofit, trained, loaded or as a checkpoint has it; and its discriminators, if they are new."""
    run = trainer.workspace
    sampler = Sampler(run.config, run.vocabulary, run.text, cast(Any, adapter))
    resumed = run.resumed.get("phases", {}).get(FINE_TUNING)
    if resumed is not None:
        with restoring(run.path):
            adapter.load_state_dict(resumed["before"])
        sampler.generator.to(run.fabric.device).eval()
        return sampler, None
    plain = dataclasses.replace(run.config, siamese=dataclasses.replace(run.config.siamese, weight=0.0))
    gan = GanTraining(run.fabric, plain, run.text, run.image, adapter, name="attngan", steps=plan.before_steps)
    load_discriminators(gan, plan.files.discriminators, run.config)
    if plan.files.checkpoint is None:
        trainer.fit(gan)
        before = trainer.sampler(gan)
    else:
        before = dataclasses.replace(sampler, generator=copy.deepcopy(cast(Any, adapter)).eval())
    return before, gan.discriminators.state_dict()


@dataclass(frozen=True)
class Shown:
    """The captions and noise of the sheet."""

    captions: list[str]
    noise: Tensor

    @classmethod
    def of(cls, run: Workspace) -> Shown:
        """The first held-out ones, always the same."""
        captions = [run.test.captions[i % len(run.test)][0] for i in range(_SHEET)]
        return cls(captions, fixed_noise(_SHEET, run.config.generator.noise_dim))

    def images(self, sampler: Sampler) -> Tensor:
        """What a generator makes of them."""
        return sampler.images(self.captions, self.noise)


def _compare(
    trainer: Trainer,
    plan: Plan,
    before: Sampler,
    after: Sampler,
    shown: Shown,
    columns: dict[str, Tensor],
    metrics: dict[str, Any],
) -> None:
    run = trainer.workspace
    for name, sampler in (("before", before), ("after", after)):
        metrics[name] = _measures(run, sampler, name)
    metrics |= {
        "before_steps": plan.before_steps,
        "checkpoint": str(plan.files.checkpoint),
        "torch": torch.__version__,
    }
    metrics["config"] = json.loads(run.config.to_json())
    (run.config.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    told = [f"R-precision {_arrow(metrics, 'r_precision')}"]
    if "caption_fidelity" in metrics["after"]:
        told.append(f"caption fidelity {_arrow(metrics, 'caption_fidelity')}")
    _, maps, words = after.attention(shown.captions, shown.noise)
    layer = samples.finest(maps)
    title = f"{run.test.name}: {'; '.join(told)}; word maps of {layer[0] if layer else 'no layer'}"
    path = run.config.out / "retrofit.png"
    side_by_side(columns, layer[1] if layer else None, words, shown.captions, path, title)
    samples.loss_curves(trainer.history, run.config.out / "losses.png")
    for line in told:
        run.console.print(line)


def _measures(run: Workspace, sampler: Sampler, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"r_precision": r_precision(sampler, run.image, run.test, run.config.seed, _QUERIES)}
    if run.config.data == "toy":
        with progress_bar(run.console) as bar:
            task = bar.add_task(f"measuring {name}", total=caption_fidelity.STEPS, note="")
            found |= measure(
                sampler, run.train, run.test, run.config.seed, lambda s: bar.update(task, completed=s + 1)
            )
    return found


def _arrow(metrics: dict[str, Any], name: str) -> str:
    a, b = metrics["before"][name], metrics["after"][name]
    return f"{a['value']:.3f} -> {b['value']:.3f} [{b['interval_95'][0]:.3f}, {b['interval_95'][1]:.3f}]"
