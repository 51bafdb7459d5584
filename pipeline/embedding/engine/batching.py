"""Which sequences go through the model together, and how they stand in its input. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_BATCH_TOKENS = 128
"""Below this a forward pass costs its fixed part, not its tokens."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What stands around each text in the model's input."""

    before: NDArray[np.int32]
    """Start token and prompt."""
    after: NDArray[np.int32]
    """End token."""
    prompt_tokens: int
    """Tokens that a model which leaves the prompt out of its pooling has to skip."""

    @property
    def tokens(self) -> int:
        """Tokens added to each text."""
        return len(self.before) + len(self.after)


def pack(lengths: Sequence[int], budget: int, parallel: int = 1, *, padded: bool = True) -> list[NDArray[np.int64]]:
    """Batches of indices into `lengths`, longest first; each index in exactly one.

    A batch takes at most `budget` tokens, padding included where it is `padded`; a single sequence over the budget
    stands alone. Sequences of similar length come together, so padding is rare. With several forwards in `parallel`
    batches become smaller, though not below `MIN_BATCH_TOKENS`, and alike, so that all forwards end together.
    """
    if not lengths:
        return []
    real = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-real, kind="stable")
    sizes = np.maximum(real, 1)[order]
    ends = np.cumsum(sizes)

    def stops(budget: int) -> list[int]:
        found = [0]
        while (start := found[-1]) < len(sizes):
            if padded:
                stop = start + budget // int(sizes[start])
            else:
                stop = int(np.searchsorted(ends, ends[start] - sizes[start] + budget, side="right"))
            found.append(max(stop, start + 1))
        return [min(stop, len(sizes)) for stop in found[1:]]

    most = stops(budget)
    if parallel > 1:
        rounds = -(-len(most) // parallel)
        wanted = max(len(most), min(rounds * parallel, int(ends[-1]) // MIN_BATCH_TOKENS))
        alike = bisect_left(range(budget), -wanted, lo=1, key=lambda size: -len(stops(size)))
        most = stops(alike)
    return np.split(order, most[:-1])


def halves(batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A batch that did not fit the memory as two; it has at least two sequences."""
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def pad(
    sequences: Sequence[NDArray[np.int32]], padding: int, around: SpecialTokens
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask, each of shape (n, longest), padded on the right."""
    ids, lengths = _joined(sequences, around)
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, padding, dtype=np.int64)
    padded[mask] = ids
    return padded, mask.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Row:
    """Sequences one behind the other, without padding."""

    ids: NDArray[np.int64]
    """Shape (tokens,), as the next two."""
    positions: NDArray[np.int64]
    """Count anew in each sequence."""
    owners: NDArray[np.int64]
    """The sequence each token belongs to."""
    offsets: NDArray[np.int64]
    """Where each sequence begins, and where the last one ends: shape (n + 1,)."""


def concatenate_sequences(
    sequences: Sequence[NDArray[np.int32]], around: SpecialTokens, first_position: int = 0, *, step: int = 1
) -> Row:
    """The sequences as one row; positions begin with `first_position`.

    With a `step` a last sequence may follow that only fills the row, so that its length is a multiple of it. It is the
    row's beginning once more: among padding tokens attention can have scores that no text has.
    """
    ids, lengths = _joined(sequences, around)
    if rest := -len(ids) % step:
        ids, lengths = np.resize(ids, len(ids) + rest), np.append(lengths, rest)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return Row(ids, np.arange(len(ids)) - offsets[owners] + first_position, owners, offsets)


def _joined(
    sequences: Sequence[NDArray[np.int32]], around: SpecialTokens
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ids, each sequence with what stands around it, and how long each one then is."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)) + around.tokens
    joined = np.concatenate([part for ids in sequences for part in (around.before, ids, around.after)])
    return joined.astype(np.int64), lengths
