"""What is odd about captions and files, and would train without a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from examples.sdgan.data.dataset import DataError
from examples.sdgan.data.vocabulary import tokenize


def about_captions(name: str, captions: Sequence[Sequence[str]]) -> list[str]:
    """A line for each thing that a person should know of a data set's captions."""
    texts = [text for each in captions for text in each]
    notes = []
    short = [text for text in texts if len(tokenize(text)) == 1]
    if 2 * len(short) > len(texts):
        notes.append(
            f"{name}: {len(short):,} of {len(texts):,} captions are one word, such as {short[0]!r:.80}; if "
            "they are "
            "sentences, their words are not separated by spaces, and each is learnt as a word of its own"
        )
    broken = [text for text in texts if "\ufffd" in text]
    if broken:
        notes.append(
            f"{name}: {len(broken):,} of {len(texts):,} captions hold U+FFFD, which stands for a letter that "
            "could not be "
            f"read, such as {broken[0]!r:.80}; take them anew from where they are whole, as UTF-8"
        )
    return notes


def refuse_one_file(source: Path, names: Sequence[str], paths: Sequence[Path]) -> None:
    """Raise :class:`DataError` where two names lead to one file: its pair would be taken for different images."""
    seen: dict[Path, str] = {}
    for name, path in zip(names, paths, strict=True):
        real = path.resolve()
        if real in seen:
            raise DataError(
                f"{source}: {seen[real]!r} and {name!r} link to one file, {real}; each image may be in a split "
                "once: "
                "take one of the names away"
            )
        seen[real] = name
