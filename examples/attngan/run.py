"""Train an AttnGAN or load one, retrofit it, fine-tune it, and compare: the trainer is that of :mod:`examples.sdgan`."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from examples.attngan.adapter import Adapter
from examples.attngan.hosts import build_host, check_images, load_weights
from examples.attngan.sheet import side_by_side
from examples.sdgan import fidelity, pictures
from examples.sdgan.config import Config
from examples.sdgan.devices import leaving_is_told, together
from examples.sdgan.enough import check_rivals
from examples.sdgan.gan import GanTraining
from examples.sdgan.loop import progress_bar
from examples.sdgan.measure import measure
from examples.sdgan.retrieval import r_precision
from examples.sdgan.run import Run
from examples.sdgan.sampler import Sampler
from scbn import retrofit_attngan

_SHEET, _QUERIES = 6, 500


class RetrofitRun(Run):
    """Encoders, AttnGAN, retrofit, fine-tuning with the Siamese loss.

    Args:
        config: of the trainer; ``config.steps`` are those of the fine-tuning.
        before_steps: of the AttnGAN itself, where no checkpoint brings one.
        checkpoint: of a trained generator.
        repo: checkout of the published code, to use instead of our generator.
        warm_up: fine-tuning steps in which the discriminators alone learn; a checkpoint brings none of them.
        fix_mask: see :func:`scbn.retrofit_attngan`.
        console: where progress goes.
    """

    again = "start again"

    def __init__(
        self,
        config: Config,
        before_steps: int,
        checkpoint: Path | None,
        repo: Path | None,
        warm_up: int,
        fix_mask: bool,
        console: Console,
    ) -> None:
        self.repo, self.loaded, self.before_steps, self.warm_up, self.fix_mask = (
            repo,
            checkpoint,
            before_steps,
            warm_up,
            fix_mask,
        )
        super().__init__(config, console)

    def _prepare(self) -> dict[str, Any] | None:
        # Before anything is trained: a file that does not fit should not be found out after the encoders.
        self.host = build_host(self.config, self.repo)
        if self.loaded is not None:
            entry = load_weights(self.host, self.loaded)
            check_images(self.host, self.config, self.loaded)
            self.console.print(f"weights of {self.loaded}{f', its entry {entry}' if entry else ''}")
        state = super()._prepare()
        check_rivals(self.test, _QUERIES)
        return state

    def go(self) -> None:
        """All phases, then the sheet and the numbers."""
        with leaving_is_told(self.fabric):
            self._go()

    def _go(self) -> None:
        self.train_encoders()
        plain = dataclasses.replace(self.config, siamese=dataclasses.replace(self.config.siamese, weight=0.0))
        adapter = Adapter(self.host, self.config.generator.condition_dim)
        self.gan = GanTraining(self.fabric, plain, self.text, self.image, adapter)
        if self.loaded is None:
            self.train_generator("attngan", self.before_steps)
            before = self.snapshot()
        else:
            before = Sampler(self.config, self.vocabulary, self.text, copy.deepcopy(adapter).eval())  # pyright: ignore
        captions, noise = self._shown()
        columns = {"before": before.images(captions, noise)}

        adapter = copy.deepcopy(before.generator)
        report = retrofit_attngan(adapter.get_submodule("host"), fix_mask=self.fix_mask)
        self.console.print(str(report), highlight=False)
        start = dataclasses.replace(before, generator=adapter.eval())
        columns["step 0"] = start.images(captions, noise)
        change = float((columns["step 0"] - columns["before"]).abs().max())
        self.console.print(f"largest change of a pixel by the retrofit itself: {change:.1e} (of 2)")

        discriminators = self.gan.discriminators.state_dict()
        self.gan = GanTraining(self.fabric, self.config, self.text, self.image, adapter)
        self.gan.discriminators.load_state_dict(discriminators)
        self.gan.step = self._warming(self.gan, self.gan.step)
        self.gan_step, self.sampler = 0, None
        self.train_generator("fine-tune", self.config.steps)
        after = self.snapshot()
        columns["after"] = after.images(captions, noise)
        compare = partial(self._compare, before, after, columns, captions, noise, change, str(report))
        together(self.fabric, compare, first_only=True)
        together(self.fabric, self.journal.close)

    def _warming(self, gan: GanTraining, step: Callable[..., Any]) -> Callable[..., Any]:
        """The discriminators of a loaded generator know nothing yet: its learning rate is zero until they do."""
        rates = [group["lr"] for group in gan.optimizer_g.param_groups]

        def warming(number: int, batch: Any) -> dict[str, Tensor]:
            for group, rate in zip(gan.optimizer_g.param_groups, rates, strict=True):
                group["lr"] = rate if number >= self.warm_up else 0.0
            return step(number, batch)

        return warming

    def _shown(self) -> tuple[list[str], Tensor]:
        captions = [self.test.captions[i % len(self.test)][0] for i in range(_SHEET)]
        return captions, pictures.standing_noise(_SHEET, self.config.generator.noise_dim)

    def _compare(
        self,
        before: Sampler,
        after: Sampler,
        columns: dict[str, Tensor],
        captions: list[str],
        noise: Tensor,
        change: float,
        report: str,
    ) -> None:
        metrics: dict[str, Any] = {"data": self.train.name, "largest_change_at_step_0": change, "report": report}
        for name, sampler in (("before", before), ("after", after)):
            precision = r_precision(sampler, self.image, self.test, self.config.seed, _QUERIES)
            found: dict[str, Any] = {"r_precision": precision}
            if self.config.data == "toy":
                with progress_bar(self.console) as bar:
                    task = bar.add_task(f"measuring {name}", total=fidelity.STEPS, note="")
                    found |= measure(
                        sampler,
                        self.train,
                        self.test,
                        self.config.seed,
                        lambda s, b=bar, t=task: b.update(t, completed=s + 1),
                    )
            metrics[name] = found
        metrics |= {"before_steps": self.before_steps, "checkpoint": str(self.loaded), "torch": torch.__version__}
        metrics["config"] = json.loads(self.config.to_json())
        (self.config.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        told = [f"R-precision {_arrow(metrics, 'r_precision')}"]
        if "caption_fidelity" in metrics["after"]:
            told.append(f"caption fidelity {_arrow(metrics, 'caption_fidelity')}")
        _, maps, words = after.attention(captions, noise)
        layer = pictures.finest(maps)
        title = f"{self.test.name}: {'; '.join(told)}; word maps of {layer[0] if layer else 'no layer'}"
        path = self.config.out / "retrofit.png"
        side_by_side(columns, layer[1] if layer else None, words, captions, path, title)
        pictures.loss_curves(self.history, self.config.out / "losses.png")
        for line in told:
            self.console.print(line)


def _arrow(metrics: dict[str, Any], name: str) -> str:
    a, b = metrics["before"][name], metrics["after"][name]
    return f"{a['value']:.3f} -> {b['value']:.3f} [{b['interval_95'][0]:.3f}, {b['interval_95'][1]:.3f}]"
