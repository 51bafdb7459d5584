import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backoff import Backoff
from pipeline.errors import NotFound, OutcomeUnknown, RateLimited, Unavailable, UsageError
from pipeline.records import Position, Receipt
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec, ledger_spec
from pipeline.store.flushing.flusher import Flusher, Flushing
from pipeline.store.flushing.governor import FlushGovernor
from pipeline.store.flushing.policy import FlushNeed, FlushPolicy, flush_spacing_s
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus
from tests.support.waiting import eventually

POLICY = FlushPolicy(interval_s=30.0, rows=1500)
BEGAN = 1000.0
WAITING = FlushNeed(last_began=BEGAN, waiting=True, rows=10)
NEW = ServerInfo("2.6.7", (2, 6, 7), lite=False)

# --- when: pure ----------------------------------------------------------------------------------------------------


def test_nothing_acknowledged_is_never_flushed() -> None:
    idle = FlushNeed(last_began=BEGAN)
    assert POLICY.due_at(idle, 0.0) is None
    assert POLICY.due_at(replace(idle, closing=True), 0.0) is None


def test_flushes_are_an_interval_apart() -> None:
    assert POLICY.due_at(WAITING, 0.0) == BEGAN + 30.0
    assert POLICY.due_at(WAITING, 60.0) == BEGAN + 60.0


@pytest.mark.parametrize("pressing", [{"requested": True}, {"rows": 1500}])
def test_what_is_pressing_waits_only_for_what_the_server_allows(pressing: dict[str, int]) -> None:
    state = replace(WAITING, **pressing)  # type: ignore[arg-type]
    assert POLICY.due_at(state, 10.0) == BEGAN + 10.0
    assert POLICY.due_at(state, 0.0) == BEGAN


def test_fewer_rows_are_not_pressing_nor_any_number_without_a_limit() -> None:
    assert POLICY.due_at(replace(WAITING, rows=1499), 0.0) == BEGAN + 30.0
    assert FlushPolicy(interval_s=30.0).due_at(replace(WAITING, rows=10**9), 0.0) == BEGAN + 30.0


def test_closing_flushes_at_once() -> None:
    assert POLICY.due_at(replace(WAITING, closing=True), 10.0) == BEGAN


@given(st.floats(0, 0.999), st.integers(0, 60))
def test_failures_wait_longer_and_longer(jitter: float, earlier: int) -> None:
    state = replace(WAITING, failures=earlier)
    failed = POLICY.after_failure(state, 5000.0, jitter=jitter)
    assert failed.failures == earlier + 1
    wait = failed.not_before - 5000.0
    assert min(30.0, 2.0**earlier) / 2 - 1e-6 <= wait <= 30.0
    assert POLICY.due_at(failed, 10.0) == failed.not_before
    # Also where nothing new was acknowledged: the receipts in hand are not durable yet.
    assert POLICY.due_at(replace(failed, waiting=False), 10.0) == failed.not_before


def test_while_closing_the_wait_stays_short() -> None:
    failed = POLICY.after_failure(replace(WAITING, failures=20, closing=True), 0.0, jitter=0.9)
    assert failed.not_before <= 1.0


@pytest.mark.parametrize(
    ("version", "lite", "spacing"),
    [
        ((2, 3, 5), False, 0.0),
        ((2, 4, 0), False, 10.0),
        ((3, 0, 1), False, 10.0),
        ((3, 2, 2), True, 0.0),
        ((0, 0, 0), False, 10.0),
    ],
)
def test_spacing_by_server(version: tuple[int, int, int], lite: bool, spacing: float) -> None:
    assert flush_spacing_s(ServerInfo("x", version, lite)) == spacing


@pytest.mark.parametrize("wrong", [{"interval_s": 0.0}, {"rows": 0}])
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="write"):
        FlushPolicy(**wrong)  # type: ignore[arg-type]


# --- the thread ----------------------------------------------------------------------------------------------------


def receipt(offset: int) -> Receipt:
    return Receipt([Position("t", 0, offset)])


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

    def _on_durable(self, receipts: Sequence[Receipt]) -> None:
        self.durable_threads.append(threading.current_thread().name)
        self.durable += [position.offset for one in receipts for position in one.positions]

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

    def broken(receipts: Sequence[Receipt]) -> None:
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
