"""The thread that flushes: what becomes durable, and when."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import pytest

from pipeline.backoff import Backoff
from pipeline.errors import NotFound, OutcomeUnknown, RateLimited, Unavailable
from pipeline.records import Finished, Position, Receipt
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec, ledger_spec
from pipeline.store.flushing.flusher import Flusher
from pipeline.store.flushing.governor import FlushGovernor
from pipeline.store.flushing.policy import FlushPolicy
from pipeline.store.flushing.states import Flushing
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus
from tests.support.waiting import eventually

NEW = ServerInfo("2.6.7", (2, 6, 7), lite=False)


def receipt(offset: int) -> Receipt:
    return Receipt([Position("t", 0, offset)])


def receipt_of(finished: Finished) -> Receipt:
    assert isinstance(finished, Receipt)
    return finished


class Governed:
    """A governor over two collections of a fake, and what it called durable."""

    def __init__(
        self,
        durability: Literal["flush", "ack"] = "flush",
        interval_s: float = 3600.0,
        rows: int | None = None,
        server: ServerInfo | None = None,
    ) -> None:
        self.api = FakeMilvus(server=server)
        index = IndexSettings("FLAT")
        self.api.create_collection(documents_spec("docs", dimension=2, index=index, stamp={}, bm25=False))
        self.api.create_collection(ledger_spec("docs"))
        self.durable: list[int] = []
        self.durable_threads: list[str] = []
        policy = FlushPolicy(durability, interval_s, rows, Backoff(first_s=0.01, cap_s=30.0))
        self.flusher = Flusher(self.api, ["docs", "docs__ledger"], policy, self._on_durable)
        self.governor = FlushGovernor(self.flusher)

    def _on_durable(self, receipts: Sequence[Finished]) -> None:
        self.durable_threads.append(threading.current_thread().name)
        self.durable += [position.offset for one in receipts for position in receipt_of(one).positions]

    def flushed(self) -> list[str]:
        return [collection for operation, collection, _ in self.api.calls if operation == "flush"]


@contextmanager
def running(governed: Governed) -> Iterator[Governed]:
    governed.governor.start()
    yield governed
    governed.api.gate.set()
    governed.governor.close(0)


def test_a_receipt_is_durable_after_a_flush_of_every_collection() -> None:
    with running(Governed(interval_s=0.05)) as governed:
        governed.governor.acked(receipt(1), rows=1)
        eventually(lambda: governed.durable == [1])
        assert set(governed.flushed()) == {"docs", "docs__ledger"}
        assert governed.governor.pending() == 0
        assert governed.durable_threads == ["flush"]


def test_without_a_request_the_interval_is_kept() -> None:
    with running(Governed(interval_s=3600.0)) as governed:
        governed.governor.acked(receipt(1), rows=10**6)
        governed.governor.close(0)
        assert governed.flushed() == []
        assert governed.governor.pending() == 1


def test_a_request_and_enough_rows_do_not_wait() -> None:
    with running(Governed(rows=100)) as governed:
        governed.governor.acked(receipt(1), rows=1)
        governed.governor.request()
        eventually(lambda: governed.durable == [1])
        governed.governor.acked(receipt(2), rows=60)
        governed.governor.acked(receipt(3), rows=60)
        eventually(lambda: governed.durable == [1, 2, 3])


def test_a_request_with_nothing_to_flush_is_forgotten() -> None:
    with running(Governed()) as governed:
        governed.governor.request()
        governed.governor.acked(receipt(1), rows=1)
        governed.governor.close(0)
        assert governed.flushed() == []


def test_an_ack_during_a_flush_waits_for_the_next() -> None:
    with running(Governed(interval_s=0.02)) as governed:
        governed.api.gate.clear()
        governed.governor.acked(receipt(1), rows=1)
        # The flush has begun and hangs once its receipts are in hand and nothing new is waiting.
        eventually(lambda: isinstance(governed.flusher.state, Flushing))
        governed.governor.acked(receipt(2), rows=1)
        durable_at_first: list[list[int]] = []
        governed.api.hook = lambda operation, collection, when: (
            durable_at_first.append(list(governed.durable)) if (operation, when) == ("flush", "before") else None
        )
        governed.api.gate.set()
        eventually(lambda: governed.durable == [1, 2])
        assert durable_at_first == [[], [], [1], [1]]


@pytest.mark.parametrize("error", [RateLimited("later"), OutcomeUnknown("no answer"), Unavailable("gone")])
@pytest.mark.parametrize("failing", [1, 2, 5])
def test_an_outage_drops_no_receipt(error: Unavailable, failing: int) -> None:
    governed = Governed(interval_s=0.01)
    for _ in range(failing):
        governed.api.fail_next("flush", error)
    with running(governed):
        governed.governor.acked(receipt(1), rows=1)
        governed.governor.acked(receipt(2), rows=1)
        eventually(lambda: sorted(governed.durable) == [1, 2])
        assert governed.governor.pending() == 0
        governed.governor.check()


def test_a_collection_flushed_already_is_not_flushed_again_for_the_same_receipts() -> None:
    governed = Governed()
    answers: list[str] = []

    def hook(operation: str, collection: str, when: str) -> None:
        if (operation, when) == ("flush", "before"):
            answers.append(collection)
            if answers == ["docs", "docs__ledger"]:
                raise RateLimited("later")

    governed.api.hook = hook
    with running(governed):
        governed.governor.acked(receipt(1), rows=1)
        governed.governor.request()
        eventually(lambda: governed.durable == [1])
        assert answers == ["docs", "docs__ledger", "docs__ledger"]


def test_what_came_during_an_outage_is_durable_with_the_first_flush_after_it() -> None:
    governed = Governed(interval_s=3600.0)
    governed.api.down = True
    with running(governed):
        governed.governor.acked(receipt(1), rows=1)
        governed.governor.request()
        eventually(lambda: len(governed.flushed()) >= 2)
        governed.governor.acked(receipt(2), rows=1)
        governed.api.down = False
        eventually(lambda: governed.durable == [1, 2])


def test_with_ack_a_receipt_is_durable_at_once_by_the_thread_that_acks() -> None:
    with running(Governed("ack", interval_s=0.02)) as governed:
        governed.governor.acked(receipt(1), rows=1)
        assert governed.durable == [1]
        assert governed.durable_threads == [threading.current_thread().name]
        assert governed.governor.pending() == 0
        # Flushes tidy up all the same: recovery time and Lite's searches depend on them.
        eventually(lambda: "docs" in governed.flushed())


def test_another_error_stops_the_thread_and_reaches_the_owner() -> None:
    with running(Governed()) as governed:
        governed.api.drop_collection("docs")
        governed.governor.check()
        governed.governor.acked(receipt(1), rows=1)
        governed.governor.request()

        def failed() -> bool:
            try:
                governed.governor.check()
            except NotFound:
                return True
            return False

        eventually(failed)
        assert governed.durable == []
        assert governed.governor.pending() == 1


def test_an_error_of_the_callback_reaches_the_owner() -> None:
    governed = Governed()

    def broken(receipts: Sequence[Finished]) -> None:
        raise ZeroDivisionError

    governor = FlushGovernor(Flusher(governed.api, ["docs"], FlushPolicy(interval_s=3600.0), broken))
    governor.start()
    governor.acked(receipt(1), rows=1)
    governor.close(5.0)
    with pytest.raises(ZeroDivisionError):
        governor.check()


def test_close_flushes_what_is_left_even_where_flushes_must_be_apart() -> None:
    governed = Governed(server=NEW)
    governed.governor.start()
    governed.governor.acked(receipt(1), rows=1)
    governed.governor.close(10.0)
    assert governed.durable == [1]


def test_close_tries_again_within_its_deadline() -> None:
    governed = Governed()
    for _ in range(3):
        governed.api.fail_next("flush", RateLimited("later"))
    governed.governor.start()
    governed.governor.acked(receipt(1), rows=1)
    governed.governor.close(10.0)
    assert governed.durable == [1]


def test_close_gives_up_at_its_deadline_and_keeps_the_receipts() -> None:
    governed = Governed()
    governed.api.down = True
    governed.governor.start()
    governed.governor.acked(receipt(1), rows=1)
    governed.governor.close(0.2)
    assert governed.durable == []
    assert governed.governor.pending() == 1


def test_close_of_a_governor_that_was_never_started_or_has_nothing_to_do() -> None:
    idle = Governed()
    idle.governor.close(float("inf"))
    started = Governed()
    started.governor.start()
    started.governor.close(float("inf"))
    assert started.flushed() == []
