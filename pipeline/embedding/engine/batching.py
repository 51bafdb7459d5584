"""Packing of token sequences into batches, and the arrays of one batch. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_BATCH_TOKENS = 128
"""Below this size a forward pass costs its fixed overhead, not its tokens."""
PASS_TOKENS = 64
"""What a pass costs besides its tokens, in tokens: a batch is divided where that saves more padding."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids added before and after each text in the model's input."""

    before: NDArray[np.int32]
    """Start token and prompt."""
    after: NDArray[np.int32]
    """End token."""
    prompt_tokens: int
    """Leading tokens that pooling skips, for models that leave the prompt out; 0 without a prompt."""

    @property
    def count(self) -> int:
        """Tokens added to each text."""
        return len(self.before) + len(self.after)


def pack(lengths: Sequence[int], budget: int, parallel: int = 1, *, padded: bool = True) -> list[NDArray[np.int64]]:
    """Group sequences into batches: arrays of indices into `lengths`, longest sequences first.

    A batch takes at most `budget` tokens, padding included where `padded`; a single longer sequence is a batch of its
    own. Sequences of similar length share a batch, and one is divided where that saves padding. For `parallel`
    concurrent forward passes batches are made smaller (not below `MIN_BATCH_TOKENS`) and of equal size, so that all
    passes end at the same time.
    """
    if not lengths:
        return []
    unsorted_sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-unsorted_sizes, kind="stable")
    sizes = np.maximum(unsorted_sizes, 1)[order]
    ends = np.cumsum(sizes)

    def batch_ends(budget: int) -> list[int]:
        """Where each batch ends in `order`, filling batches greedily up to the budget."""
        cuts = [0]
        while (start := cuts[-1]) < len(sizes):
            if padded:
                stop = start + budget // int(sizes[start])
            else:
                stop = int(np.searchsorted(ends, ends[start] - sizes[start] + budget, side="right"))
            cuts.append(max(stop, start + 1))
        return [min(stop, len(sizes)) for stop in cuts[1:]]

    if parallel > 1:
        fewest = len(batch_ends(budget))
        rounds = -(-fewest // parallel)
        batch_count = max(fewest, min(rounds * parallel, int(ends[-1]) // MIN_BATCH_TOKENS))
        # The largest budget that still gives so many batches makes them equal.
        budget = bisect_left(range(budget), -batch_count, lo=1, key=lambda size: -len(batch_ends(size)))
    cuts = _cheapest_ends(sizes, budget) if padded else batch_ends(budget)
    return np.split(order, cuts[:-1])


def _cheapest_ends(sizes: NDArray[np.int64], budget: int) -> list[int]:
    """Where each batch ends so that all cost least: `PASS_TOKENS` each, and its tokens with padding.

    `sizes`: longest first, so a batch is padded to its first. The least cost of the first n sequences follows from
    those of fewer (dynamic programming).
    """
    least = np.zeros(len(sizes) + 1, dtype=np.int64)
    begins = [0] * (len(sizes) + 1)
    first = 0
    for stop in range(1, len(sizes) + 1):
        while first < stop - 1 and sizes[first] * (stop - first) > budget:
            first += 1
        costs = least[first:stop] + sizes[first:stop] * np.arange(stop - first, 0, -1)
        begins[stop] = first + int(costs.argmin())
        least[stop] = costs.min() + PASS_TOKENS
    ends = [len(sizes)]
    while begins[ends[-1]]:
        ends.append(begins[ends[-1]])
    return ends[::-1]


def halves(batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a batch of at least two sequences that did not fit into memory."""
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def row_length(longest: int, step: int, limit: int) -> int:
    """The length of padded rows: the next multiple of `step` where that is at most `limit`, else `longest`."""
    stepped = -(-longest // step) * step
    return stepped if stepped <= limit else longest


def pad(
    sequences: Sequence[NDArray[np.int32]],
    padding: int,
    special_tokens: SpecialTokens,
    *,
    step: int = 1,
    limit: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask, each of shape (n, `row_length` of the longest), padded on the right."""
    ids, lengths = _with_special_tokens(sequences, special_tokens)
    mask = np.arange(row_length(int(lengths.max()), step, limit)) < lengths[:, None]
    padded = np.full(mask.shape, padding, dtype=np.int64)
    padded[mask] = ids
    return padded, mask.astype(np.int64)


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """Sequences concatenated into one row, without padding."""

    ids: NDArray[np.int64]
    """Shape (tokens,), like `positions` and `owners`."""
    positions: NDArray[np.int64]
    """Position of each token within its own sequence."""
    owners: NDArray[np.int64]
    """Index of the sequence that each token belongs to."""
    offsets: NDArray[np.int64]
    """Start of each sequence, and the end of the last one: shape (n + 1,)."""


def concatenate_sequences(
    sequences: Sequence[NDArray[np.int32]], special_tokens: SpecialTokens, first_position: int = 0
) -> FlatBatch:
    """Concatenate the sequences into one row; positions start with `first_position` in each."""
    ids, lengths = _with_special_tokens(sequences, special_tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return FlatBatch(ids, np.arange(len(ids)) - offsets[owners] + first_position, owners, offsets)


def _with_special_tokens(
    sequences: Sequence[NDArray[np.int32]], special_tokens: SpecialTokens
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Concatenated ids of all sequences with their special tokens, and the length of each sequence."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)) + special_tokens.count
    ids = np.concatenate(
        [part for sequence in sequences for part in (special_tokens.before, sequence, special_tokens.after)]
    )
    return ids.astype(np.int64), lengths
