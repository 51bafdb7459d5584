"""The sweep of old deletes: bounded, only of what a worker owns, never of anything else."""

from dataclasses import replace

import pytest

from pipeline.errors import Unavailable
from pipeline.records import Position
from pipeline.store.collection.schema import ledger_spec
from pipeline.store.writing.ledger_rows import entry_row
from pipeline.store.writing.protocol import Entry, final
from pipeline.store.writing.tombstone_cleanup import SweepPolicy, TombstoneSweep
from tests.support.documents import NOON_MS, delete
from tests.support.fakes.milvus import FakeMilvus

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
    return replace(entry, record_time=record_time, position=Position(topic, partition, 5))


def test_what_was_deleted_longer_ago_goes_and_nothing_else() -> None:
    old = deleted("old", days_ago=7.01)
    swept = Swept(
        old,
        deleted("old too", days_ago=300, partition=2),
        deleted("young", days_ago=6.99),
        deleted("of another worker", days_ago=300, partition=1),
        deleted("of another topic", days_ago=300, topic="other"),
        replace(old, doc_id="begun", pending=True),
        replace(old, doc_id="alive", state="live"),
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
