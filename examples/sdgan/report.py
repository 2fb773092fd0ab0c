"""Tables and plots of the ablation: ``python -m examples.sdgan.report --results runs/ablation/results.jsonl``."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")

import itertools

import matplotlib.pyplot as plt
import tyro
from rich.console import Console

from examples.sdgan.ablate import read_results
from examples.sdgan.data import DataError, open_data
from examples.sdgan.data.birds.attributes import COLOURS
from examples.sdgan.data.noise import fixed_noise
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.plots.comparisons import paraphrase_sheet, word_change_sheet
from examples.sdgan.plots.samples import attention_sheet, finest

_T = {
    2: 12.706,
    3: 4.303,
    4: 3.182,
    5: 2.776,
    6: 2.571,
    7: 2.447,
    8: 2.365,
    9: 2.306,
    10: 2.262,
    11: 2.228,
    12: 2.201,
}
"""Student's t for a two-sided 95 % interval of the mean of so many seeds; of more, the last, which is a little wide."""
_LOGS = 10
_AXES = {"step": "steps", "cpu_seconds": "CPU seconds"}
_DRAWN = ("caption_fidelity", "novel_caption_fidelity", "agreement_one", "agreement_neither", "distance_ratio")
_PHOTOGRAPHED = ("r_precision", "matching_distance", "distance_ratio", "diversity")
Record = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Turn results.jsonl into tables (Markdown) and plots."""

    results: Path
    out: Path | None = None
    """Folder of tables.md and the plots; by default that of the results."""
    measures: tuple[str, ...] = ()
    """By default, caption fidelity, agreement and distances on drawn birds; R-precision, distances and diversity on photographs."""
    baseline: str = "BN"
    full: str = "SCBN both + Siamese"
    """The two variants to show pictures of."""
    seed: int = 0
    """Of the runs to show."""
    at_equal: str = ""
    """The measure at whose equal values runs are compared too; by default the first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 where there are no results to show so."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.sdgan.report")
    try:
        out = show(options, console)
    except (CheckpointError, DataError, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    console.print(f"done: look at curves.png and tables.md in {out}")
    return 0


def show(options: Options, console: Console) -> Path:
    """Write tables, curves and pictures; returns their folder.

    Raises:
        ValueError: there are no results, or none of what is to be shown.
        CheckpointError, DataError: a model to show pictures of, or its data, is broken.
    """
    records = read_results(options.results)
    if not records:
        raise ValueError(f"{options.results}: no results; run python -m examples.sdgan.ablate first")
    known = set.intersection(*({k for k in p if k != "step"} for r in records for p in r["points"]))
    measures = options.measures or (_DRAWN if "caption_fidelity" in known else _PHOTOGRAPHED)
    against = options.at_equal or measures[0]
    missing = [name for name in (*measures, against) if name not in known]
    if missing:
        raise ValueError(f"{options.results}: no measure {missing[0]!r} at every point; there are {sorted(known)}")
    out = options.out or options.results.parent
    out.mkdir(parents=True, exist_ok=True)
    text = (
        tables(records, measures, against) + "\nDistances that the loss acts on:\n\n" + distances(records) + "\n"
    )
    (out / "tables.md").write_text(text, encoding="utf-8")
    curves(records, measures, against, out / "curves.png")
    pictures(options, out)
    console.print(text)
    return out


def pictures(options: Options, out: Path) -> None:
    """Paraphrases, one word changed at a time, and word maps, of the two models that the options name, if kept."""
    folder = options.results.parent / f"seed-{options.seed}"
    names = [options.baseline, options.full]
    paths = [folder / f"{name.replace(' ', '_')}.pt" for name in names]
    if not all(path.is_file() for path in paths):
        return
    samplers = {name: load_sampler(path) for name, path in zip(names, paths, strict=True)}
    full = samplers[options.full]
    _, test = open_data(full.config)
    # Photographs are other people's, and this picture is made to be published.
    paraphrase_sheet(samplers, test, out / "paraphrases.png", rows=6, columns=3, real=test.drawn is not None)
    captions = test.captions[0][:1]
    if test.drawn is not None:
        captions = [f"a large bird with a {c} crown and yellow wings" for c in COLOURS]
        word_change_sheet(samplers, captions, out / "one-word.png", "one word changes at a time; one noise")
    shown = [*captions[:2], *(test.captions[i][0] for i in range(1, 4))]
    images, maps, words = full.attention(shown, fixed_noise(len(shown), full.config.generator.noise_dim))
    layer = finest(maps)
    if layer is not None:
        title = f"{options.full}: attention to each word, layer {layer[0]}; the number is the map's highest weight"
        attention_sheet(images, layer[1], words, out / "word-maps.png", title=title)


def effects(records: list[Record], pairs: Sequence[Sequence[str]], measures: Sequence[str]) -> str:
    """What the second variant of each pair has over the first at the last step, paired by seed, as Markdown."""
    head = ["", *(m.replace("_", " ") for m in measures)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for first, second in pairs:
        found = [difference(records, first, second, m) for m in measures]
        lines.append(
            "| " + " | ".join([f"{second} over {first}", *(f"{c:+.3f} ± {h:.3f}" for c, h in found)]) + " |"
        )
    return "\n".join(lines)


def distances(records: list[Record]) -> str:
    """Mean and standard deviation of the features' distances over the last ten logged steps of the first seed."""
    lines = ["| | captions of one image | of two images |", "|---|---|---|"]
    for variant in dict.fromkeys(r["variant"] for r in records):
        logged = next(r for r in records if r["variant"] == variant)["distances"]
        last = [logged[name][-_LOGS:] for name in ("distance_same", "distance_other")]
        cells = [f"{mean(values):.2f} (sd {stdev(values):.2f})" if len(values) > 1 else "-" for values in last]
        lines.append("| " + " | ".join([variant, *cells]) + " |")
    return "\n".join(lines)


def tables(records: list[Record], measures: Sequence[str], against: str) -> str:
    """At equal steps, at equal time and at equal values of one measure, as Markdown."""
    steps = records[0]["points"][-1]["step"]
    parts = [f"Equal steps ({steps}):\n\n{_table(records, measures, _last, cost=True)}"]
    limits = {
        r["seed"]: min(s["points"][-1]["cpu_seconds"] for s in records if s["seed"] == r["seed"]) for r in records
    }

    def in_time(record: Record, measure: str) -> float | None:
        return interpolate(record, "cpu_seconds", limits[record["seed"]], measure)

    shortest, longest = min(limits.values()), max(limits.values())
    told = f"{shortest:.0f}" if round(shortest) == round(longest) else f"{shortest:.0f} to {longest:.0f}, by seed"
    parts.append(f"Equal time ({told} CPU-seconds):\n\n{_table(records, measures, in_time)}")
    if against in measures:
        level = common_level(records, against)
        rest = [m for m in measures if m != against]

        def at_level(record: Record, measure: str) -> float | None:
            return interpolate(record, against, level, measure)

        parts.append(f"Equal {against.replace('_', ' ')} ({level:.2f}):\n\n{_table(records, rest, at_level)}")
    return "\n\n".join(parts) + "\n"


def common_level(records: list[Record], measure: str) -> float:
    """A value that every run reached and none started from, or as near to that as there is; in steps of 0.05."""
    reached = min(max(p[measure]["value"] for p in r["points"]) for r in records)
    return math.floor(reached * 20) / 20


def interpolate(record: Record, axis: str, at: float, measure: str) -> float | None:
    """A measure where the run's ``axis`` first reached ``at``, on the line between two points; ``None`` if it never did."""
    points = [(_value(p[axis]), _value(p[measure])) for p in record["points"]]
    if points[0][0] >= at:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval over seeds (Student's t); nan for the half with a single seed."""
    if len(values) < 2:
        return mean(values), math.nan
    return mean(values), _T.get(len(values), min(_T.values())) * stdev(values) / len(values) ** 0.5


def difference(records: list[Record], first: str, second: str, measure: str) -> tuple[float, float]:
    """Mean and half interval of ``second`` minus ``first`` at the last step, paired by seed."""
    found = {(r["variant"], r["seed"]): _last(r, measure) for r in records}
    seeds = sorted({seed for _, seed in found if (first, seed) in found and (second, seed) in found})
    return interval([found[second, s] - found[first, s] for s in seeds])


def last_table(records: list[Record], measures: Sequence[str]) -> str:
    """Each variant's measures at its last point, as Markdown."""
    return _table(records, measures, _last)


def _table(records: list[Record], measures: Sequence[str], read: Any, cost: bool = False) -> str:
    counts = {len([r for r in records if r["variant"] == v]) for v in dict.fromkeys(r["variant"] for r in records)}
    alike = len(counts) == 1  # then a column of them would say the same in every row
    head = [
        f"{(n := next(iter(counts)))} seed{'s' * (n > 1)}" if alike else "",
        *(m.replace("_", " ") for m in measures),
        *(["CPU s / step", "G parameters"] if cost else []),
        *([] if alike else ["seeds"]),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant in dict.fromkeys(r["variant"] for r in records):
        runs = [r for r in records if r["variant"] == variant]
        cells = []
        for measure in measures:
            values = [value for r in runs if (value := read(r, measure)) is not None]
            cells.append(_cell(values) if len(values) == len(runs) else "not reached")
        if cost:
            cells.append(f"{mean(r['points'][-1]['cpu_seconds'] / r['points'][-1]['step'] for r in runs):.3f}")
            cells.append(f"{runs[0]['generator_parameters'] / 1e3:.0f} k")
        lines.append("| " + " | ".join([variant, *cells, *([] if alike else [str(len(runs))])]) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    centre, half = interval(values)
    return f"{centre:.3f}" if math.isnan(half) else f"{centre:.3f} ± {half:.3f}"


def _value(entry: Any) -> float:
    return float(entry["value"]) if isinstance(entry, dict) else float(entry)


def _last(record: Record, measure: str) -> float:
    return _value(record["points"][-1][measure])


def curves(records: list[Record], measures: Sequence[str], against: str, path: Path) -> None:
    """Every seed's line, thin, and the mean over seeds: over steps, over time, and over one measure."""
    rows = [("step", m) for m in measures] + [("cpu_seconds", against)]
    rows += [(against, m) for m in measures if m != against]
    columns = 3
    height = math.ceil(len(rows) / columns)
    figure, axes = plt.subplots(height, columns, figsize=(4.2 * columns, 2.9 * height + 0.6), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    variants = list(dict.fromkeys(r["variant"] for r in records))
    for axis, (x, y) in zip(axes.flat, rows, strict=False):
        axis.axis("on")
        for i, variant in enumerate(variants):
            runs = [r for r in records if r["variant"] == variant]
            lines = [([_value(p[x]) for p in r["points"]], [_value(p[y]) for p in r["points"]]) for r in runs]
            colour = f"C{i % 10}"
            for xs, ys in lines:
                axis.plot(xs, ys, color=colour, linewidth=0.7, alpha=0.35)
            mean_x, mean_y = ([mean(v) for v in zip(*part, strict=True)] for part in zip(*lines, strict=True))
            axis.plot(
                mean_x, mean_y, "-" if i < 10 else "--", marker=".", color=colour, linewidth=1.6, label=variant
            )
        axis.set_xlabel(_AXES.get(x, x).replace("_", " "), fontsize=8)
        axis.set_title(f"{y} over {_AXES.get(x, x)}".replace("_", " "), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.suptitle("thick: mean over seeds; thin: each seed", fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=min(len(variants), 6), fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
