"""A retrofit beside what it came from: the sheet of images, and the measures of each model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from examples.attngan.sheet import side_by_side
from examples.sdgan.data.dataset import to_bytes
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.card import write_card
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.metrics.birds import measure
from examples.sdgan.metrics.fid import matching_distance
from examples.sdgan.metrics.r_precision import matching_features, r_precision
from examples.sdgan.plots import samples
from examples.sdgan.training.loop import progress_bar
from examples.sdgan.training.workspace import Workspace

_FEWEST = 20  # images of which a distribution says anything


@dataclass(frozen=True)
class Shown:
    """The captions and noise of the sheet."""

    captions: list[str]
    noise: Tensor
    rows: ClassVar[int] = 6
    queries: ClassVar[int] = 500
    """Images of R-precision."""

    @classmethod
    def of(cls, run: Workspace) -> Shown:
        """The first held-out ones, always the same."""
        captions = [run.test.captions[i % len(run.test)][0] for i in range(cls.rows)]
        return cls(captions, fixed_noise(cls.rows, run.config.generator.noise_dim))

    def images(self, sampler: Sampler) -> Tensor:
        """What a generator makes of them."""
        return sampler.images(self.captions, self.noise)

    def change(self, a: Sampler, b: Sampler) -> float:
        """The largest difference of a pixel between two generators."""
        return float((self.images(a) - self.images(b)).abs().max())


def compare(run: Workspace, models: dict[str, Sampler], shown: Shown, metrics: dict[str, Any]) -> None:
    """Write OUT/retrofit.png, OUT/metrics.json and the card of OUT/model.

    Args:
        run: whose data and matching network measure.
        models: in the order of the sheet's columns; ``"step 0"``, which is as the one before, is shown and not measured.
        shown: what the sheet shows.
        metrics: what is known already; measures are added under the models' names.
    """
    for name, sampler in models.items():
        if name != "step 0":
            metrics[name] = _measures(run, sampler, name)
    after = models["retrofit"]
    metrics |= {"torch": torch.__version__, "config": json.loads(run.config.to_share())}
    (run.config.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    told_of = {**metrics, **metrics["retrofit"]}
    picture = run.config.out / "samples.png"
    write_card(run.config.out / "model", after.config, told_of, shown.captions[0], picture)
    measured = [name for name in models if name in metrics]
    told = [
        _line(metrics, measured, name) for name in ("r_precision", "caption_fidelity") if name in metrics["before"]
    ]
    _, maps, words = after.attention(shown.captions, shown.noise)
    layer = samples.finest(maps)
    title = f"{run.test.name}: {'; '.join(told)}; word maps of {layer[0] if layer else 'no layer'}"
    columns = {name: shown.images(sampler) for name, sampler in models.items()}
    path = run.config.out / "retrofit.png"
    side_by_side(columns, layer[1] if layer else None, words, shown.captions, path, title)
    for line in told:
        run.console.print(line)


def _measures(run: Workspace, sampler: Sampler, name: str) -> dict[str, Any]:
    config = run.config
    found: dict[str, Any] = {"r_precision": r_precision(sampler, run.image, run.test, config.seed, Shown.queries)}
    if run.test.drawn is None:
        if len(run.test) >= _FEWEST:
            found["matching_distance"] = _distance(run, sampler)
        return found
    with progress_bar(run.console) as bar:
        task = bar.add_task(f"measuring {name}", total=run.test.drawn.reader_steps, note="")
        found |= measure(sampler, run.train, run.test, config.seed, lambda s: bar.update(task, completed=s + 1))
    return found


def _distance(run: Workspace, sampler: Sampler) -> dict[str, Any]:
    """Fréchet distance in the matching network's features, of as many generated images as real ones, at most 1,000."""
    chosen = run.test.spread(min(len(run.test), 1000))
    captions = [run.test.captions[i][0] for i in chosen]
    noise = fixed_noise(len(captions), run.config.generator.noise_dim, seed=3)
    fake = to_bytes(sampler.images(captions, noise))
    return matching_distance(matching_features(run.image), run.test.load_all(run.config.size), fake)


def _line(metrics: dict[str, Any], names: list[str], measure: str) -> str:
    parts = []
    for name in names:
        found = metrics[name][measure]
        low, high = found["interval_95"]
        parts.append(f"{name} {found['value']:.3f} [{low:.3f}, {high:.3f}]")
    return f"{measure.replace('_', ' ').replace('r precision', 'R-precision')}: {', '.join(parts)}"
