"""Files by the names that lists give them: with or without an ending, in any Unicode form."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from examples.sdgan.data.reading import form, hidden, inside, is_file

IMAGE_ENDINGS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pnm",
    ".jfif",
)
"""Of the formats that are read; which one a file is of is seen by its content."""


class _Listing(NamedTuple):
    """What a folder holds, by the form of the name, and by that of the name without its ending."""

    by_name: dict[str, list[str]]
    by_stem: dict[str, list[tuple[str, str]]]


class Folder:
    """A folder in which files are found by name.

    Args:
        path: of the folder.
        endings: that its files have, the usual one first.
    """

    def __init__(self, path: Path, endings: Sequence[str]) -> None:
        self.path, self.endings = path, tuple(endings)
        self._lists: dict[Path, _Listing] = {}

    def find(self, name: str, where: Path) -> Path | None:
        """The file that a list means, or ``None``.

        The name may have an ending, be in another Unicode form than on the disk, hold Windows' separators, or begin
        with the folder's own name.

        Args:
            name: relative to the folder, with or without an ending.
            where: the list, for messages.

        Raises:
            DataError: the name leads out of the folder, or to what is no file.
        """
        # A list of thousands mostly holds names as they are on the disk.
        for usual in (
            (name, name + self.endings[0]) if _ending(name) in self.endings else (name + self.endings[0],)
        ):
            if is_file(inside(self.path, usual, where)):
                return inside(self.path, usual, where)
        for candidate in self._ways_to_write(name):
            inside(self.path, candidate, where)
            folder, last = os.path.split(os.path.normpath(candidate))
            found = self._folder(folder)
            for match in () if found is None else self._matches(found, last):
                if is_file(match):
                    return match
        return None

    def key(self, path: Path) -> str:
        """A found file's name as it is compared: below the folder, without the ending."""
        return form(os.path.normpath(path.relative_to(self.path).with_suffix("")))

    def files(self) -> list[Path]:
        """Every file with one of the endings, at any depth, but hidden ones; sorted."""
        found, seen = [], set()
        for folder, below, names in os.walk(self.path, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back
                below.clear()
                continue
            seen.add(real)
            # A folder that is called as a file is found too: whoever reads it says what is wrong.
            found += [Path(folder, n) for n in (*below, *names) if not hidden(n) and _ending(n) in self.endings]
            below[:] = sorted(name for name in below if not hidden(name))
        return sorted(found)

    def others(self, name: str) -> list[str]:
        """Names of files that differ from this one in the ending alone."""
        folder, last = os.path.split(os.path.normpath(name))
        found = self._folder(folder)
        return [] if found is None else [n for _, n in self._list(found).by_stem.get(form(last), [])]

    def _ways_to_write(self, name: str) -> Iterator[str]:
        yield name
        slashes = name.replace("\\", "/")
        if slashes != name:
            yield slashes
        head, _, rest = slashes.rpartition(f"{self.path.name}/")
        if rest and head in ("", "./", "/", f"{self.path.parent.name}/", f"./{self.path.parent.name}/"):
            yield rest

    def _folder(self, relative: str) -> Path | None:
        """The folder of a name, part by part, for each may be in another form."""
        path = self.path
        for part in Path(relative).parts:
            if not (path / part).is_dir():
                same = self._list(path).by_name.get(form(part), [])
                part = next((name for name in same if (path / name).is_dir()), "")
                if not part:
                    return None
            path = path / part
        return path if path.is_dir() else None

    def _matches(self, folder: Path, last: str) -> Iterator[Path]:
        listed, stems = self._list(folder), [last]
        if without_ending(last) != last:
            yield from (folder / n for n in listed.by_name.get(form(last), []) if _ending(n) in self.endings)
            stems.append(without_ending(last))
        for stem in stems:
            same = dict(reversed(listed.by_stem.get(form(stem), [])))
            yield from (folder / same[ending] for ending in self.endings if ending in same)

    def _list(self, folder: Path) -> _Listing:
        if folder not in self._lists:
            listing = _Listing({}, {})
            for name in sorted(os.listdir(folder)):
                if not hidden(name):
                    listing.by_name.setdefault(form(name), []).append(name)
                    stem, ending = os.path.splitext(name)
                    listing.by_stem.setdefault(form(stem), []).append((ending.lower(), name))
            self._lists[folder] = listing
        return self._lists[folder]


def without_ending(name: str) -> str:
    """A name without the ending of a picture, where it has one."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in IMAGE_ENDINGS else name


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()
