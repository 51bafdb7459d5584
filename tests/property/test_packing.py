"""Every sequence goes through the model exactly once, within the budget, next to others of its length."""

from collections.abc import Iterable, Sequence
from itertools import pairwise, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import (
    MIN_BATCH_TOKENS,
    PASS_TOKENS,
    SpecialTokens,
    concatenate_sequences,
    halves,
    pack,
    pad,
)

Ids = NDArray[np.int32]
LENGTHS = st.lists(st.integers(0, 600), max_size=200)


@given(LENGTHS, st.integers(16, 4096), st.integers(1, 8), st.booleans())
def test_batches_are_a_partition_within_the_budget(
    lengths: list[int], budget: int, parallel: int, padded: bool
) -> None:
    batches = pack(lengths, budget, parallel, padded=padded)
    indices = [int(index) for batch in batches for index in batch]
    assert sorted(indices) == list(range(len(lengths)))
    for batch in batches:
        batch_lengths = [lengths[index] for index in batch]
        assert len(batch) == 1 or (max(batch_lengths) * len(batch) if padded else sum(batch_lengths)) <= budget
    ordered = [lengths[index] for index in indices]
    assert ordered == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(16, 2048))
def test_no_other_cuts_of_padded_batches_cost_less(lengths: list[int], budget: int) -> None:
    def cost(batches: Iterable[Sequence[int]]) -> int:
        return sum(max(batch) * len(batch) + PASS_TOKENS for batch in batches)

    ordered = sorted(lengths, reverse=True)
    costs = []
    for cuts in product((False, True), repeat=len(lengths) - 1):
        ends = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), len(lengths)]
        batches = [ordered[start:end] for start, end in pairwise(ends)]
        if all(len(batch) == 1 or batch[0] * len(batch) <= budget for batch in batches):
            costs.append(cost(batches))
    assert cost([lengths[index] for index in batch] for batch in pack(lengths, budget)) == min(costs)


@given(LENGTHS.filter(len), st.integers(600, 4096))
def test_flat_batches_are_full(lengths: list[int], budget: int) -> None:
    batches = pack(lengths, budget, padded=False)
    sizes = [sum(max(lengths[index], 1) for index in batch) for batch in batches]
    # What begins the next batch would not have fitted.
    for size, following in zip(sizes, batches[1:], strict=False):
        assert size + max(lengths[following[0]], 1) > min(budget, max(sum(sizes), MIN_BATCH_TOKENS))


@given(st.lists(st.integers(1, 100), min_size=40, max_size=200), st.integers(2, 4), st.booleans())
def test_each_parallel_forward_gets_work(lengths: list[int], parallel: int, padded: bool) -> None:
    batches = pack(lengths, 1_000_000, parallel, padded=padded)
    assert len(batches) >= min(parallel, sum(lengths) // max(MIN_BATCH_TOKENS, 1))


@given(st.lists(st.integers(10, 50), min_size=100, max_size=400), st.integers(2, 4))
def test_parallel_forwards_end_together(lengths: list[int], parallel: int) -> None:
    sizes = [sum(lengths[index] for index in batch) for batch in pack(lengths, 1024, parallel, padded=False)]
    rounds = -(-len(sizes) // parallel)
    # A cut falls between two sequences, so each round may be longer than an equal share by one of them.
    assert rounds * max(sizes) <= sum(lengths) / parallel + rounds * max(lengths)


@given(st.integers(2, 50))
def test_halves_lose_nothing(count: int) -> None:
    left, right = halves(np.arange(count))
    assert len(left) > 0
    assert len(right) > 0
    assert [*left, *right] == list(range(count))


IDS = st.lists(st.integers(1, 30_000), max_size=20).map(lambda ids: np.array(ids, dtype=np.int32))


@given(st.lists(IDS, min_size=1, max_size=12), IDS, IDS.filter(len), st.integers(1, 17), st.integers(0, 40))
def test_padding_can_be_undone(sequences: list[Ids], before: Ids, after: Ids, step: int, limit: int) -> None:
    ids, mask = pad(sequences, -1, SpecialTokens(before, after, 0), step=step, limit=limit)
    assert ids.shape == mask.shape
    longest = max(map(len, sequences)) + len(before) + len(after)
    stepped = next(length for length in range(longest, longest + step) if length % step == 0)
    assert ids.shape[1] == (stepped if stepped <= limit else longest)
    for row, on, sequence in zip(ids, mask, sequences, strict=True):
        assert row[on == 1].tolist() == [*before, *sequence, *after]
        assert (row[on == 0] == -1).all()
        assert (np.diff(on) <= 0).all()


@given(st.lists(IDS, min_size=1, max_size=12), IDS, IDS.filter(len), st.integers(0, 3))
def test_a_flat_batch_holds_each_sequence_once_with_its_own_positions(
    sequences: list[Ids], before: Ids, after: Ids, first: int
) -> None:
    row = concatenate_sequences(sequences, SpecialTokens(before, after, 0), first)
    assert len(row.ids) == len(row.positions) == len(row.owners) == row.offsets[-1]
    for owner, (start, end, sequence) in enumerate(zip(row.offsets, row.offsets[1:], sequences, strict=False)):
        assert row.ids[start:end].tolist() == [*before, *sequence, *after]
        assert row.positions[start:end].tolist() == list(range(first, first + end - start))
        assert (row.owners[start:end] == owner).all()
    assert len(row.offsets) == len(sequences) + 1
