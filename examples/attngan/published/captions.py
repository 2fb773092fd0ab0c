"""The words of ``captions.pickle``, whose numbers a published text encoder knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.attngan.published.names import PublishedError
from examples.sdgan.data.dataset import DataError
from examples.sdgan.data.pickles import read_plain_pickle
from examples.sdgan.data.vocabulary import Vocabulary


def vocabulary(path: Path, words: int) -> Vocabulary:
    """The vocabulary of a captions.pickle; number 0 ends a caption there, and pads here.

    Args:
        path: of the pickle, read without running code: ``[train, test, number to word, word to number]``.
        words: that the text encoder has an embedding for.

    Raises:
        PublishedError: it is broken, or of another text encoder.
    """
    try:
        content: Any = read_plain_pickle(path)
    except DataError as error:
        raise PublishedError(f"--captions {error}") from error
    numbered = content[2] if isinstance(content, list) and len(content) > 2 else None
    if not isinstance(numbered, dict) or not numbered:
        raise PublishedError(
            f"--captions {path}: no captions.pickle of AttnGAN, a list of train and test captions and two dictionaries"
        )
    if len(numbered) != words:
        raise PublishedError(
            f"--captions {path}: {len(numbered):,} words, but the text encoder knows {words:,}: not what it was "
            "trained with"
        )
    if sorted(numbered) != list(range(words)):
        raise PublishedError(f"--captions {path}: its words must be numbered 0 to {words - 1:,}")
    known = [_text(numbered[number]) for number in range(1, words)]
    try:
        return Vocabulary(known, published=True)
    except ValueError as error:
        raise PublishedError(f"--captions {path}: {error}") from error


def _text(word: Any) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else word
