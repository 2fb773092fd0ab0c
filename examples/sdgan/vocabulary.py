"""From captions to word indices."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

PADDING, UNKNOWN = 0, 1
_SPECIAL = ("<padding>", "<unknown>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def tokenize(caption: str) -> list[str]:
    """Lower-case words and numbers; punctuation separates. Vowel signs and accents belong to their word."""
    caption = caption.lower()
    if caption.isascii():
        return re.findall(r"\w+", caption)
    # No \w matches a combining mark: without them, words of Hindi or Thai fall into pieces.
    letters = (
        letter if letter.isalnum() or letter == "_" or unicodedata.category(letter)[0] == "M" else " "
        for letter in unicodedata.normalize("NFC", caption)
    )
    return [word for word in "".join(letters).split() if re.search(r"\w", word)]


def clean(caption: str) -> str:
    """A caption in one line, without control characters: it is printed and drawn."""
    return " ".join(_CONTROL.sub(" ", caption).split())


class Vocabulary:
    """The words a text encoder knows; index 0 is padding, 1 an unknown word.

    Args:
        words: without the two special ones.

    Raises:
        ValueError: the words are not distinct strings, so that an index could mean two.
    """

    def __init__(self, words: Sequence[str]) -> None:
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ValueError("a vocabulary is a list of words, each a string")
        self.words = [*_SPECIAL, *words]
        self._index = {word: i for i, word in enumerate(self.words)}
        if len(self._index) < len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self._index[word] != i)
            raise ValueError(f"a vocabulary names each word once, got {twice!r} twice")

    @classmethod
    def of(cls, captions: Iterable[str], min_count: int = 1) -> Vocabulary:
        """The vocabulary of some captions, in alphabetical order."""
        counts = Counter(word for caption in captions for word in tokenize(caption))
        return cls(sorted(word for word, count in counts.items() if count >= min_count))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def encode(self, caption: str) -> list[int]:
        """Word indices of a caption."""
        return [self._index.get(word, UNKNOWN) for word in tokenize(caption)]
