"""Which sequences go through the model together. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_BATCH_TOKENS = 256
"""Below this a forward pass costs its fixed part, not its tokens."""


def pack(lengths: Sequence[int], budget: int, parallel: int = 1) -> list[NDArray[np.int64]]:
    """Batches of indices into `lengths`, longest first; each index in exactly one.

    Within a batch, sequences are of similar length and `longest * count <= budget` holds, so padding is rare and
    bounded; a single sequence over the budget stands alone. With several forwards in `parallel` the budget shrinks
    until each has work, though not below `MIN_BATCH_TOKENS`.
    """
    if not lengths:
        return []
    real = np.asarray(lengths, dtype=np.int64)
    sizes = np.maximum(real, 1)
    share = -(-int(sizes.sum()) // parallel)
    budget = min(budget, max(share, MIN_BATCH_TOKENS))
    order = np.argsort(-real, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        count = max(1, budget // int(sizes[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches


def halves(batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A batch that did not fit the memory as two; it has at least two sequences."""
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def pad(
    sequences: Sequence[NDArray[np.int32]], padding: int, before: NDArray[np.int32], after: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask, each of shape (n, longest), padded on the right.

    Every sequence is put between the ids `before` (start token, prompt) and `after` (end token).
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)) + len(before) + len(after)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, padding, dtype=np.int64)
    ids[mask] = np.concatenate([part for ids in sequences for part in (before, ids, after)])
    return ids, mask.astype(np.int64)
