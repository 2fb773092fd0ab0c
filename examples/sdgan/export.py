"""Take a trained model out of this code: ``python -m examples.sdgan.export --checkpoint OUT --format onnx``."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from examples.sdgan.data.vocabulary import UNKNOWN, Vocabulary
from examples.sdgan.inference.export import load_image_encoder, load_sampler, write_model
from examples.sdgan.inference.programs import INPUTS, NAMES, SUFFIX, Format, arguments, modules, write_programs
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.inference.scenes import known_words
from examples.sdgan.models.checkpoint import CheckpointError

_TOLERANCE = 1e-5
_MARK = "export.json"
_REPEATS = 20


@dataclass(frozen=True)
class Options:
    """Write a trained generator and its text encoder as programs that need none of this code.

    onnx: text_encoder.onnx and generator.onnx; torch: text_encoder.pt2 and generator.pt2 (torch.export.load); each is run
    and compared with the model before it is kept. safetensors: weights and options, as OUT/model. Beside programs lie the
    words (words.json, or the text model's tokenizer) and model.json with their inputs.
    """

    checkpoint: Path
    """checkpoint.pt of a run, its folder model, or the run's folder."""
    format: Literal["onnx", "torch", "safetensors"] = "onnx"
    out: Path | None = None
    """Folder to write; by default, the format's name in the run's folder. One that exists must be an earlier export."""
    batch: int = 8
    """Captions in the comparison."""
    timed: bool = False
    """Time the programs, this code and AOTInductor, which takes a minute to compile, side by side."""


class ExportError(ValueError):
    """The model cannot be exported; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for bad options or a model that cannot be exported."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.sdgan.export")
    try:
        out = export(options, console)
    except (CheckpointError, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    except KeyboardInterrupt:
        console.print("stopped; nothing was written")
        return 130
    console.print(f"done: {out.resolve()}")
    return 0


def export(options: Options, console: Console) -> Path:
    """Write, compare, and put in place; returns the folder.

    Raises:
        ExportError: a package is missing, the folder is another's, or a program computes something else.
        CheckpointError: there is no model.
    """
    if not 1 <= options.batch <= 4096:
        raise ExportError(f"--batch must be from 1 to 4096, got {options.batch}")
    runtime = _runtime() if options.format == "onnx" else None
    sampler = load_sampler(options.checkpoint)
    out = options.out or _beside(options)
    source = options.checkpoint.resolve()
    _ours(out, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}-", dir=out.parent) as unfinished:
        folder = Path(unfinished) / out.name
        if options.format == "safetensors":
            write_model(folder, sampler, load_image_encoder(options.checkpoint))
        else:
            folder.mkdir()
            _write_compared(sampler, folder, options, runtime, console)
        (folder / _MARK).write_text(json.dumps({"of": source.name}) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)
    return out


def _write_compared(sampler: Sampler, folder: Path, options: Options, runtime: Any, console: Console) -> None:
    with console.status("tracing ..."):
        _traced(sampler, folder, options)
    _describe(sampler, folder)
    given = arguments(sampler, captions(sampler, options.batch), seed=1)
    assert options.format != "safetensors"
    runs = {options.format: _running(folder, options.format, given, runtime)}
    _compare(sampler, given, runs[options.format], console)
    if options.timed:
        runs["AOTInductor"] = _compiled(folder, sampler, given)
        _time(sampler, given, runs, console)


def _beside(options: Options) -> Path:
    """In the run's folder; of a checkpoint of another name, in a folder that has that name."""
    path = options.checkpoint.resolve()
    if path.is_dir():
        within = path.name == "model" and not (path / "model").is_dir() and not (path / "checkpoint.pt").is_file()
        return (path.parent if within else path) / options.format
    return path.parent / (options.format if path.name == "checkpoint.pt" else f"{path.stem}-{options.format}")


def _traced(sampler: Sampler, folder: Path, options: Options) -> None:
    assert options.format != "safetensors"
    try:
        write_programs(sampler, folder, options.format, captions(sampler, 2))
    except (RuntimeError, AssertionError, TypeError) as error:  # of whatever an exporter finds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"this model cannot be exported as {options.format}: {reason:.300}") from error


def captions(sampler: Sampler, count: int) -> list[str]:
    """Captions of the model's own words, of different lengths."""
    words = [word for word in known_words(sampler)[:400] if sampler.vocabulary.tokenize(word) == [word]] or [
        "a",
        "bird",
    ]
    return [" ".join(words[(i + j) % len(words)] for j in range(2 + 3 * i % 7)) for i in range(count)]


def _ours(out: Path, source: Path) -> None:
    """Require a folder that is new, or an earlier export of the same model.

    Raises:
        ExportError: it is another's; nothing has been written.
    """
    if not out.exists():
        return
    try:
        mine = out.is_dir() and json.loads((out / _MARK).read_text(encoding="utf-8")).get("of") == source.name
    except (OSError, ValueError, AttributeError):
        mine = False
    if not mine:
        raise ExportError(f"--out {out}: exists and is no earlier export of {source.name}; nothing is overwritten")


def _runtime() -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"--format onnx needs {error.name}: pip install '.[onnx]'") from error
    return onnxruntime


def _describe(sampler: Sampler, folder: Path) -> None:
    vocabulary, config = sampler.vocabulary, sampler.config
    told = {
        "programs": {name: list(inputs) for name, inputs in zip(NAMES, INPUTS, strict=True)},
        "tokens": "indices, 0 = padding at the end",
        "most_words": config.encoder.words,
        "noise": config.generator.noise_dim,
        "images": [3, config.size, config.size],
        "range": [-1, 1],
    }
    if isinstance(vocabulary, Vocabulary):
        words = {word: i for i, word in enumerate(vocabulary.words)}
        (folder / "words.json").write_text(json.dumps(words, ensure_ascii=False) + "\n", encoding="utf-8")
        told["captions"] = "lower case, words of letters and digits"
        told["unknown"] = None if vocabulary.published else UNKNOWN  # none: left out
    else:
        vocabulary.tokenizer.save_pretrained(folder / "tokenizer")
        told["captions"] = "indices of the tokenizer plus 1"
    (folder / "model.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _running(
    folder: Path, kind: Format, given: tuple[tuple[Tensor, ...], tuple[Tensor, ...]], runtime: Any
) -> Any:
    """Both programs, as functions of nothing that return tensors."""
    calls = []
    for name, names, values in zip(NAMES, INPUTS, given, strict=True):
        path = folder / f"{name}{SUFFIX[kind]}"
        if kind == "torch":
            calls.append(partial(_call, torch.export.load(path).module(), values))
            continue
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        wanted = {entry.name for entry in session.get_inputs()}
        arrays = {key: value.detach().numpy() for key, value in zip(names, values, strict=True) if key in wanted}
        calls.append(partial(_answer, session, arrays))
    return tuple(calls)


def _call(program: Any, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = program(*values)
    return found if isinstance(found, tuple) else (found,)


def _answer(session: Any, arrays: dict[str, Any]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(value) for value in session.run(None, arrays))


def _compare(sampler: Sampler, given: Any, calls: Any, console: Console) -> None:
    """What the programs on disk give, with what the model gives.

    Raises:
        ExportError: they differ by more than rounding.
    """
    with torch.no_grad():
        text = sampler.text(given[0][0])
        image = sampler.generator(given[1][0], text).images[-1]
    wants = ((text.sentence, text.words, text.padding_mask), (image,))
    for name, call, want in zip(NAMES, calls, wants, strict=True):
        # Of tensors: Python's max leaves a NaN out unless it comes first.
        worst = float(
            torch.stack([(a.double() - b.double()).abs().max() for a, b in zip(call(), want, strict=True)]).max()
        )
        size = float(torch.stack([b.double().abs().max() for b in want]).max())
        console.print(f"{name}: largest difference from the model {worst:.1e}, values to {size:.2g}")
        if not worst <= _TOLERANCE * max(size, 1e-3):
            raise ExportError(f"{name} differs from the model by {worst:.1e}: not kept")


def _compiled(folder: Path, sampler: Sampler, given: Any) -> Any:
    """The same programs, compiled ahead of time."""
    calls = []
    for name, module, values in zip(NAMES, modules(sampler), given, strict=True):
        with torch.no_grad():
            program = torch.export.export(module, values, strict=False)
            path = str(folder / f"{name}-aoti.pt2")
            package = torch._inductor.aoti_compile_and_package(program, package_path=path)
        calls.append(partial(_call, torch._inductor.aoti_load_package(package), values))
        Path(path).unlink()
    return tuple(calls)


def _time(sampler: Sampler, given: Any, runs: dict[str, Any], console: Console) -> None:
    """Milliseconds of both parts, alternating, so that what slows the machine down slows down all."""
    eager = (partial(_call, sampler.text, given[0]), partial(_eager_images, sampler, given[1]))
    all_runs = {"this code": eager, **runs}
    taken: dict[tuple[str, int], list[float]] = {(name, i): [] for name in all_runs for i in (0, 1)}
    for _ in range(_REPEATS):
        for name, calls in all_runs.items():
            for i, call in enumerate(calls):
                began = time.perf_counter()
                call()
                taken[name, i].append(1000 * (time.perf_counter() - began))
    count, threads = len(given[0][0]), torch.get_num_threads()
    table = Table("ms, median (quartiles)", *NAMES, title=f"{count} captions, {threads} threads")
    for name in all_runs:
        table.add_row(name, *(_spread(taken[name, i]) for i in (0, 1)))
    console.print(table)


def _eager_images(sampler: Sampler, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (modules(sampler)[1](*values),)


def _spread(times: list[float]) -> str:
    ordered = sorted(times)
    return f"{median(ordered):.1f} ({ordered[len(ordered) // 4]:.1f} to {ordered[3 * len(ordered) // 4]:.1f})"


if __name__ == "__main__":
    sys.exit(main())
