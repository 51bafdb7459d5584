"""The chunker: cuts texts into chunks within a model's token limit and a row's byte limit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.chunking.boundaries import byte_offsets, code_points, is_space, pieces, sentence_starts, space_table
from pipeline.errors import UsageError
from pipeline.records import MAX_TEXT_BYTES, Chunk, Tokenizer, Tokens

_GROUP_CHARACTERS = 1_000_000
"""Characters tokenized in one call: the tokenizer's own result takes some 150 bytes per token until it is copied."""


@dataclass(frozen=True, slots=True)
class ChunkingPolicy:
    """The limits of a chunk."""

    max_tokens: int | None = None
    """Tokens of a chunk at most; None: the model's own limit."""
    overlap: int = 32
    """Tokens at most that a chunk repeats of the chunk before it."""
    max_bytes: int = MAX_TEXT_BYTES
    """UTF-8 bytes of a chunk's text at most."""

    def check_overlap(self, limit: int) -> None:
        """Raise `UsageError` unless the overlap is shorter than a chunk of `limit` tokens."""
        if not 0 <= self.overlap < limit:
            raise UsageError(
                f"chunking.overlap is {self.overlap}, but must be from 0 to below the chunk length of {limit} tokens"
            )


class Chunker:
    """Cuts texts into chunks. Pure, and safe to call from several threads if the tokenizer is."""

    def __init__(self, tokenizer: Tokenizer, policy: ChunkingPolicy) -> None:
        """Raise `UsageError` if the policy does not fit the model."""
        limit = tokenizer.max_tokens if policy.max_tokens is None else policy.max_tokens
        if not 0 < limit <= tokenizer.max_tokens:
            raise UsageError(
                f"chunking.max_tokens is {limit}, but the model takes {tokenizer.max_tokens} tokens of a document at "
                f"most: write a number from 1 to {tokenizer.max_tokens}, or null for the model's own limit"
            )
        policy.check_overlap(limit)
        if policy.max_bytes < 4:
            raise UsageError(f"max_bytes is {policy.max_bytes}, but one character can take 4")
        self._tokenizer = tokenizer
        self._limit = limit
        self._overlap = policy.overlap
        self._max_bytes = policy.max_bytes
        self._piece = policy.max_bytes // 4  # a piece fits into a chunk even if each character takes 4 bytes
        self._spaces = space_table()

    def chunk(self, texts: Sequence[str]) -> list[list[Chunk]]:
        """Chunks of each text in order, at least one per text; together they cover it, and none exceeds a limit.

        The chunks of a text do not depend on the other texts. Time and memory are linear in the text's length. No text
        raises: a text without tokens gives chunks without ids.
        """
        short = self._tokenize((text for text in texts if len(text) <= self._piece), fits=self._limit)
        chunked = []
        for text in texts:
            if len(text) > self._piece:
                chunked.append(self._cut_long(text))
                continue
            tokens = next(short)
            if len(tokens.ids) <= self._limit:
                chunked.append([Chunk(0, 0, len(text), text, tokens.ids)])
            else:
                chunked.append(self._cut(text, [(0, len(text))], [tokens]))
        return chunked

    def _cut_long(self, text: str) -> list[Chunk]:
        spans = list(pieces(text, self._piece))
        return self._cut(text, spans, list(self._tokenize((text[start:end] for start, end in spans), fits=0)))

    def _cut(self, text: str, spans: Sequence[tuple[int, int]], tokens: Sequence[Tokens]) -> list[Chunk]:
        units = _Units(text, spans, tokens, self._max_bytes, self._spaces)
        return [
            Chunk(index, start, end, text[start:end], ids)
            for index, (start, end, ids) in enumerate(units.windows(self._limit, self._overlap))
        ]

    def _tokenize(self, texts: Iterator[str], fits: int) -> Iterator[Tokens]:
        """Tokens of the texts in order, tokenized in groups of a bounded number of characters."""
        group: list[str] = []
        characters = 0
        for text in texts:
            group.append(text)
            characters += len(text)
            if characters >= _GROUP_CHARACTERS:
                yield from self._tokenizer.tokenize(group, fits)
                group, characters = [], 0
        if group:
            yield from self._tokenizer.tokenize(group, fits)


class _Units:
    """One text as indivisible units: a token with the gap after it, or a piece without tokens.

    Unit i has the characters [starts[i], starts[i + 1]) and the tokens [first[i], first[i + 1]). A boundary is the
    index of the unit after it. Several tokens of one character (bytes of an emoji, say) are one unit.
    """

    def __init__(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        tokens: Sequence[Tokens],
        max_bytes: int,
        spaces: NDArray[np.bool_],
    ) -> None:
        self._ids = np.concatenate([part.ids for part in tokens])
        unit_starts, first = [], []
        count = 0
        for (start, end), part in zip(spans, tokens, strict=True):
            # A normalizer may report offsets out of order; cuts need them to rise.
            starts = np.minimum(np.maximum.accumulate(part.starts) + start, end - 1)
            starts[:1] = start
            rises = np.flatnonzero(np.diff(starts, prepend=-1)) if len(starts) else np.zeros(1, dtype=np.int64)
            unit_starts.append(starts[rises] if len(starts) else np.array([start]))
            first.append(rises + count)
            count += len(part.ids)
        self._starts = np.concatenate([*unit_starts, [len(text)]])
        self._first = np.concatenate([*first, [count]])
        self._max_bytes = max_bytes
        points = code_points(text)
        self._bytes = None
        if 4 * len(text) > max_bytes:
            self._bytes = self._starts if text.isascii() else byte_offsets(points)[self._starts]
        inner = self._starts[1:-1]
        beside_space = is_space(points[inner - 1], spaces) | is_space(points[inner], spaces)
        self._words = np.flatnonzero(beside_space) + 1
        self._sentences = self._boundaries_of(sentence_starts(text))

    def _boundaries_of(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Boundaries at which sentences begin; a token with the space before its word is the sentence's first."""
        exact = np.searchsorted(self._starts, sentences[:, 1])
        with_gap = np.searchsorted(self._starts, sentences[:, 0])
        boundaries = np.where(self._starts[exact] == sentences[:, 1], exact, with_gap)
        return np.unique(boundaries[(boundaries > 0) & (boundaries < len(self._starts) - 1)])

    def windows(self, limit: int, overlap: int) -> Iterator[tuple[int, int, NDArray[np.int32]]]:
        """Characters [start, end) and token ids of each chunk; each has text that no chunk before it has."""
        begin = covered = 0
        last = len(self._starts) - 1
        # A cut at a sentence or word must leave enough new tokens, or rare boundaries would make tiny chunks.
        min_new = max(1, (limit - overlap) // 4)
        while covered < last:
            reach = self._reach(begin, limit)
            cut = last if reach == last else self._cut(covered, reach, min_new)
            yield (
                int(self._starts[begin]),
                int(self._starts[cut]),
                self._ids[self._first[begin] : self._first[cut]][:limit],
            )
            begin, covered = self._next_begin(begin, cut, overlap), cut
            if self._reach(begin, limit) <= covered:  # the overlap alone would fill the chunk
                begin = covered

    def _reach(self, begin: int, limit: int) -> int:
        """The last boundary up to which a chunk from `begin` is within the limits; at least one unit further."""
        reach = np.searchsorted(self._first, self._first[begin] + limit, "right") - 1
        if self._bytes is not None:
            reach = min(reach, np.searchsorted(self._bytes, self._bytes[begin] + self._max_bytes, "right") - 1)
        return max(int(reach), min(begin + 1, len(self._starts) - 1))

    def _cut(self, covered: int, reach: int, min_new: int) -> int:
        """Where a chunk that may go up to `reach` ends: the last sentence start, else word boundary, else `reach`."""
        earliest = max(covered + 1, int(np.searchsorted(self._first, self._first[covered] + min_new)))
        for boundaries in (self._sentences, self._words):
            count = int(np.searchsorted(boundaries, reach, "right"))
            if count and boundaries[count - 1] >= earliest:
                return int(boundaries[count - 1])
        return reach

    def _next_begin(self, begin: int, cut: int, overlap: int) -> int:
        """Where the next chunk begins: up to `overlap` tokens before the cut, at a sentence or word if one is close."""
        if not overlap or cut == len(self._starts) - 1:
            return cut
        earliest = max(begin + 1, int(np.searchsorted(self._first, self._first[cut] - overlap)))
        latest_token = self._first[earliest] + overlap // 2
        for boundaries in (self._sentences, self._words):
            index = int(np.searchsorted(boundaries, earliest))
            if index < len(boundaries) and self._first[boundaries[index]] <= latest_token:
                return min(cut, int(boundaries[index]))
        return min(cut, earliest)
