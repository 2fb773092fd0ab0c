"""Images that lie in files: checked before training, decoded once if they fit in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from examples.sdgan.data.boxes import Box, around, reach
from examples.sdgan.data.dataset import DataError, digest
from examples.sdgan.data.reading import is_file

MEMORY = 2 << 30
PIXELS = 1 << 26
"""Of the largest image that is decoded; one of a few bytes can declare so many that memory ends."""
# Not all that Pillow knows: for some, such as EPS, it starts another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_HASHED = 1 << 26  # What lies behind a picture may be of any length.
_SLACK = 76 / 64  # AttnGAN resizes to this much more than it crops.


class ImageFiles:
    """Image files as an :class:`ImageSource`.

    Every file is decoded once before training, so that a broken one is named at once and not in hour three; what
    then fits in 2 GiB stays in memory.

    Args:
        paths: of the images.
        size: pixels that will be asked for.
        boxes: of each image, to crop around, or ``None``.
        progress: called with the number of files checked so far.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        boxes: Sequence[Box] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.paths = list(paths)
        self.boxes = None if boxes is None else [Box(*box) for box in boxes]
        self.stored = round(size * _SLACK)
        # How far boxes reach, as a share of their images: boxes of smaller images all lie at the upper left.
        self.reach = 0.0
        keep = len(self.paths) * 3 * self.stored**2 <= MEMORY
        self.memory = (
            torch.empty(len(self.paths), 3, self.stored, self.stored, dtype=torch.uint8) if keep else None
        )

        def check(i: int) -> str:
            pixels = self._decode(i)
            if self.memory is not None:
                self.memory[i] = pixels
            return _content(self.paths[i])

        found = []
        with ThreadPoolExecutor() as pool:
            for done, content in enumerate(pool.map(check, range(len(self.paths))), 1):
                found.append(content)
                progress(done)
        self.content = {"files": digest(found), "boxes": digest(self.boxes and [box[:4] for box in self.boxes])}

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, indices: list[int], size: int, rng: torch.Generator | None) -> Tensor:
        """uint8 (N, 3, size, size); with ``rng`` cropped and flipped at random, else the centre."""
        out = []
        for i in indices:
            pixels = self.memory[i] if self.memory is not None else self._decode(i)
            slack = pixels.shape[-1] - size
            if rng is None:
                top = left = slack // 2
                flip = False
            else:
                top, left = torch.randint(slack + 1, (2,), generator=rng).tolist()
                flip = bool(torch.rand((), generator=rng) < 0.5)
            crop = pixels[:, top : top + size, left : left + size]
            out.append(crop.flip(2) if flip else crop)
        return torch.stack(out)

    def _decode(self, i: int) -> Tensor:
        path = self.paths[i]
        if not is_file(path):
            raise DataError(f"{path}: no such image")
        try:
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise ValueError(
                        f"{image.width} x {image.height} pixels are more than {PIXELS:,}; scale it down"
                    )
                image = _rgb(ImageOps.exif_transpose(image))
                if self.boxes is not None:
                    self.reach = max(self.reach, reach(self.boxes[i], image.size))
                    image = image.crop(around(self.boxes[i], image.size, path))
                image = image.resize((self.stored, self.stored), Image.Resampling.BILINEAR)
        except DataError:
            raise
        except UnidentifiedImageError as error:
            raise DataError(
                f"{path}: not a readable image (none of {', '.join(FORMATS)}, by its content)"
            ) from error
        except Exception as error:
            raise DataError(f"{path}: not a readable image ({type(error).__name__}: {error})") from error
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _content(path: Path) -> str:
    """Of a file that was decoded, what tells it from any other."""
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(_HASHED), digest_size=16).hexdigest() + f" {path.stat().st_size}"


def _rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel, what is transparent on white."""
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion clips them to white
        grey = np.asarray(image, dtype=np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32 bits of grey have no known range; save it with 8 or 16 bits")
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey = np.where(grey == clear, 65535, grey)
        image = Image.fromarray((grey // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
