"""Pictures as pages need them: small, of a known size, loaded when they come into view, and dark on a dark page."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import numpy as np
from mkdocs.structure.files import Files
from PIL import Image
from scipy import ndimage

WIDEST = 1200
ALONE = re.compile(r'<p>(<img [^>]*src="([^"]+)"[^>]*/?>)</p>')
_PAPER = np.array([30, 33, 41])  # of the dark page
_BLOCK = 24  # pixels; smaller things on white paper are letters and lines


def show(content: str, page: str, files: Files, found: dict[str, tuple[Path, float]]) -> str:
    """HTML in which every picture is a WebP for light and one for dark pages, and a click shows the original.

    Of a sheet too wide to read, ``data-left="0.5"`` shows the left half, and the click the whole.

    Args:
        content: of a page.
        page: its address within the site.
        files: of the site.
        found: gets the original of each WebP and how much of its width, by its place in the site without its ending.
    """

    def shown(match: re.Match[str]) -> str:
        image, source = match.groups()
        file = files.get_file_from_path(posixpath.normpath(posixpath.join(page, source)))
        if file is None or file.abs_src_path is None:
            return match[0]
        left = re.search(r'data-left="([\d.]+)"', image)
        share = float(left[1]) if left else 1.0
        mark = f"-left{round(100 * share)}" if left else ""
        found[file.dest_uri.removesuffix(".png") + mark] = Path(file.abs_src_path), share
        with Image.open(file.abs_src_path) as original:
            width, height = round(original.width * share), original.height
        wanted = re.search(r'width="(\d+)"', image)
        scale = min(1.0, (int(wanted[1]) if wanted else WIDEST) / width)
        size = f'width="{round(width * scale)}" height="{round(height * scale)}"'
        text = re.search(r'alt="([^"]*)"', image)
        stem, alt = source.removesuffix(".png") + mark, text[1] if text else ""
        first = "" if match.start() == content.find("<p><img") else ' loading="lazy"'
        kinds = (".webp#only-light", first), ("-dark.webp#only-dark", ' loading="lazy"')
        drawn = "".join(f'<img alt="{alt}" src="{stem}{ending}" {size}{lazy}>' for ending, lazy in kinds)
        return f'<p><a class="picture" href="{source}">{drawn}</a></p>'

    return ALONE.sub(shown, content)


def write(found: dict[str, tuple[Path, float]], site: Path) -> None:
    """Write the WebPs of :func:`show` that are older than their originals."""
    for place, (original, share) in found.items():
        light, dark = site / f"{place}.webp", site / f"{place}-dark.webp"
        if dark.is_file() and dark.stat().st_mtime > original.stat().st_mtime:
            continue
        light.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(original) as opened:
            image = opened.convert("RGB").crop((0, 0, round(opened.width * share), opened.height))
        height = round(image.height * min(1.0, WIDEST / image.width))
        for path, drawn in ((light, image), (dark, darkened(image))):
            small = drawn.resize((min(WIDEST, image.width), height), Image.Resampling.LANCZOS)
            small.save(path, quality=82, method=4)


def darkened(image: Image.Image) -> Image.Image:
    """White paper and what is written on it with lightness turned round; pictures on the paper stay as they are."""
    pixels = np.asarray(image).astype(np.int16)
    if not (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] > 250).all():
        return image  # no paper around it
    turned = pixels + (255 - pixels.max(2) - pixels.min(2))[:, :, None]
    turned = _PAPER + turned * (1 - _PAPER / 255)
    labels, _ = ndimage.label((pixels < 250).any(2))
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        tall, wide = (part.stop - part.start for part in place)
        if min(tall, wide) >= _BLOCK and (labels[place] == number).mean() > 0.9:
            turned[place] = pixels[place]
    return Image.fromarray(turned.clip(0, 255).astype(np.uint8))
