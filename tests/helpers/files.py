"""What the tests of malformed files share: small data sets, code that leaves a trace, and who was opened."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

NAMES = ("001.A/a1", "001.A/a2", "002.B/b1")

_log: list[Path] | None = None
_hooked = False


class Strike:
    """Leaves a file when unpickled as Python's own unpickler does it."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch '{canary}'"

    def __reduce__(self):
        return (os.system, (self.command,))


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), colour).save(path, format="JPEG", quality=95)
    return path


def write_cub(root: Path) -> Path:
    """Three training images in CUB's own layout, two captions each."""
    (root / "train").mkdir(parents=True)
    (root / "train" / "filenames.txt").write_text("\n".join(NAMES) + "\n")
    for name in NAMES:
        picture(root / "images" / f"{name}.jpg")
        text = root / "text" / f"{name}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"a bird called {name[-2:]}\nit is red .\n")
    return root


def write_coco(root: Path) -> Path:
    """Two training images with a caption each."""
    for i in (7, 9):
        picture(root / "train2014" / f"{i}.jpg")
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in (7, 9)],
        "annotations": [{"image_id": i, "caption": f"a dog, no. {i}"} for i in (7, 9)],
    }
    (root / "annotations").mkdir()
    captions_json(root).write_text(json.dumps(content))
    return root


def captions_json(root: Path) -> Path:
    return root / "annotations" / "captions_train2014.json"


@contextlib.contextmanager
def opened() -> Iterator[list[Path]]:
    """The files that Python opens meanwhile."""
    global _log, _hooked
    if not _hooked:  # an audit hook is for life
        sys.addaudithook(_audit)
        _hooked = True
    _log = []
    try:
        yield _log
    finally:
        _log = None


def _audit(event: str, arguments: tuple) -> None:
    if event == "open" and _log is not None and isinstance(arguments[0], str | os.PathLike):
        _log.append(Path(os.path.abspath(arguments[0])))


@contextlib.contextmanager
def pipe(path: Path) -> Iterator[Path]:
    """A pipe nobody writes to. Who waits for it is let go after a while, so that a test fails and does not hang."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)

    def release() -> None:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    timer = threading.Timer(5, release)
    timer.start()
    try:
        yield path
    finally:
        timer.cancel()
