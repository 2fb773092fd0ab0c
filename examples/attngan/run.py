"""Train an AttnGAN or load one, retrofit it, fine-tune it, and compare: the trainer is that of :mod:`examples.sdgan`."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from examples.attngan.adapter import Adapter
from examples.attngan.comparison import Shown, compare
from examples.attngan.hosts import build_host, check_images, load_weights
from examples.attngan.published.folder import Files, told
from examples.attngan.published.models import given_encoders, load_discriminators
from examples.sdgan.config import Config
from examples.sdgan.inference.export import write_model
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.sample_size import check_negatives
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.models.generator import add_norms
from examples.sdgan.plots import samples
from examples.sdgan.training.callbacks import DrawSamples, SaveCheckpoint, WarmUp
from examples.sdgan.training.distributed import together
from examples.sdgan.training.encoders import train_encoders
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.resume import restoring
from examples.sdgan.training.trainer import Trainer
from examples.sdgan.training.workspace import Workspace, open_workspace
from scbn import Retrofit, retrofitted_state

FINE_TUNING, CONTROL = "fine-tune", "control"


@dataclass(frozen=True)
class Plan:
    """What to retrofit and how long to train it.

    Args:
        files: what there is already: a generator (without one an AttnGAN is trained first), encoders, discriminators.
        repo: checkout of the published code, to use instead of our generator.
        before_steps: of the AttnGAN itself, where no checkpoint brings one.
        warm_up: fine-tuning steps in which the discriminators alone learn.
        pretrained_lr: learning rate of the parameters that the generator came with.
        control: fine-tune the generator without the retrofit too, to compare.
        checkpoint: a digest of the generator that was given, ``""`` where none was.
    """

    files: Files
    repo: Path | None
    before_steps: int
    warm_up: int
    pretrained_lr: float
    control: bool
    checkpoint: str = ""


class FineTuning(GanTraining):
    """Training of a generator that was trained before; its average goes on.

    Args:
        run: data and encoders.
        config: of this phase.
        generator: to train.
        groups: of its parameters.
        kept: what the rest of the run needs of the phases before; in the checkpoint too.
        plan: of the run; a resumed one must have the same.
        name: of the phase.
    """

    def __init__(
        self,
        run: Workspace,
        config: Config,
        generator: Adapter,
        groups: list[dict[str, Any]],
        kept: dict[str, Any],
        plan: Plan,
        name: str,
    ) -> None:
        super().__init__(
            run.fabric, config, run.text, run.image, generator, name=name, groups=groups, averaged=True
        )
        self.kept = kept
        if "discriminators" in kept:
            self.discriminators.load_state_dict(kept["discriminators"])
        names = ("pretrained_lr", "warm_up", "control", "before_steps", "checkpoint")
        self.settings = {name: getattr(plan, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {**super().state_dict(), "kept": self.kept, "settings": self.settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        for name, value in self.settings.items():
            before = state["settings"][name]
            if before != value:
                what = (
                    "is of other weights" if before and value else f"was {before or 'none'}, is {value or 'none'}"
                )
                what = what if name == "checkpoint" else f"was {before}, is {value}"
                raise CheckpointError(
                    f"--{name.replace('_', '-')} {what}; repeat the command that began the run, with --train.resume added"
                )
        super().load_state_dict(state)


def retrofit(config: Config, plan: Plan, console: Console) -> None:
    """Encoders, AttnGAN, control, retrofit, fine-tuning with the Siamese loss; then the sheet and the numbers."""
    # Before anything is trained: a file that does not fit should not be found out after the encoders.
    torch.manual_seed(config.seed)
    host = build_host(config, plan.repo)
    entry, files = "", plan.files
    if files.checkpoint is not None:
        entry = load_weights(host, files.checkpoint)
        check_images(host, config, files.checkpoint)
        plan = dataclasses.replace(plan, checkpoint=_digest(host))
    phases = ("encoders", "attngan", CONTROL, FINE_TUNING)
    run = open_workspace(config, console, "--train.resume", phases, given_encoders(files))
    config = run.config  # with what was found out when it was opened
    check_negatives(run.test, Shown.queries)
    for line in told(files) if files else ():
        run.console.print(line, highlight=False)
    if entry:
        run.console.print(f"weights of {files.checkpoint}, its entry {entry}")
    callbacks = [SaveCheckpoint(), DrawSamples(), WarmUp(plan.warm_up, CONTROL, FINE_TUNING)]
    with Trainer(run, callbacks) as trainer:
        train_encoders(trainer)
        # The same weights, whether the phases before ran just now or before a --train.resume.
        torch.manual_seed(config.seed)
        before, kept = _before(trainer, Adapter(host, config.generator.condition_dim), plan)
        shown = Shown.of(run)
        models = {"before": before}

        torch.manual_seed(config.seed + 1)
        adapter, report = _retrofitted(before, config)
        run.console.print(str(report), highlight=False)
        models["step 0"] = _sampler(run, config, copy.deepcopy(adapter).eval())
        change = shown.change(before, models["step 0"])
        run.console.print(f"largest change of a pixel by the retrofit itself: {change:.1e} (of 2)")

        if plan.control:
            models["control"] = _control(trainer, before, kept, plan)
        lr, new_lr = plan.pretrained_lr, config.generator.lr
        groups = report.parameter_groups(lr=lr, new_lr=new_lr)
        gan = FineTuning(run, config, adapter, groups, kept, plan, FINE_TUNING)
        kept.pop("discriminators", None)  # the last phase has its own: every checkpoint would carry them twice
        trainer.fit(gan)
        models["retrofit"] = trainer.sampler(gan)
        metrics: dict[str, Any] = {
            "data": run.train.name,
            "largest_change_at_step_0": change,
            "report": str(report),
        }
        metrics |= {
            "before_steps": plan.before_steps,
            "checkpoint": files.checkpoint.name if files.checkpoint is not None else None,
            "steps": gan.done,
            "learning_rates": {"pretrained": lr, "new": new_lr},
        }
        finish = partial(_finish, trainer, models, shown, metrics)
        together(run.fabric, finish, first_only=True)


def _digest(host: nn.Module) -> str:
    content = hashlib.blake2b(digest_size=8)
    for value in host.state_dict().values():
        content.update(value.cpu().numpy().tobytes())
    return content.hexdigest()


def plain(config: Config) -> Config:
    """The options of the same AttnGAN without the retrofit."""
    generator = dataclasses.replace(config.generator, norm="batch", fix_mask=False)
    return dataclasses.replace(config, generator=generator)


def _sampler(run: Workspace, config: Config, generator: Adapter) -> Sampler:
    return Sampler(config, run.vocabulary, run.text, generator)


def _retrofitted(before: Sampler, config: Config) -> tuple[Adapter, Retrofit]:
    adapter = copy.deepcopy(before.generator)
    assert isinstance(adapter, Adapter)
    report = add_norms(adapter.host, config.generator)
    assert report is not None
    return adapter, report


def _before(trainer: Trainer, adapter: Adapter, plan: Plan) -> tuple[Sampler, dict[str, Any]]:
    """The AttnGAN to retrofit, trained, loaded or as a checkpoint has it; and what fine-tuning needs of it."""
    run, config = trainer.workspace, plain(trainer.workspace.config)
    phases = run.resumed.get("phases", {})
    resumed = phases.get(FINE_TUNING) or phases.get(CONTROL)
    if resumed is not None:
        with restoring(run.path):
            kept = resumed["kept"]
            adapter.load_state_dict(kept["before"])
        return _sampler(run, config, adapter.to(run.fabric.device).eval()), kept
    first = dataclasses.replace(config, siamese=dataclasses.replace(config.siamese, weight=0.0))
    gan = GanTraining(run.fabric, first, run.text, run.image, adapter, name="attngan", steps=plan.before_steps)
    load_discriminators(gan, plan.files.discriminators, run.config)
    if plan.files.checkpoint is None:
        trainer.fit(gan)
        before = trainer.sampler(gan)
    else:
        before = _sampler(run, config, copy.deepcopy(adapter).eval())
    # Copies: the discriminators of this phase live on until it is forgotten.
    kept = {"before": before.generator.state_dict(), "discriminators": gan.discriminators.state_dict()}
    return before, copy.deepcopy(kept)


def _control(trainer: Trainer, before: Sampler, kept: dict[str, Any], plan: Plan) -> Sampler:
    """The same generator fine-tuned in the same way without the retrofit: same start, same batches, same noise."""
    run, config = trainer.workspace, plain(trainer.workspace.config)
    adapter = copy.deepcopy(before.generator)
    assert isinstance(adapter, Adapter)
    if "control" in kept:
        if kept["control_steps"] != config.steps:
            raise ValueError(
                f"--steps was {kept['control_steps']} for the control, which has ended; is {config.steps}"
            )
        with restoring(run.path):
            adapter.load_state_dict(kept["control"])
        return _sampler(run, config, adapter.eval())
    groups = [{"params": list(adapter.parameters()), "lr": plan.pretrained_lr}]
    gan = FineTuning(run, config, adapter, groups, kept, plan, CONTROL)
    trainer.fit(gan)
    control = trainer.sampler(gan)
    kept |= {"control": copy.deepcopy(control.generator.state_dict()), "control_steps": gan.done}
    return control


def _finish(trainer: Trainer, models: dict[str, Sampler], shown: Shown, metrics: dict[str, Any]) -> None:
    """What the run leaves: the model for our commands, the generator for their script, pictures and numbers."""
    run, after = trainer.workspace, models["retrofit"]
    out = run.config.out
    write_model(out / "model", after, run.image)
    assert isinstance(after.generator, Adapter)
    torch.save(retrofitted_state(after.generator.host), out / "netG_scbn.pth")
    samples.loss_curves(trainer.history, out / "losses.png")
    compare(trainer.workspace, models, shown, metrics)
