"""Several workers' flush governors over one Milvus: one flushes, the others learn of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.backoff import Backoff
from pipeline.errors import Unavailable
from pipeline.records import Finished, Position, Receipt
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.marks import Marks
from pipeline.store.collection.schema import documents_spec, ledger_spec, marks_spec
from pipeline.store.flushing.flusher import Flusher
from pipeline.store.flushing.governor import FlushGovernor
from pipeline.store.flushing.policy import FlushPolicy
from pipeline.store.flushing.shared_marker import FlushMarker
from tests.support.fakes.milvus import FakeMilvus
from tests.support.waiting import eventually


def receipt_of(finished: Finished) -> Receipt:
    assert isinstance(finished, Receipt)
    return finished


class Connection:
    """One worker's connection: counts its own flushes, and may be cut."""

    def __init__(self, milvus: FakeMilvus) -> None:
        self.milvus = milvus
        self.flushes = 0
        self.refused = False

    def flush(self, collection: str) -> None:
        if self.refused:
            raise Unavailable("rate limit")
        self.flushes += 1
        self.milvus.flush(collection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.milvus, name)


class Worker:
    """A governor as a worker has it."""

    def __init__(self, milvus: FakeMilvus, *, leads: bool, interval_s: float) -> None:
        self.api = Connection(milvus)
        self.leads = leads
        self.durable: list[int] = []
        self._acked = 0
        flusher = Flusher(
            self.api,
            ["docs", "docs__ledger", "docs__marks"],
            FlushPolicy("flush", interval_s, None, Backoff(first_s=0.01, cap_s=30.0)),
            self._settle,
            marker=FlushMarker(Marks(self.api, "docs")),
            leads=lambda: self.leads,
        )
        self.governor = FlushGovernor(flusher)

    def ack(self) -> int:
        self._acked += 1
        self.governor.acked(Receipt([Position("t", 0, self._acked)]), 1)
        return self._acked

    def _settle(self, receipts: Sequence[Finished]) -> None:
        self.durable += [position.offset for one in receipts for position in receipt_of(one).positions]


@contextmanager
def workers(*leads: bool, interval_s: float = 0.2) -> Iterator[list[Worker]]:
    milvus = FakeMilvus()
    index = IndexSettings("FLAT")
    milvus.create_collection(documents_spec("docs", dimension=2, index=index, stamp={}, bm25=False))
    milvus.create_collection(ledger_spec("docs"))
    milvus.create_collection(marks_spec("docs"))
    made = [Worker(milvus, leads=each, interval_s=interval_s) for each in leads]
    for worker in made:
        worker.governor.start()
    yield made
    for worker in made:
        worker.governor.close(0)
        worker.governor.check()


def test_the_leader_flushes_and_the_others_take_their_receipts_from_the_marker() -> None:
    with workers(True, False, False, interval_s=0.4) as (leader, *others):
        for _ in range(3):
            numbers = [worker.ack() for worker in (leader, *others)]

            def all_durable(numbers: list[int] = numbers) -> bool:
                leader.ack()  # it has something to flush all the time
                return all(n in each.durable for n, each in zip(numbers, (leader, *others), strict=True))

            eventually(all_durable, every=0.1)
        assert leader.api.flushes >= 6
        assert [worker.api.flushes for worker in others] == [0, 0]


def test_who_has_to_finish_flushes_without_the_leader() -> None:
    with workers(True, False, interval_s=3600) as (leader, follower):
        number = follower.ack()
        follower.governor.request()
        eventually(lambda: number in follower.durable)
        assert (leader.api.flushes, follower.api.flushes) == (0, 3)


@pytest.mark.parametrize("trouble", ["idle", "refused", "nobody"])
def test_a_leader_that_announces_nothing_is_not_waited_for(trouble: str) -> None:
    with workers(trouble != "nobody", False, interval_s=0.1) as (leader, follower):
        if trouble == "refused":
            leader.api.refused = True
            leader.ack()
        number = follower.ack()
        eventually(lambda: number in follower.durable)
        assert leader.api.flushes == 0


def test_a_worker_that_becomes_the_leader_flushes_what_it_was_waiting_for() -> None:
    with workers(True, False, interval_s=1.0) as (leader, follower):
        number = follower.ack()
        eventually(lambda: follower.governor.pending() == 1 and follower.api.flushes == 0)
        leader.leads, follower.leads = False, True
        eventually(lambda: number in follower.durable)
        assert follower.api.flushes == 3


def test_a_marker_that_cannot_be_read_loses_no_receipt() -> None:
    with workers(False, interval_s=0.1) as (follower,):
        follower.api.milvus.fail_next("query", Unavailable("away"))
        number = follower.ack()
        eventually(lambda: number in follower.durable)
