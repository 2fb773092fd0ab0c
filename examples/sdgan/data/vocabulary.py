"""From captions to word indices."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

PADDING, UNKNOWN = 0, 1
_SPECIAL = ("<padding>", "<unknown>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


# Scripts that put no spaces between words, by their blocks: a caption would be one word, which no other caption has.
_WITHOUT_SPACES = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\uaa80-\uaadf"  # Khmer, Tai
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u303c\u3400-\u9fff\uf900-\ufaff\U0001f200-\U0001f2ff\U00020000-\U0003ffff"  # Han
    "\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"  # Kana, Bopomofo
    "]"
)


def tokenize(caption: str) -> list[str]:
    """Lower-case words and numbers; punctuation separates. Vowel signs and accents belong to their letter.

    Scripts that put no spaces between words, such as Chinese, Japanese and Thai, are taken letter by letter.
    """
    caption = caption.lower()
    if caption.isascii():
        return re.findall(r"\w+", caption)
    words, alone = [""], False
    for letter in unicodedata.normalize("NFC", caption):
        # No \w matches a combining mark: without them, words of Hindi or Thai fall into pieces.
        mark = unicodedata.category(letter)[0] == "M"
        if not (mark or letter.isalnum() or letter == "_"):
            words.append("")
            alone = False
        elif not mark and (alone or _WITHOUT_SPACES.match(letter)):
            words.append(letter)
            alone = bool(_WITHOUT_SPACES.match(letter))
        else:
            words[-1] += letter
    return [word for word in words if re.search(r"\w", word)]


def clean(caption: str) -> str:
    """A caption in one line, without control characters: it is printed and drawn."""
    return " ".join(_CONTROL.sub(" ", caption).split())


def tokenize_as_published(caption: str) -> list[str]:
    """As AttnGAN's ``datasets.py`` does: runs of letters, digits and underscores, of which ASCII alone stays."""
    words = re.findall(r"\w+", caption.replace("\ufffd\ufffd", " ").lower())
    plain = (word.encode("ascii", "ignore").decode("ascii") for word in words)
    return [word for word in plain if word]


class Vocabulary:
    """The words a text encoder knows; index 0 is padding, 1 an unknown word.

    Args:
        words: without the special ones.
        published: as AttnGAN's: there is no unknown word, so index 1 is the first of ``words``, and words that are not
            among them are left out; captions are split as there.

    Raises:
        ValueError: the words are not distinct strings, so that an index could mean two.
    """

    def __init__(self, words: Sequence[str], published: bool = False) -> None:
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ValueError("a vocabulary is a list of words, each a string")
        self.published = published
        self._special = _SPECIAL[:1] if published else _SPECIAL
        self.words = [*self._special, *words]
        self._index = {word: i for i, word in enumerate(self.words)}
        if len(self._index) < len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self._index[word] != i)
            raise ValueError(f"a vocabulary names each word once, got {twice!r} twice")

    @classmethod
    def of(cls, captions: Iterable[str], min_count: int = 1) -> Vocabulary:
        """The vocabulary of some captions, in alphabetical order."""
        counts = Counter(word for caption in captions for word in tokenize(caption))
        return cls(sorted(word for word, count in counts.items() if count >= min_count))

    @property
    def known(self) -> list[str]:
        """The words without the special ones."""
        return self.words[len(self._special) :]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def encode(self, caption: str) -> list[int]:
        """Word indices of a caption."""
        return [self._index.get(word, UNKNOWN) for word in self.split(caption)]

    def tokenize(self, caption: str) -> list[str]:
        """The words of a caption."""
        return tokenize_as_published(caption) if self.published else tokenize(caption)

    def split(self, caption: str) -> list[str]:
        """The words of a caption that :meth:`encode` gives an index."""
        words = self.tokenize(caption)
        return [word for word in words if word in self._index] if self.published else words
