"""The terms of a query, and where a text has them. Pure.

A term is a word, folded. In scripts without spaces it is a pair of neighbouring characters, or a character that is
alone. Offsets count code points, as Python's do.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

MAX_WORD_CHARS = 255
"""A longer word is no term: to normalize many marks in a row takes time with the square of their number."""

_UNSPACED = (
    "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f"  # kana
    "\uac00-\ud7a3"  # Hangul, whose words carry particles
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u1049\u1050-\u109f\u1780-\u17d3"  # Thai to Khmer
)
_JOINERS = (0x200C, 0x200D)
"""Zero-width (non-)joiners, which are inside words of several scripts."""
_LAST_MARK = 0x1FFFF
_VARIATION_SELECTORS = "\U000e0100-\U000e01ef"


class Occurrence(NamedTuple):
    """A term in a text, at [start, end)."""

    start: int
    end: int
    term: str


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one query."""

    words: frozenset[str]
    pairs: frozenset[str]
    """Folded pairs of characters of scripts without spaces."""
    singles: frozenset[str]
    """Such characters that have no neighbour in the query."""

    def occurrences(self, text: str) -> Iterator[Occurrence]:
        """Every term in the text, in order; those of pairs may overlap. Linear in the text's length."""
        for match in _tokens().finditer(text):
            start, token = match.start(), match.group()
            if match.lastgroup == "unspaced":
                yield from self._in_run(start, token)
            elif len(token) <= MAX_WORD_CHARS and (word := fold(token)) in self.words:
                yield Occurrence(start, match.end(), word)

    def _in_run(self, start: int, run: str) -> Iterator[Occurrence]:
        if not self.pairs and not self.singles:
            return
        folded = run if unicodedata.is_normalized("NFKC", run) else [fold(character) for character in run]
        for at, (character, following) in enumerate(zip(folded, [*folded[1:], ""], strict=True), start):
            if following and character + following in self.pairs:
                yield Occurrence(at, at + 2, character + following)
            elif character in self.singles:
                yield Occurrence(at, at + 1, character)


def terms_of(query: str) -> Terms:
    """The terms of a query."""
    words: set[str] = set()
    pairs: set[str] = set()
    singles: set[str] = set()
    for match in _tokens().finditer(query):
        token = match.group()
        if match.lastgroup != "unspaced":
            if len(token) <= MAX_WORD_CHARS:
                words.add(fold(token))
        elif len(token) == 1:
            singles.add(fold(token))
        else:
            pairs.update(first + second for first, second in pairwise(map(fold, token)))
    return Terms(frozenset(words), frozenset(pairs), frozenset(singles))


def fold(word: str) -> str:
    """The word without differences of case, width and composition (Unicode's case folding of compatible forms)."""
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())


@cache
def _tokens() -> re.Pattern[str]:
    """Words, each letter or digit with the marks on it, and runs of characters of scripts without spaces."""
    return re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|(?:[^\W_{_UNSPACED}][{_marks()}]*)+")


def _marks() -> str:
    """The characters of a regular expression's class for marks; those of scripts without spaces are matched before."""
    ranges: list[list[int]] = []
    for point in range(_LAST_MARK + 1):
        if unicodedata.category(chr(point))[0] != "M" and point not in _JOINERS:
            continue
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + _VARIATION_SELECTORS
