"""The text of a document, joined from its chunks again. Pure.

Rows do not hold where a chunk begins in the text. Neighbours touch or overlap, so how many characters a chunk repeats
of the one before it is found by comparing them. Of a text that repeats itself several answers are possible; the digest
of the text in the ledger shows which is right.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_MOST_OVERLAPS = 256
"""Possible overlaps of two neighbours that are considered, the longest first, and 0."""
_MOST_COMPARED = 32 * 2**20
"""Characters compared to find overlaps: a chunk that nearly repeats itself has many that fail late."""
_MOST_HASHED = 64 * 2**20
"""Characters of all the texts that are checked."""
_MOST_TRIES = 512
_CHANCE = 4
"""Fewer equal characters than this, of the end of a chunk and the begin of the next, are taken for chance."""


@dataclass(frozen=True, slots=True)
class JoinedText:
    """A text made of chunks."""

    text: str
    exact: bool
    """Whether it is proven to be the original."""


def join(chunks: Sequence[str], is_original: Callable[[str], bool] | None) -> JoinedText:
    """The text of these chunks, which are all of a document in order; at least one.

    `is_original`: whether a text is the document's; None: nobody knows. Then only the text of a single chunk is exact,
    and of several chunks the longest overlaps are taken, those that may be chance left out.
    """
    overlaps = _overlaps(chunks)
    if is_original is None:
        likely = [possible[0] if possible[0] >= _CHANCE else 0 for possible in overlaps]
        return JoinedText(_joined(chunks, likely), len(chunks) == 1)
    first = ""
    hashed = 0
    for number, choice in enumerate(_choices(overlaps)):
        text = _joined(chunks, choice)
        first = text if number == 0 else first
        hashed += len(text)
        if is_original(text):
            return JoinedText(text, True)
        if number >= _MOST_TRIES or hashed > _MOST_HASHED:
            break
    return JoinedText(first, False)


def _joined(chunks: Sequence[str], overlaps: Sequence[int]) -> str:
    return "".join((chunks[0], *(chunk[skip:] for chunk, skip in zip(chunks[1:], overlaps, strict=True))))


def _overlaps(chunks: Sequence[str]) -> list[list[int]]:
    """Of each chunk but the first: how many characters it may repeat of the one before, the most first; always 0."""
    compared = 0
    overlaps = []
    for before, chunk in pairwise(chunks):
        possible: list[int] = []
        # A chunk begins after the first character of the one before it, and ends after its end.
        at = max(1, len(before) - len(chunk) + 1)
        while compared < _MOST_COMPARED and len(possible) < _MOST_OVERLAPS:
            at = before.find(chunk[:1], at)
            if at < 0:
                break
            compared += len(before) - at
            if chunk.startswith(before[at:]):
                possible.append(len(before) - at)
            at += 1
        overlaps.append([*possible, 0])
    return overlaps


def _choices(overlaps: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """One overlap for each pair of neighbours, the likeliest choices first.

    1. The longest of each pair.
    2. None: chunks were cut without an overlap, and equal characters are chance.
    3. The longest of each pair, but none below a length: chunks overlap, and short ones are chance.
    4. The longest of each pair up to a length: the text repeats itself.
    5. As 1, but another one for one pair.
    """
    longest = [possible[0] for possible in overlaps]
    yield longest
    yield [0] * len(overlaps)
    for least in (2, 4, 8, 16, 32, 64):
        yield [length if length >= least else 0 for length in longest]
    for most in sorted({length for possible in overlaps for length in possible} - {0}, reverse=True)[:_MOST_OVERLAPS]:
        yield [next(length for length in possible if length <= most) for possible in overlaps]
    for number, possible in enumerate(overlaps):
        for length in possible[1:]:
            yield [*longest[:number], length, *longest[number + 1 :]]
