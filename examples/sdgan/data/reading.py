"""Files of unknown origin: names that stay inside their folder, regular files only, text in any common encoding."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from examples.sdgan.data.dataset import DataError

LIMIT = 1 << 30
"""Bytes of the largest file of text or metadata that is read; COCO's largest has a tenth of them."""

# UTF-32 first: its mark begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def inside(root: Path, relative: str, where: Path) -> Path:
    """``root / relative``, which must lie inside ``root``; ``where`` is the file that names it."""
    if "\0" in relative or not _can_be_a_name(relative):
        raise DataError(f"{where}: names {relative!r}, which no file can be called")
    # By name, not by resolving: a data set may link to pictures that lie elsewhere.
    if not Path(os.path.normpath(root / relative)).is_relative_to(os.path.normpath(root)):
        raise DataError(f"{where}: names {relative!r}, which lies outside {root}")
    return root / relative


def duplicate(names: Iterable[str]) -> str | None:
    """The first name that means the same path as one before it."""
    seen: set[str] = set()
    for name in names:
        path = os.path.normpath(name)
        if path in seen:
            return name
        seen.add(path)
    return None


def _can_be_a_name(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def is_file(path: Path) -> bool:
    """Whether there is a file; ``False`` only where there is nothing at all.

    Raises:
        DataError: it is a folder, or a pipe or a device, which could wait or flow for ever; or it cannot be looked at.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from error
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise DataError(f"{path}: is {_KINDS.get(kind, 'no regular file')}; a file is expected here")
    return True


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of at most :data:`LIMIT` bytes.

    Raises:
        DataError: it is missing, of another kind, too large or unreadable.
    """
    if not is_file(path):
        raise DataError(f"{path}: cannot be read (no such file)")
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise DataError(f"{path}: {size:,} bytes are too many for text or metadata (at most {LIMIT:,})")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    UTF-8, or UTF-16 and UTF-32 with a byte order mark; a line that is not UTF-8 is taken as Windows-1252, of which
    Latin-1 is a part.

    Raises:
        DataError: the file cannot be read, or holds no text.
    """
    return list(numbered_lines(path).values())


def numbered_lines(path: Path) -> dict[int, str]:
    """As :func:`read_lines`, by the number of the line, counted from 1."""
    lines = read_text(path).split("\n")
    return {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}


def read_text(path: Path) -> str:
    """The content of a text file, in the encodings of :func:`read_lines`; lines end in ``\\n``.

    Raises:
        DataError: the file cannot be read, or holds no text.
    """
    data = read_bytes(path)
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    try:
        lines = (
            re.split(b"\r\n|\r|\n", data) if encoding is None else re.split("\r\n|\r|\n", data.decode(encoding))
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: begins as {encoding}, but is not ({error.reason}); save it as UTF-8") from error
    text = [line if isinstance(line, str) else decode(line) for line in lines]
    if any("\0" in line for line in text):
        raise DataError(
            f"{path}: holds NUL bytes, so it is no text (or UTF-16 without its mark); save it as UTF-8"
        )
    return "\n".join(text)


def form(name: str) -> str:
    """A file name as it is compared: systems write one letter in several forms (a macOS disk takes accents apart)."""
    with contextlib.suppress(UnicodeEncodeError):
        # Python keeps the bytes of a name that is no UTF-8 as surrogates.
        name = name if name.isprintable() else decode(os.fsencode(name))
    return unicodedata.normalize("NFC", name)


def hidden(relative: str | Path) -> bool:
    """Whether a path leads over what systems and editors leave: .DS_Store, ._NAME, .ipynb_checkpoints, __MACOSX."""
    parts = Path(os.path.normpath(relative)).parts
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in parts)


def decode(line: bytes) -> str:
    """UTF-8, or else Windows-1252."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
