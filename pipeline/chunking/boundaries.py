"""Boundaries in a text: pieces for the tokenizer, starts of sentences, white space, byte offsets. Pure."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Runs of marks and closing quotes are bounded: an open-ended one would be scanned again from each of its characters.
_SENTENCE_END = re.compile(
    r"""[.!?…]["'”’»)\]]{0,3}\s+"""
    r"""|[。！？｡]["'”’」』）]{0,3}\s*"""
    r"""|\n[^\S\n]*\n\s*"""
)
_LAST_SPACE = 0x3000
"""The highest code point that `str.isspace` accepts: the ideographic space."""


def pieces(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Cut a text into runs [start, end) of at most `size` characters, before white space where the second half has any.

    The space goes to the next piece, before its word, as byte-level tokenizers need it. Linear in the text's length.
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
    """Starts of sentences and paragraphs, shape (n, 2): end of the sentence before, first character of this one.

    A full stop before a lower-case letter ends no sentence ("e.g. this"), unless a blank line follows it.
    """
    starts = []
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if end == len(text):
            break
        gap = match.group()
        if text[end].islower() and gap[0] in ".!?…" and gap.count("\n") < 2:
            continue
        starts.append((match.start() + len(gap.rstrip()), end))
    return np.array(starts, dtype=np.int64).reshape(-1, 2)


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of a text, shape (len(text),); a lone surrogate counts as one."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def is_space(points: NDArray[np.uint32], table: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each code point is white space, looked up in a table from `space_table`."""
    return table[np.minimum(points, _LAST_SPACE + 1)]


def space_table() -> NDArray[np.bool_]:
    """Lookup table: whether each code point is white space, up to the last space and one beyond it."""
    return np.array([chr(point).isspace() for point in range(_LAST_SPACE + 2)])


def byte_offsets(points: NDArray[np.uint32]) -> NDArray[np.int64]:
    """UTF-8 offset of each character, and the total size, shape (len(points) + 1,)."""
    widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(widths)))
