"""The sweep of old deletes: bounded, only of what a worker owns, never of anything else."""

import time
from dataclasses import replace

import pytest

from pipeline.errors import Unavailable
from pipeline.records import Position
from pipeline.store.collection.schema import ledger_spec
from pipeline.store.writing.ledger.ledger_rows import entry_row
from pipeline.store.writing.ledger.tombstone_cleanup import SweepPolicy, TombstoneSweep
from pipeline.store.writing.protocol.decisions import Entry, final
from tests.support.documents import DAY_MS, NOON_MS, delete, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, make_store, write

DAY_S = 86_400.0
OWNED = [("documents", 0), ("documents", 2)]


class Swept:
    """A sweep over a ledger in memory, at a time that only the test moves."""

    def __init__(self, *entries: Entry, rows: int = 500) -> None:
        self.now = 0.0
        self.milvus = FakeMilvus()
        self.milvus.create_collection(ledger_spec("docs"))
        self.milvus.upsert("docs__ledger", None, [entry_row(entry) for entry in entries])
        self.sweep = TombstoneSweep(
            self.milvus,
            "docs",
            SweepPolicy(retention_s=7 * DAY_S, rows=rows),
            clock=lambda: self.now,
            wall_clock=lambda: NOON_MS / 1000,
        )

    def left(self) -> set[str]:
        return {row["doc_id"] for row in self.milvus.stored("docs__ledger")["_default"].values()}


def deleted(doc_id: str, *, days_ago: float, topic: str = "documents", partition: int = 0) -> Entry:
    entry = final(delete(doc_id, 5), None, {}, "model")
    record_time = int(NOON_MS - days_ago * DAY_S * 1000)
    return entry._replace(record_time=record_time, written_ms=record_time, position=Position(topic, partition, 5))


def test_what_was_deleted_longer_ago_goes_and_nothing_else() -> None:
    old = deleted("old", days_ago=7.01)
    swept = Swept(
        old,
        deleted("old too", days_ago=300, partition=2),
        deleted("young", days_ago=6.99),
        deleted("of another worker", days_ago=300, partition=1),
        deleted("of another topic", days_ago=300, topic="other"),
        old._replace(doc_id="begun", pending=True),
        old._replace(doc_id="alive", state="live"),
    )
    assert swept.sweep.step(OWNED) == 2
    assert swept.left() == {"young", "of another worker", "of another topic", "begun", "alive"}


def test_a_step_is_bounded_and_the_next_one_follows_soon() -> None:
    swept = Swept(*[deleted(f"d{number}", days_ago=9) for number in range(25)], rows=10)
    sizes = []
    for _ in range(3):
        swept.now += 3.0
        sizes.append(swept.sweep.step(OWNED) if swept.sweep.due else -1)
    assert sizes == [10, 10, 5]
    times = []
    for _ in range(2):
        swept.now += 1801.0
        times.append(swept.sweep.due)
    assert times == [False, True]


@pytest.mark.parametrize("operation", ["query", "delete"])
def test_an_outage_postpones_it(operation: str) -> None:
    swept = Swept(deleted("old", days_ago=9))
    swept.milvus.fail_next(operation, Unavailable("away"))
    assert swept.sweep.step(OWNED) == 0
    assert swept.left() == {"old"}
    assert swept.sweep.step(OWNED) == 1


def test_who_owns_nothing_sweeps_nothing() -> None:
    swept = Swept(deleted("old", days_ago=9))
    assert swept.sweep.step([]) == 0
    assert swept.left() == {"old"}


def sweep_of(store: Store, now_ms: int = NOON_MS) -> TombstoneSweep:
    return TombstoneSweep(store.api, "docs", SweepPolicy(retention_s=7 * DAY_S), wall_clock=lambda: now_ms / 1000)


def test_a_delete_from_an_old_topic_is_kept_from_when_it_was_written_on() -> None:
    store = make_store(FakeMilvus(), "docs")
    old = replace(delete("d", 5, version=10), timestamp_ms=NOON_MS - 8 * DAY_MS)
    write(store.upsert_writer(), [put("d", "v8", 4, version=8)])
    write(store.upsert_writer(), [old])
    assert sweep_of(store, int(time.time() * 1000)).step(OWNED) == 0
    assert store.upsert_writer().plan([put("d", "v9", 6, version=9)]).stale == 1
    assert store.rows() == {}
    assert sweep_of(store, int(time.time() * 1000) + 8 * DAY_MS).step(OWNED) == 1


def test_a_delete_of_an_earlier_version_without_a_time_is_kept_from_the_first_sweep_on() -> None:
    swept = Swept(deleted("d", days_ago=300)._replace(written_ms=0))
    assert swept.sweep.step(OWNED) == 0
    assert swept.left() == {"d"}
    later = TombstoneSweep(
        swept.milvus, "docs", SweepPolicy(7 * DAY_S), wall_clock=lambda: NOON_MS / 1000 + 7 * DAY_S + 1
    )
    assert later.step(OWNED) == 1


@pytest.mark.parametrize("read", [1, 2])
def test_a_document_that_another_worker_stores_during_the_sweep_keeps_its_ledger_row(read: int) -> None:
    fake = FakeMilvus()
    store = make_store(fake, "docs")
    long_ago = deleted("d", days_ago=8)._replace(written_ms=NOON_MS - 8 * DAY_MS)
    fake.upsert("docs__ledger", None, [entry_row(long_ago)])
    reads = 0

    def hook(operation: str, collection: str, when: str) -> None:
        nonlocal reads
        if (operation, collection, when) == ("query", "docs__ledger", "before"):
            reads += 1
            if reads == read:
                fake.hook = None
                write(store.upsert_writer(), [put("d", "back again", 1, partition=1)])

    fake.hook = hook
    assert sweep_of(store).step(OWNED) == 0
    assert reads == read
    write(store.upsert_writer(), [put("d", "moved", 2, partition=1, day=1)])
    assert store.rows() == {"d20261123": {("d", 0): "moved"}}
