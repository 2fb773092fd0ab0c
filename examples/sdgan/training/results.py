"""What a finished run leaves beside its checkpoint: the model, curves, measures."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from examples.sdgan.inference.card import write_card
from examples.sdgan.inference.export import write_model
from examples.sdgan.metrics.birds import measure
from examples.sdgan.plots import samples
from examples.sdgan.training.callbacks import draw_samples
from examples.sdgan.training.gan import GanTraining
from examples.sdgan.training.loop import progress_bar
from examples.sdgan.training.trainer import Trainer


def write_results(trainer: Trainer, gan: GanTraining) -> None:
    """OUT/model with its card, losses.png, metrics.json, and the pictures where no checkpoint has drawn them."""
    run, sampler = trainer.workspace, trainer.sampler(gan)
    config, console = run.config, run.console
    trained = run.seconds
    if not (config.out / "samples.png").is_file() or config.resume:
        draw_samples(trainer, gan)
    if not (config.out / "attention.png").is_file():
        console.print("no attention.png: no norm of this generator attends to words")
    samples.loss_curves(trainer.history, config.out / "losses.png")
    write_model(config.out / "model", sampler, run.image)
    metrics: dict[str, Any] = {"data": run.train.name, "images": len(run.train), "steps": gan.done}
    if run.test.drawn is not None:
        with progress_bar(console) as bar:
            task = bar.add_task("attribute reader", total=run.test.drawn.reader_steps, note="measuring")
            metrics |= measure(
                sampler, run.train, run.test, config.seed, lambda s: bar.update(task, completed=s + 1)
            )
    metrics |= {
        "losses": _last_losses(trainer),
        "seconds": {"trained": round(trained, 1), "total": round(run.seconds, 1)},
        "torch": torch.__version__,
        "config": json.loads(config.to_share()),
    }
    text = json.dumps(metrics, indent=1, allow_nan=False) + "\n"
    (config.out / "metrics.json").write_text(text, encoding="utf-8")
    write_card(config.out / "model", config, metrics, run.test.captions[0][0], config.out / "samples.png")
    if "caption_fidelity" in metrics:
        f, chance = metrics["caption_fidelity"], metrics["chance"]["value"]
        low, high = f["interval_95"]
        console.print(
            f"caption fidelity {f['value']:.3f} [{low:.3f}, {high:.3f}] on {f['images']} images, chance {chance:.3f}"
        )


def _last_losses(trainer: Trainer) -> dict[str, float]:
    return {
        f"{phase}/{name}": next(value for value in reversed(values) if math.isfinite(value))
        for phase, curves in trainer.history.items()
        for name, values in curves.items()
        if name != "step"
    }
