"""Images per second of a whole training step, ours and the published AttnGAN's: ``python -m benchmarks.trainer``.

A generated image counts once it has been carried through one full update of the generator and of all discriminators.
Both train 64, 128 and 256 px with the preset ``cub``'s sizes and an Inception v3 and an LSTM of the same size; ours with
word and sentence SCBN and the Siamese loss, AttnGAN with its attention. Ours runs in float32, as the published code
does, and in bfloat16 where the trainer's ``--precision bf16-mixed`` takes it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
import tyro
from lightning.fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.attngan_code import REPLACEMENTS, AttnGANTraining
from examples.provenance import commit, machine
from examples.sdgan.config import Config
from examples.sdgan.data.dataset import to_float
from examples.sdgan.data.pairs import PairBatch
from examples.sdgan.losses.damsm import damsm_loss
from examples.sdgan.models.encoders import InceptionImageEncoder, TextEncoder
from examples.sdgan.presets import preset
from examples.sdgan.training.gan import GanTraining, pyramid
from scbn import TextFeatures

_VOCABULARY, _WORDS = 5450, 18
PARTS = ("_micro_batches", "_generate", "_learn_discriminators", "_learn_generator", "_damsm")


@dataclass(frozen=True)
class Options:
    """Time a training step against the published AttnGAN's, alternating."""

    attngan: Path | None = None
    """Folder code of a checkout of taoxugit/AttnGAN; without it ours is timed alone."""
    images: int = 8
    """Generated images a step."""
    rounds: int = 5
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    """Threads torch may use; 0 leaves its own choice."""
    precision: tuple[Literal["32-true", "bf16-mixed"], ...] = ("32-true", "bf16-mixed")
    """Of ours."""
    compile: bool = False
    """Compile our generator and discriminators."""
    out: Path = Path("runs/benchmarks")
    """Folder for trainer.json and trainer.png."""


def main() -> int:
    """Time, print the table, write JSON and picture."""
    options = tyro.cli(Options, prog="python -m benchmarks.trainer")
    console = Console(soft_wrap=True)
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    try:
        record = run(options, device, console)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "trainer.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot(record, options.out / "trainer.png")
    console.print(table(record))
    console.print(f"done: look at {options.out / 'trainer.png'} and trainer.json")
    return 0


def run(options: Options, device: str, console: Console) -> dict[str, Any]:
    """Every number of the comparison."""
    tokens, lengths = captions(options.images, device)
    pixels = torch.randint(256, (options.images, 3, 256, 256), dtype=torch.uint8, device=device)
    classes = torch.arange(options.images, device=device)
    same = torch.arange(options.images // 2, device=device) % 2 == 0
    batch = PairBatch(pixels, tokens, same, classes, classes, tokens.cpu().numpy())
    ours: dict[str, GanTraining] = {}
    candidates: dict[str, Callable[[], Any]] = {}
    first: dict[str, dict[str, float]] = {}
    config = Config()
    for precision in options.precision:
        name = "SD-GAN, ours" if precision == "32-true" else f"SD-GAN, ours, {precision}"
        ours[name], config = our_training(options, device, precision)
        # The first step warms up: allocator, oneDNN's and cuDNN's choices, compilation.
        first[name] = {k: float(v.mean()) for k, v in ours[name].step(0, batch).items() if v.dim() == 0}
        steps = iter(range(1, 1 << 30))
        candidates[name] = partial(lambda ours, steps: ours.step(next(steps), batch), ours[name], steps)
    precisions = None
    if len(ours) == 2:
        precisions = same_losses(*first.values())
        console.print(
            f"same first step in both precisions: largest relative difference of a loss {precisions:.1e}"
        )
    agreement = None
    theirs = None
    if options.attngan is not None:
        theirs = AttnGANTraining(options.attngan, _VOCABULARY, options.images, device)
        agreement = check(theirs, tokens, lengths, device)
        console.print(f"same losses on the same input: largest relative difference {agreement:.1e}")
        if not agreement < 1e-4:
            raise ValueError(
                f"the two compute different losses (relative difference {agreement:.1e}): no speed is told"
            )
        order = classes.cpu().numpy()
        # Images come in floats and three sizes from its data loader; ours scales on the device, inside the step.
        images = [image.contiguous() for image in pyramid(to_float(pixels), [64, 128, 256])]
        candidates["AttnGAN, published code"] = lambda: theirs.step(images, tokens, lengths, order)

    times: dict[str, list[float]] = {name: [] for name in candidates}
    for name, call in candidates.items():
        call()
        call()
        console.print(f"{name}: warm")
    for number in range(options.rounds):
        for name in list(candidates) if number % 2 else list(candidates)[::-1]:
            times[name].append(seconds(candidates[name], device))
        console.print(
            f"round {number + 1}/{options.rounds}: " + ", ".join(f"{n} {t[-1]:.2f} s" for n, t in times.items())
        )
    parts = {name: profile(training, candidates[name], device) for name, training in ours.items()}
    return {
        "images": options.images,
        "seconds": times,
        "images_per_second": {name: options.images / median(t) for name, t in times.items()},
        "ratio": {
            name: median(a / b for a, b in zip(times["AttnGAN, published code"], times[name], strict=True))
            for name in ours
            if theirs is not None
        },
        "loss_agreement": agreement,
        "precision_agreement": precisions,
        "parameters": {
            **{name: [_count(each.generator), _count(each.discriminators)] for name, each in ours.items()},
            **(
                {}
                if theirs is None
                else {
                    "AttnGAN, published code": [_count(theirs.generator), sum(map(_count, theirs.discriminators))]
                }
            ),
        },
        "parts_of_a_step": parts,
        "replacements_in_the_published_code": [list(pair) for pair in REPLACEMENTS],
        "device": machine(device),
        "threads": torch.get_num_threads(),
        "compile": options.compile,
        "torch": torch.__version__,
        "commit": commit(),
        "config": json.loads(config.to_json()),
    }


def captions(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Token lists of 8 to 18 words, sorted by length as the published code needs them."""
    lengths = torch.linspace(_WORDS, 8, count).round().long()
    tokens = torch.randint(2, _VOCABULARY, (count, _WORDS))
    tokens[torch.arange(_WORDS)[None] >= lengths[:, None]] = 0
    return tokens.to(device), lengths


def same_losses(exact: dict[str, float], rounded: dict[str, float]) -> float:
    """The largest relative difference of a step's losses from the same weights, batch and noise.

    Raises:
        ValueError: it is more than bfloat16 explains.
    """
    found = max(abs(rounded[name] - value) / max(abs(value), 1e-2) for name, value in exact.items())
    if not found < 0.05:
        raise ValueError(f"the first step's losses differ by {found:.0%} between precisions: {exact}, {rounded}")
    return found


def our_training(
    options: Options, device: str, precision: Literal["32-true", "bf16-mixed"]
) -> tuple[GanTraining, Config]:
    """The trainer's step with the preset ``cub``."""
    torch.manual_seed(0)
    config = dataclasses.replace(
        preset("cub"), batch_size=options.images // 2, compile=options.compile, precision=precision
    )
    fabric = Fabric(accelerator=device, devices=1, precision=precision)
    text = TextEncoder(_VOCABULARY, config.encoder).to(device)
    image = InceptionImageEncoder(config.encoder.dim, "random").to(device)
    return GanTraining(fabric, config, text, image), config


def check(theirs: AttnGANTraining, tokens: Tensor, lengths: Tensor, device: str) -> float:
    """The largest relative difference between both DAMSM losses, and their gradients, on the same features."""
    n = len(tokens)
    regions = torch.randn(n, 256, 17, 17, device=device).requires_grad_()
    code, sentence = torch.randn(n, 256, device=device).requires_grad_(), torch.randn(n, 256, device=device)
    words = torch.randn(n, _WORDS, 256, device=device)
    text = TextFeatures(sentence, words, tokens == 0)
    classes = torch.arange(n, device=device)
    w, s = damsm_loss(regions, code, text, classes, (4.0, 5.0, 10.0))
    ours = torch.autograd.grad(w + s, (regions, code))
    w0, w1, _ = theirs.losses.words_loss(regions, words.mT, theirs.match, lengths, classes.cpu().numpy(), n)
    s0, s1 = theirs.losses.sent_loss(code, sentence, theirs.match, classes.cpu().numpy(), n)
    reference = torch.autograd.grad(w0 + w1 + s0 + s1, (regions, code))
    pairs = [(w, w0 + w1), (s, s0 + s1), *zip(ours, reference, strict=True)]
    return max(float((a.detach() - b.detach()).abs().max() / b.detach().abs().max()) for a, b in pairs)


def seconds(call: Callable[[], Any], device: str) -> float:
    """Of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def profile(ours: GanTraining, call: Callable[[], Any], device: str, rounds: int = 3) -> dict[str, float]:
    """Seconds of the parts of a step, the median of a few; parts within others are counted in both."""
    found: dict[str, list[float]] = {}
    originals = {name: getattr(ours, name) for name in PARTS}

    def timed(name: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            result: list[Any] = []
            taken = seconds(lambda: result.append(originals[name](*args)), device)
            found.setdefault(name.strip("_"), []).append(taken)
            return result[0]

        return run

    for name in PARTS:
        setattr(ours, name, timed(name))
    for _ in range(rounds):
        found.setdefault("step", []).append(seconds(call, device))
    for name in PARTS:
        delattr(ours, name)
    return {name: round(median(values), 4) for name, values in found.items()}


def table(record: dict[str, Any]) -> Table:
    """Medians and the spread."""
    result = Table("candidate", "s / step", "range", "images / s", "parameters G, D")
    for name, times in record["seconds"].items():
        g, d = record["parameters"][name]
        spread = f"{min(times):.2f} to {max(times):.2f}"
        result.add_row(
            name,
            f"{median(times):.2f}",
            spread,
            f"{record['images_per_second'][name]:.2f}",
            f"{g / 1e6:.1f} M, {d / 1e6:.1f} M",
        )
    if record["ratio"]:
        told = ", ".join(f"{name}: {ratio:.2f}" for name, ratio in record["ratio"].items())
        result.caption = f"images per second against AttnGAN's (median of the rounds): {told}"
    return result


_PARTS = {
    "micro_batches": "text, noise, real images",
    "generate": "generate",
    "learn_discriminators": "update of the discriminators",
    "learn_generator": "update of the generator",
    "damsm": "DAMSM (within the next)",
}


def plot(record: dict[str, Any], path: Path) -> None:
    """Images per second of both, every round a dot; and the parts of our step."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for row, (name, times) in enumerate(record["seconds"].items()):
        left.barh(row, record["images"] / median(times), color=f"C{row}", alpha=0.6)
        left.plot([record["images"] / t for t in times], [row] * len(times), "k.", markersize=4)
        left.text(0, row, f"  {name}", va="center", fontsize=8)
    left.set_yticks([])
    left.set_xlabel("images / s")
    each = record["parts_of_a_step"]
    labels = list(_PARTS.values())[::-1]
    height = 0.8 / len(each)
    for number, (name, parts) in enumerate(each.items()):
        values = [parts[part] for part in _PARTS]
        places = [row - number * height for row in range(len(labels))]
        label = f"{name}: {parts['step']:.2f} in all"
        bars = right.barh(places, values[::-1], height, color=f"C{number}", alpha=0.6, label=label)
        right.bar_label(bars, fmt=" %.2f", fontsize=7)
    right.set_yticks(range(len(labels)), labels)
    right.margins(x=0.12)
    right.set_xlabel("seconds of a step")
    right.legend(fontsize=7)
    right.tick_params(labelsize=8)
    told = f"{record['device']}, {record['threads']} thread(s), torch {record['torch']}, commit {record['commit']}"
    figure.suptitle(told, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


if __name__ == "__main__":
    sys.exit(main())
