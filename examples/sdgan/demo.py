"""A page to try a model on: ``python -m examples.sdgan.demo --checkpoint runs/toy``."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from examples.attngan.before import load_before
from examples.sdgan.inference import scenes
from examples.sdgan.inference.export import load_sampler
from examples.sdgan.inference.sampler import Sampler
from examples.sdgan.inference.scenes import known_words
from examples.sdgan.models.checkpoint import CheckpointError
from examples.sdgan.plots import page

MOST = 24
_LOCAL = "system-ui", "sans-serif"


@dataclass(frozen=True)
class Options:
    """Serve a page: type a caption and see images, point at a word, walk between two captions, swap one word.

    It listens on this machine alone and asks no other for anything.
    """

    checkpoint: Path
    """checkpoint.pt of a run, its folder model, or the run's folder."""
    caption: tuple[str, ...] = ()
    """To begin with, one or two; by default some of the model's own words."""
    count: int = 6
    """Images of a caption."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets others in."""
    port: int = 7860
    """The first one tried; of ten from here on the first that is free is taken."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 after Ctrl-C, or 2 for bad options or a model that cannot be shown."""
    console = Console(soft_wrap=True, markup=False)
    options = tyro.cli(Options, args=argv, prog="python -m examples.sdgan.demo")
    try:
        blocks = build(options)
        launch(blocks, options, console)
    except (CheckpointError, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 2
    return 0


def build(options: Options) -> Any:
    """The page, of Gradio's blocks.

    Raises:
        ValueError: bad options, or Gradio is missing.
        CheckpointError: there is no model.
    """
    if not 1 <= options.count <= MOST:
        raise ValueError(f"--count must be from 1 to {MOST}, got {options.count}")
    if not 1 <= options.port <= 65535 - 9:
        raise ValueError(f"--port must be from 1 to {65535 - 9}, got {options.port}")
    if len(options.caption) > 2:
        raise ValueError(f"--caption takes one or two, got {len(options.caption)}")
    try:
        socket.getaddrinfo(options.host, options.port)
    except OSError as error:
        raise ValueError(f"--host {options.host}: no address that is known here ({error.strerror})") from error
    gradio = _gradio()
    sampler, before = load_sampler(options.checkpoint), load_before(options.checkpoint)
    first, second = (*options.caption, *suggestions(sampler))[:2]
    for caption in options.caption:
        scenes.check(sampler, caption)
    count = options.count
    drawn, walked, swapped = (
        partial(draw, sampler, before, count),
        partial(walk, sampler, count),
        partial(swap, sampler),
    )
    with gradio.Blocks(title="scbn", analytics_enabled=False) as blocks:
        seed = gradio.State(0)
        gradio.Markdown(
            f"### Images of `{options.checkpoint.name or options.checkpoint}` · {sampler.config.size} px"
        )
        with gradio.Row():
            caption = gradio.Textbox(first, label="Caption", elem_id="caption", submit_btn=True, scale=6)
            again = gradio.Button("Other noise", elem_id="noise", scale=1, min_width=80)
        with gradio.Tab("Images"):
            images = gradio.HTML(drawn(first, 0), elem_id="images")
        with gradio.Tab("Between two"):
            other = gradio.Textbox(second, label="Second caption", elem_id="second", submit_btn=True)
            share = gradio.Slider(0, 1, 0.5, step=0.05, label="From the first to the second", elem_id="share")
            path = gradio.HTML(walked(first, second, 0.5, 0), elem_id="path")
        with gradio.Tab("One word"):
            with gradio.Row():
                word = gradio.Textbox(_last_word(first), label="Word of the caption", elem_id="word")
                words = gradio.Textbox(
                    _others(sampler, first), label="Words in its place, with commas", elem_id="words"
                )
            go = gradio.Button("Swap", elem_id="swap", size="sm")
            rows = gradio.HTML(elem_id="rows")
        on = partial(_connect, gradio)
        on([caption.submit, caption.input], drawn, [caption, seed], images)
        on([caption.submit, other.submit, share.change], walked, [caption, other, share, seed], path)
        on([go.click], swapped, [caption, word, words, seed], rows)
        again.click(_next, seed, seed, show_progress="hidden").then(
            drawn, [caption, seed], images, show_progress="hidden"
        ).then(walked, [caption, other, share, seed], path, show_progress="hidden")
    return blocks


def draw(sampler: Sampler, before: Sampler | None, count: int, caption: str, seed: int) -> str:
    """The images of a caption; of a retrofit, those of the model before it beside them."""

    def make() -> str:
        after = scenes.scene(sampler, caption, count, seed)
        if before is None:
            return page.scene_page(after)
        old = scenes.scene(before, caption, count, seed)
        return page.pair_page(
            page.scene_page(old, "before", "before"), page.scene_page(after, "after", "retrofitted")
        )

    return _told(make)


def walk(sampler: Sampler, count: int, first: str, second: str, share: float, seed: int) -> str:
    """The images between two captions."""

    def make() -> str:
        note = scenes.notes(sampler, [first, second])
        name = f"{100 - round(100 * share)} % “{first}”, {round(100 * share)} % “{second}”"
        return page.rows_page([(name, scenes.between(sampler, first, second, share, count, seed))], note)

    return _told(make)


def swap(sampler: Sampler, caption: str, word: str, others: str, seed: int) -> str:
    """The images of a caption, and with one word swapped for others."""
    words = [other.strip() for other in others.split(",") if other.strip()][:MOST]

    def make() -> str:
        rows = scenes.swapped(sampler, caption, word, words, 6, seed)
        return page.rows_page(rows, scenes.notes(sampler, [caption for caption, _ in rows]))

    return _told(make)


def launch(blocks: Any, options: Options, console: Console, wait: bool = True) -> str:
    """Serve the page until Ctrl-C; returns its address.

    Raises:
        OSError: no port is free.
    """
    gradio = _gradio()
    # Named fonts that are here already: Gradio's own themes fetch theirs.
    theme = gradio.themes.Default(font=list(_LOCAL), font_mono=["monospace"])
    for port in range(options.port, options.port + 10):
        try:
            _, address, _ = blocks.launch(
                server_name=options.host,
                server_port=port,
                theme=theme,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                ssr_mode=False,
            )
            break
        except OSError:
            continue
    else:
        raise OSError(f"no port from {options.port} to {options.port + 9} is free; choose another with --port")
    console.print(f"open {address} in a browser; Ctrl-C ends it")
    if wait:
        blocks.block_thread()
    return address


def suggestions(sampler: Sampler) -> tuple[str, str]:
    """Two captions of words that the model knows."""
    if sampler.config.data == "birds-hard":
        return "a small bird with striped red wings on a rock", "a large blue bird with a white belly at sunset"
    if sampler.config.data == "toy":
        return "a small red bird with blue wings", "a large bird with a yellow belly and black wings"
    if sampler.config.data == "cub":
        return "this bird has a red crown and a white belly", "a small yellow bird with black wings"
    words = [word for word in known_words(sampler) if word.isalpha() and len(word) > 2]
    return " ".join(words[:4]) or "a picture", " ".join(words[4:8]) or "another picture"


def _others(sampler: Sampler, caption: str) -> str:
    colours = [
        word
        for word in ("red", "yellow", "green", "blue", "white", "black", "brown")
        if word in sampler.vocabulary
    ]
    return ", ".join(colours[:4]) or ", ".join(sampler.vocabulary.tokenize(caption)[:3])


def _last_word(caption: str) -> str:
    words = caption.split()
    return next((word for word in words if word in ("red", "yellow", "blue")), words[-1])


def _next(seed: int) -> int:
    return random.Random(seed).randrange(1 << 30)


def _told(make: Callable[[], str]) -> str:
    try:
        return make()
    except scenes.SceneError as error:
        return page.wrong_page(str(error))


def _connect(gradio: Any, events: list[Any], function: Any, inputs: list[Any], output: Any) -> None:
    # Of keys typed while one is drawn, the last alone is drawn.
    gradio.on(events, function, inputs, output, show_progress="hidden", trigger_mode="always_last")


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"the page needs {error.name}: pip install '.[demo]'") from error
    return gradio


if __name__ == "__main__":
    sys.exit(main())
