"""From captions to word indices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

PADDING, UNKNOWN = 0, 1
_SPECIAL = ("<padding>", "<unknown>")


def tokenize(caption: str) -> list[str]:
    """Lower-case words and numbers; punctuation separates."""
    return re.findall(r"\w+", caption.lower())


class Vocabulary:
    """The words a text encoder knows; index 0 is padding, 1 an unknown word.

    Args:
        words: without the two special ones.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [*_SPECIAL, *words]
        self._index = {word: i for i, word in enumerate(self.words)}

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
