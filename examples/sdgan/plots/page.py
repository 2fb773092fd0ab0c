"""Scenes as HTML that needs no script: point at a word, or tap it, and every image shows where it attends."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from examples.sdgan.inference.scenes import Scene

_HOT = (255, 0, 255)  # no bird has it
STYLE = """<style>
.scbn{font-family:system-ui,sans-serif}
.scbn .grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(9rem,30%),1fr));gap:.5rem;max-width:72rem}
.scbn .cell{position:relative;aspect-ratio:1;margin:0;border-radius:.4rem;overflow:hidden;background:#8883}
.scbn .cell img{position:absolute;inset:0;width:100%;height:100%;margin:0;image-rendering:auto}
.scbn .cell img.map{opacity:0;transition:opacity .12s}
.scbn .words{display:flex;flex-wrap:wrap;gap:.35rem;margin:.2rem 0 .7rem}
.scbn .words label{display:inline-block;padding:.35rem .6rem;border-radius:1rem;border:1px solid #8886;cursor:pointer;user-select:none}
.scbn .words label:hover{border-color:#f60}
.scbn input{position:absolute;opacity:0;pointer-events:none}
.scbn input:focus-visible+label{outline:2px solid #f60}
.scbn .note,.scbn .row p{margin:.3rem 0;font-size:.9rem;opacity:.85}
.scbn .pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
.scbn .wrong{padding:.6rem .8rem;border-left:3px solid #f60}
</style>"""


def scene_page(scene: Scene, name: str = "now", title: str = "") -> str:
    """The images of a scene, and its words to point at.

    Args:
        scene: of one caption.
        name: of the part of the page, different for each part that is shown at once.
        title: above the images.
    """
    shown = [i for i in range(len(scene.words)) if scene.maps is not None and scene.maps[:, i].amax() > 0]
    rules, words = [], []
    for i in shown:
        at = f"{name}-{i}"
        rules.append(
            f".scbn:has(#{at}:checked) .map.{at},.scbn:has(label[for={at}]:hover) .map.{at}{{opacity:1}}"
            f".scbn:has(#{at}:checked) label[for={at}]{{background:#f60;color:#fff}}"
        )
        words.append(
            f'<span><input type="radio" name="{name}" id="{at}"><label for="{at}">{_text(scene.words[i])}</label></span>'
        )
    clear = f'<span><input type="radio" name="{name}" id="{name}-none" checked><label for="{name}-none">no word</label></span>'
    cells = []
    for n, image in enumerate(scene.images):
        layers = "".join(
            f'<img class="map {name}-{i}" alt="" src="{_map(scene.maps[n, i])}">'
            for i in shown
            if scene.maps is not None
        )
        cells.append(f'<div class="cell">{_image(image, " ".join(scene.words))}{layers}</div>')
    row = f'<div class="words">{"".join(words)}{clear}</div>' if words else ""
    note = f'<p class="note">{_text(scene.note)}</p>' if scene.note else ""
    heading = f"<p><b>{_text(title)}</b></p>" if title else ""
    return (
        f'{STYLE}<style>{"".join(rules)}</style><div class="scbn">{heading}{note}{row}<div class="grid">{"".join(cells)}'
        "</div></div>"
    )


def rows_page(rows: Sequence[tuple[str, Tensor]], note: str = "") -> str:
    """A caption and its images in each row, and a note above."""
    parts = [f'<p class="note">{_text(note)}</p>'] if note else []
    for caption, images in rows:
        cells = "".join(f'<div class="cell">{_image(image, caption)}</div>' for image in images)
        parts.append(f'<div class="row"><p>{_text(caption)}</p><div class="grid">{cells}</div></div>')
    return f'{STYLE}<div class="scbn">{"".join(parts)}</div>'


def pair_page(left: str, right: str) -> str:
    """Two parts side by side."""
    return f'<div class="scbn"><div class="pair"><div>{left}</div><div>{right}</div></div></div>'


def wrong_page(message: str) -> str:
    """What is wrong with what was typed."""
    return f'{STYLE}<div class="scbn"><p class="wrong">{_text(message)}</p></div>'


def _text(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def _image(image: Tensor, caption: str) -> str:
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous()
    return f'<img class="drawn" alt="{_text(caption)}" src="{_png(pixels, "RGB")}">'


def _map(weights: Tensor) -> str:
    """A colour that covers as much as a position attends to the word, of the most that any does."""
    small = F.adaptive_avg_pool2d(weights[None, None].float(), min(32, weights.shape[-1]))[0, 0]
    cover = (small / small.max().clamp(min=1e-9) * 200).round().byte()
    colour = torch.tensor(_HOT, dtype=torch.uint8).expand(*cover.shape, 3)
    return _png(torch.cat((colour, cover[..., None]), 2).contiguous(), "RGBA")


def _png(pixels: Tensor, mode: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy(), mode).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
