"""The marks by which workers announce their flushes."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.errors import OutcomeUnknown, Unavailable
from pipeline.records import Position, Receipt
from pipeline.store.collection.marks import Marks
from pipeline.store.collection.schema import marks_spec
from pipeline.store.flushing.shared_marker import FlushMark, FlushMarker, PendingOnPeer
from tests.support.fakes.milvus import FakeMilvus

RECEIPT = Receipt([Position("t", 0, 1)])
LATER = Receipt([Position("t", 0, 2)])
DAY_S = 86_400.0


class Clock:
    now = 1e9


@pytest.fixture
def milvus() -> FakeMilvus:
    made = FakeMilvus()
    made.create_collection(marks_spec("docs"))
    return made


def marker_of(milvus: FakeMilvus, wall_clock: Callable[[], float] = time.time) -> FlushMarker:
    return FlushMarker(Marks(milvus, "docs", wall_clock), wall_clock)


def flush(marker: FlushMarker) -> FlushMark:
    marker.begin()
    return marker.advance()


def ids(milvus: FakeMilvus) -> set[str]:
    return set(milvus.stored("docs__marks")["_default"])


# --- what may be concluded -----------------------------------------------------------------------------------------


def test_a_flush_that_may_have_begun_before_the_ack_is_not_enough() -> None:
    pending = PendingOnPeer()
    assert pending.observe({"a": 5}, [RECEIPT]) == []
    assert pending.observe({"a": 6}, [LATER]) == []
    assert len(pending) == 2
    assert pending.observe({"a": 7}, []) == [RECEIPT]
    assert pending.observe({"a": 8}, []) == [LATER]
    assert len(pending) == 0


def test_a_flusher_that_is_seen_first_after_the_ack_counts_from_there() -> None:
    pending = PendingOnPeer()
    assert pending.observe({}, [RECEIPT]) == []
    assert pending.observe({"a": 12}, []) == []
    assert pending.observe({"a": 13}, []) == []
    assert pending.observe({"a": 14}, []) == [RECEIPT]


def test_flushers_that_overlap_do_not_add_up_and_do_not_disturb_each_other() -> None:
    pending = PendingOnPeer()
    assert pending.observe({"a": 1, "b": 1}, [RECEIPT]) == []
    assert pending.observe({"a": 2, "b": 2}, []) == []
    assert pending.observe({"b": 2}, []) == []
    assert pending.observe({"b": 2, "c": 1}, []) == []
    assert pending.observe({"b": 3, "c": 1}, []) == [RECEIPT]


def test_a_flush_of_its_own_settles_all_that_waits() -> None:
    pending = PendingOnPeer()
    pending.observe({"a": 5}, [RECEIPT])
    pending.observe({"a": 6}, [LATER])
    assert pending.take() == [RECEIPT, LATER]
    assert pending.take() == []


# --- what is announced ---------------------------------------------------------------------------------------------


def test_each_flusher_is_counted_by_itself(milvus: FakeMilvus) -> None:
    first, second, reader = (marker_of(milvus) for _ in range(3))
    assert reader.read() == {}
    announced = [flush(marker) for marker in (first, second, first)]
    assert [mark.count for mark in announced] == [1, 1, 2]
    assert reader.read() == {announced[0].flusher: 2, announced[1].flusher: 1}


def test_no_mark_is_written_twice_and_only_the_last_two_are_kept(milvus: FakeMilvus) -> None:
    marker, seen = marker_of(milvus), list[str]()
    for _ in range(4):
        flush(marker)
        (new,) = ids(milvus) - set(seen)
        seen.append(new)
        assert ids(milvus) == set(seen[-2:])


@pytest.mark.parametrize("applied", [True, False])
def test_after_an_unknown_outcome_another_flusher_counts(milvus: FakeMilvus, applied: bool) -> None:
    marker = marker_of(milvus)
    before = flush(marker)
    marker.begin()
    milvus.fail_next("upsert", OutcomeUnknown("no answer"), applied=applied)
    with pytest.raises(OutcomeUnknown):
        marker.advance()
    after = flush(marker)
    assert after.flusher != before.flusher
    assert after.count == 1


@pytest.mark.parametrize("lost", ["the last mark", "all marks", "unknown"])
def test_the_count_goes_on_only_from_what_the_server_has(milvus: FakeMilvus, lost: str) -> None:
    marker = marker_of(milvus)
    flush(marker)
    (older,) = milvus.stored("docs__marks")["_default"].values()
    before = flush(marker)
    if lost == "unknown":
        milvus.fail_next("query", Unavailable("away"))
    else:
        milvus.delete("docs__marks", None, list(ids(milvus)))
    if lost == "the last mark":
        milvus.upsert("docs__marks", None, [older])
    after = flush(marker)
    assert after.flusher != before.flusher
    assert after.count == 1


def test_a_mark_that_could_not_be_deleted_goes_after_a_day(milvus: FakeMilvus) -> None:
    clock = Clock()
    gone, marker = (marker_of(milvus, lambda: clock.now) for _ in range(2))
    flush(gone)
    (old,) = ids(milvus)
    clock.now += DAY_S / 2
    flush(marker)
    assert old in ids(milvus)
    clock.now += DAY_S / 2 + 1
    milvus.fail_next("delete", Unavailable("away"))
    flush(marker)
    assert old in ids(milvus)
    flush(marker)
    assert old not in ids(milvus)
    assert len(ids(milvus)) == 2


class Hiding(FakeMilvus):
    """Milvus 2.3.5 with a repeated id: a count is higher than the number of rows answered."""

    hidden = 0

    def query(self, collection: str, expression: str, fields: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        rows = super().query(collection, expression, fields, **options)
        if fields == ["count(*)"] or self.hidden == 0:
            return rows
        self.hidden -= 1
        return rows[1:]


@pytest.mark.parametrize(("hidden", "readable"), [(1, True), (2, True), (3, False)])
def test_an_answer_with_less_rows_than_there_are_is_not_believed(hidden: int, readable: bool) -> None:
    milvus = Hiding()
    milvus.create_collection(marks_spec("docs"))
    marker = marker_of(milvus)
    mark = flush(marker)
    milvus.hidden = hidden
    if readable:
        assert marker.read() == {mark.flusher: 1}
    else:
        with pytest.raises(Unavailable, match="1 marks"):
            marker.read()
