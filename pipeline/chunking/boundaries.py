"""Where a text may be cut: between the pieces it is tokenized in, before sentences, before words."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Never an open-ended run of marks or closers: it would be scanned again from each of its characters.
_SENTENCE_END = re.compile(
    r"""[.!?…]["'”’»)\]]{0,3}\s+"""
    r"""|[。！？｡]["'”’」』）]{0,3}\s*"""
    r"""|\n[^\S\n]*\n\s*"""
)
_LAST_SPACE = 0x3000
"""The highest code point that `str.isspace` accepts: the ideographic space."""


def pieces(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Cut a text into runs [start, end) of at most `size` characters, before white space where the second half has any.

    The space stays in front of the next word, where byte-level tokenizers want it. Linear in the length of the text.
    """
    start = 0
    while len(text) - start > size:
        low, end = start + size // 2, start + size
        space = max(text.rfind(" ", low, end), text.rfind("\n", low, end))
        while space > low and text[space - 1].isspace():
            space -= 1
        if space > low:
            end = space
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def sentence_starts(text: str) -> NDArray[np.int64]:
    """Where sentences and paragraphs begin, shape (n, 2): the end of what stands before, the first character.

    A full stop before a lower-case letter ends no sentence ("e.g. this"), unless a blank line follows it.
    """
    found = []
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if end == len(text):
            break
        gap = match.group()
        if text[end].islower() and gap[0] in ".!?…" and gap.count("\n") < 2:
            continue
        found.append((match.start() + len(gap.rstrip()), end))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def code_points(text: str) -> NDArray[np.uint32]:
    """The characters of a text as numbers, shape (len(text),); a lone surrogate is one of them."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def is_space(points: NDArray[np.uint32], table: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which code points are white space, by a table from `space_table`."""
    return table[np.minimum(points, _LAST_SPACE + 1)]


def space_table() -> NDArray[np.bool_]:
    """Whether each code point up to the last space there is, and one beyond, is white space."""
    return np.array([chr(point).isspace() for point in range(_LAST_SPACE + 2)])


def byte_offsets(points: NDArray[np.uint32]) -> NDArray[np.int64]:
    """UTF-8 bytes before each character, and of all, shape (len(points) + 1,)."""
    widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(widths)))
