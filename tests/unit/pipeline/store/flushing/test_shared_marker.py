"""The marks by which workers announce their flushes."""

from collections.abc import Sequence
from typing import Any

import pytest

from consumers.cli.inventory import live_documents
from pipeline.errors import OutcomeUnknown, Unavailable
from pipeline.records import Position, Receipt
from pipeline.store.collection.schema import ledger_spec
from pipeline.store.flushing.shared_marker import MARKER_STATE, FlushMarker, Mark, PendingOnPeer
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store

RECEIPT = Receipt([Position("t", 0, 1)])
LATER = Receipt([Position("t", 0, 2)])
DAY_S = 86_400.0


class Clock:
    now = 1e9


@pytest.fixture
def milvus() -> FakeMilvus:
    made = FakeMilvus()
    made.create_collection(ledger_spec("docs"))
    return made


def flush(marker: FlushMarker) -> Mark:
    marker.begin()
    return marker.advance()


def ids(milvus: FakeMilvus) -> set[str]:
    return set(milvus.stored("docs__ledger")["_default"])


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
    first, second, reader = (FlushMarker(milvus, "docs") for _ in range(3))
    assert reader.read() == {}
    announced = [flush(marker) for marker in (first, second, first)]
    assert [mark.count for mark in announced] == [1, 1, 2]
    assert reader.read() == {announced[0].flusher: 2, announced[1].flusher: 1}


def test_no_mark_is_written_twice_and_only_the_last_is_kept(milvus: FakeMilvus) -> None:
    marker, seen = FlushMarker(milvus, "docs"), set[str]()
    for _ in range(4):
        flush(marker)
        (there,) = ids(milvus)
        assert there not in seen
        seen.add(there)


@pytest.mark.parametrize("applied", [True, False])
def test_after_an_unknown_outcome_another_flusher_counts(milvus: FakeMilvus, applied: bool) -> None:
    marker = FlushMarker(milvus, "docs")
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
    marker = FlushMarker(milvus, "docs")
    flush(marker)
    (older,) = milvus.stored("docs__ledger")["_default"].values()
    before = flush(marker)
    if lost == "unknown":
        milvus.fail_next("query", Unavailable("away"))
    else:
        milvus.delete("docs__ledger", None, list(ids(milvus)))
    if lost == "the last mark":
        milvus.upsert("docs__ledger", None, [older])
    after = flush(marker)
    assert after.flusher != before.flusher
    assert after.count == 1


def test_a_mark_that_could_not_be_deleted_goes_after_a_day(milvus: FakeMilvus) -> None:
    clock = Clock()
    gone, marker = (FlushMarker(milvus, "docs", lambda: clock.now) for _ in range(2))
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
    assert len(ids(milvus)) == 1


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
    milvus.create_collection(ledger_spec("docs"))
    marker = FlushMarker(milvus, "docs")
    mark = flush(marker)
    milvus.hidden = hidden
    if readable:
        assert marker.read() == {mark.flusher: 1}
    else:
        with pytest.raises(Unavailable, match="1 marks"):
            marker.read()


def test_a_mark_is_no_document(milvus: FakeMilvus) -> None:
    flush(FlushMarker(milvus, "docs"))
    assert [row["state"] for row in milvus.stored("docs__ledger")["_default"].values()] == [MARKER_STATE]
    assert live_documents(milvus, "docs") == 0
    assert Store(milvus, "docs").ledger_entries() == []
