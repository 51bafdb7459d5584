"""Where batches are cut makes no difference to what is stored: versions, records without one, and deletes mixed."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import fold
from pipeline.records import Delete, Put
from pipeline.store.writing.protocol.decisions import Decision, Entry, advanced, decide, final
from tests.support.documents import delete, put
from tests.support.examples import examples

operations = st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 4)), max_size=8).map(
    lambda script: [
        delete("a", offset, version=version) if gone else put("a", "x", offset, version=version)
        for offset, (gone, version) in enumerate(script)
    ]
)


def store(entry: Entry | None, batch: Sequence[Put | Delete]) -> Entry | None:
    for operation in fold(batch).operations:
        decision = decide(entry, operation, None, "model")
        if decision in (Decision.ADVANCE, Decision.RANK) and entry is not None:
            entry = advanced(entry, operation)._replace(written_at=None)
        elif decision is Decision.WRITE:
            entry = final(operation, None, {}, "model", entry)
    return entry


@examples(10)
@given(operations, st.sets(st.integers(0, 8), max_size=2))
def test_batches_of_any_size_leave_what_single_records_leave(given_: list[Put | Delete], cuts: set[int]) -> None:
    alone: Entry | None = None
    for operation in given_:
        alone = store(alone, [operation])
    batched: Entry | None = None
    for start, end in pairwise(sorted({0, len(given_), *(cut for cut in cuts if cut < len(given_))})):
        batched = store(batched, given_[start:end])
    assert batched == alone


@given(operations, st.integers(0, 8), st.integers(1, 8))
def test_reading_again_from_anywhere_to_the_end_changes_nothing(
    given_: list[Put | Delete], start: int, size: int
) -> None:
    stored: Entry | None = None
    for operation in given_:
        stored = store(stored, [operation])
    again = stored
    for first in range(start, len(given_), size):
        again = store(again, given_[first : min(first + size, len(given_))])
    assert again == stored
