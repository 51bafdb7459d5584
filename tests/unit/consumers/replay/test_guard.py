"""The guard of the live collection, on a Milvus in memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumers.kafka import LeaseClock, LiveGroup
from consumers.kafka.groups.live_group import QUIET_S
from consumers.replay import GuardedWriter
from pipeline.errors import LeaseExpired, MilvusStreamError, Unavailable, UsageError
from pipeline.store import Change, WritePolicy
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.protocol.decisions import intent
from tests.support.documents import delete, embed_all, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.worker import Connection
from tests.support.stores import Store, make_store, write


@pytest.fixture
def fake() -> FakeMilvus:
    return FakeMilvus()


@pytest.fixture
def store(fake: FakeMilvus) -> Store:
    return make_store(fake, "docs")


class Clock(LeaseClock):
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        super().__init__(lambda: self.seconds, lambda: self.seconds)


def _guarded(
    store: Store, active: Callable[[], bool], *, fingerprint: str = "model", clock: LeaseClock | None = None
) -> GuardedWriter:
    writer = store.upsert_writer(fingerprint=fingerprint)
    guarded = GuardedWriter(writer, lambda _: _ledger(store), LiveGroup(active, clock), pause_s=0)
    store.api.fence(guarded.left_s)
    return guarded


def _of_the_job(store: Store) -> Store:
    """The same collection over a connection of the job's own, which alone has its fence."""
    assert isinstance(store.api, FakeMilvus)
    connection: Any = Connection(store.api)
    return Store(connection, store.name)


def _ledger(store: Store) -> Ledger:
    return Ledger(store.api, store.name, WritePolicy())


def _set_pending(store: Store, doc_id: str) -> None:
    """As a live worker leaves it between intent and final row."""
    ledger = _ledger(store)
    key = (None, doc_id)
    entry = ledger.read([key])[key][0]
    ledger.cache({key: (entry, False)})
    begun = intent(entry, put(doc_id, "newer text", 9), {"d20261122": 2})
    assert begun is not None
    ledger.write([begun])


def test_what_is_stored_stays_as_it_is_beside_live_workers(fake: FakeMilvus, store: Store) -> None:
    write(store.upsert_writer(), [put("a", "old", 1), put("b", "x y", 2), put("gone", "z", 3)])
    write(store.upsert_writer(), [put("a", "new", 4), delete("gone", 5)])
    before, ledger = store.rows(), store.ledger()
    guarded = _guarded(store, lambda: True)
    plan = guarded.plan([put("a", "old", 1), put("b", "x y", 2), put("gone", "z", 3)])
    assert (plan.unchanged, plan.stale, list(plan.in_flight)) == (1, 2, [])
    assert guarded.apply(plan, []).rows_written == 0
    assert (store.rows(), store.ledger()) == (before, ledger)


def test_a_document_that_a_live_worker_is_writing_is_left_to_it(store: Store) -> None:
    write(store.upsert_writer(), [put("a", "text", 1)])
    _set_pending(store, "a")
    plan = _guarded(store, lambda: True).plan([put("a", "text", 1)])
    assert (plan.unchanged, list(plan.in_flight)) == (1, [])


def test_a_pending_document_that_nobody_writes_is_repaired(store: Store) -> None:
    write(store.upsert_writer(), [put("a", "text", 1)])
    _set_pending(store, "a")
    write(_guarded(store, lambda: False), [put("a", "text", 1)])
    assert store.ledger()["a"].pending is False
    assert store.rows() == {"d20261122": {("a", 0): "text"}}


def test_a_change_beside_live_workers_ends_the_replay_before_anything_is_written(store: Store) -> None:
    write(store.upsert_writer(), [put("a", "text", 1)])
    before, ledger = store.rows(), store.ledger()
    guarded = _guarded(store, lambda: True, fingerprint="other chunking")
    with pytest.raises(UsageError, match=r"documents/0/1: .* Stop the workers and start this replay again"):
        guarded.plan([put("a", "text", 1)])
    assert (store.rows(), store.ledger()) == (before, ledger)
    write(_guarded(store, lambda: False, fingerprint="other chunking"), [put("a", "text", 1)])
    assert store.ledger()["a"].fingerprint == "other chunking"


def test_workers_started_between_plan_and_write_end_the_replay(store: Store) -> None:
    active = False
    guarded = _guarded(store, lambda: active)
    plan = guarded.plan([put("a", "text", 1)])
    active = True
    with pytest.raises(UsageError, match="Stop the workers"):
        guarded.apply(plan, [])
    assert store.rows() == {}


def test_a_document_that_a_worker_begins_between_the_read_and_the_plan_is_left_to_it(store: Store) -> None:
    write(store.upsert_writer(), [put("a", "text", 1)])
    reads = 0

    def open_ledger(strong: bool) -> Ledger:
        nonlocal reads
        reads += 1
        assert strong == (reads > 1), "what would be written is read again, strongly"
        ledger = _ledger(store)
        if reads == 1:
            ledger.read([(None, "a")])
            ledger.cache(ledger.read([(None, "a")]))  # answers from memory from now on
            _set_pending(store, "a")
        return ledger

    guarded = GuardedWriter(store.upsert_writer(), open_ledger, LiveGroup(lambda: True), pause_s=0)
    plan = guarded.plan([put("a", "text", 1)])
    assert reads == 2
    assert (plan.unchanged, list(plan.in_flight)) == (1, [])


class _Group:
    """The live group: its workers come and go at the calls of the job that the test names."""

    def __init__(self, store: Store) -> None:
        self.active = False
        self._store = store

    def work(self, *changes: Change) -> None:
        """Start a worker that writes these changes."""
        self.active = True
        write(self._store.upsert_writer(), list(changes))


def test_workers_started_while_a_batch_is_embedded_keep_what_they_wrote(store: Store) -> None:
    group = _Group(store)
    guarded = _guarded(_of_the_job(store), lambda: group.active)
    older = put("a", "one", 1)
    plan = guarded.plan([older])
    group.work(put("a", "two", 2))
    with pytest.raises(UsageError, match="Stop the workers"):
        guarded.apply(plan, embed_all([older]))
    assert store.rows() == {"d20261122": {("a", 0): "two"}}


def test_workers_that_started_and_ended_while_a_batch_was_embedded_keep_what_they_wrote(store: Store) -> None:
    group, clock = _Group(store), Clock()
    guarded = _guarded(_of_the_job(store), lambda: group.active, clock=clock)
    older = put("a", "one", 1)
    plan = guarded.plan([older])
    clock.seconds += QUIET_S + 1  # they wait so long before they begin, and nothing was asked in between
    group.work(put("a", "two", 2))
    group.active = False
    with pytest.raises(MilvusStreamError, match="they may have changed documents") as ended:
        guarded.apply(plan, embed_all([older]))
    assert ended.value.exit_code == 1, "a Kubernetes Job starts it again"
    with pytest.raises(MilvusStreamError, match="start this replay again"):
        guarded.plan([put("b", "three", 3)])
    assert store.rows() == {"d20261122": {("a", 0): "two"}}


def test_every_request_of_a_batch_looks_for_workers(store: Store) -> None:
    questions = 0

    def started_after(count: int) -> bool:
        nonlocal questions
        questions += 1
        return questions > count

    document = put("a", "one", 1)
    guarded = _guarded(_of_the_job(store), lambda: started_after(10))
    write(guarded, [document])
    assert questions == 5, "for the plan, for the batch, and for each of intent, rows and final ledger row"
    for asked, rows, pending in ((2, {}, None), (3, {}, True), (4, {"d20261122": {("a", 0): "one"}}, True)):
        fake = FakeMilvus()
        store, questions = make_store(fake, "docs"), 0
        guarded = _guarded(_of_the_job(store), lambda count=asked: started_after(count))  # type: ignore[misc]
        plan = guarded.plan([document])
        with pytest.raises(LeaseExpired, match="ingest workers have been started"):
            guarded.apply(plan, embed_all([document]))
        assert store.rows() == rows
        assert [entry.pending for entry in store.ledger_entries()] == ([] if pending is None else [pending])
        with pytest.raises(UsageError, match="Stop the workers"):
            guarded.apply(plan, embed_all([document]))


def test_a_replay_that_begins_to_change_documents_after_the_workers_have_ended_reads_them_again(store: Store) -> None:
    group = _Group(store)
    guarded = _guarded(_of_the_job(store), lambda: group.active)
    group.work(put("a", "one", 1))
    assert guarded.plan([put("a", "one", 1)]).unchanged == 1
    group.work(put("a", "two", 2))
    group.active = False
    assert guarded.plan([put("a", "one", 1)]).stale == 1
    write(guarded, [put("b", "three", 3)])
    assert store.rows()["d20261122"] == {("a", 0): "two", ("b", 0): "three"}


def test_of_two_kafka_partitions_the_later_timestamp_is_newer(store: Store) -> None:
    write(store.upsert_writer(), [put("moved", "newer", 5, partition=1)])
    guarded = _guarded(store, lambda: False)
    assert guarded.plan([put("moved", "older", 3, partition=0)]).stale == 1
    plan = guarded.plan([put("moved", "newest", 6, partition=0)])
    assert (plan.stale, len(plan.to_embed)) == (0, 1)


def test_a_null_value_from_before_the_stored_version_deletes_nothing(store: Store) -> None:
    write(store.upsert_writer(), [delete("d", 10)])
    write(store.upsert_writer(), [put("d", "version seven", 20, version=7)])
    before, ledger = store.rows(), store.ledger()
    assert _guarded(store, lambda: False).plan([delete("d", 10)]).stale == 1
    assert _guarded(store, lambda: False).plan([put("d", "version nine", 5, version=9)]).stale == 1
    write(_guarded(store, lambda: False), [put("d", "version nine", 5, version=9), put("e", "x", 21)])
    assert (store.rows()["d20261122"]["d", 0], store.ledger()["d"]) == (before["d20261122"]["d", 0], ledger["d"])


def test_a_record_that_has_a_version_by_now_does_not_replace_a_later_one_without(store: Store) -> None:
    write(store.upsert_writer(), [put("d", "old text", 5)])
    write(store.upsert_writer(), [put("d", "new text", 20)])
    assert _guarded(store, lambda: True).plan([put("d", "old text", 5, version=1)]).stale == 1
    write(_guarded(store, lambda: False), [put("d", "old text", 5, version=1)])
    assert store.rows() == {"d20261122": {("d", 0): "new", ("d", 1): "text"}}


def test_of_equal_timestamps_in_two_kafka_partitions_the_stored_one_stays(store: Store) -> None:
    stored = put("d", "stored", 5, partition=1)
    write(store.upsert_writer(), [stored])
    again = replace(put("d", "read again", 3), timestamp_ms=stored.timestamp_ms)
    assert _guarded(store, lambda: False).plan([again]).stale == 1
    assert store.upsert_writer().plan([again]).by_arrival == 1


def test_an_outage_while_reading_is_an_outage(fake: FakeMilvus, store: Store) -> None:
    def away() -> bool:
        raise Unavailable("no broker")

    with pytest.raises(Unavailable):
        _guarded(store, away).plan([put("a", "text", 1)])
    assert store.rows() == {}
