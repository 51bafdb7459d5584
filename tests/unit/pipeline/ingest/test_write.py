"""Append mode writes two batches at a time; the result is the same as writing them one after the other."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from consumers.dead_letters import DeadLetterLimits
from consumers.kafka import KafkaSettings
from pipeline.errors import RowsRefused, TooManyRejected, Unavailable
from pipeline.records import Finished, Receipt
from tests.support.fakes.kafka import FakeBroker, FakeSource
from tests.support.rigs.kafka import Member
from tests.support.rigs.worker import (
    COLLECTION,
    DEAD_LETTERS,
    GROUP,
    NOON,
    TOPIC,
    Counting,
    Rig,
    document,
    running,
    soon,
)

BATCH = 10
"""Records of a batch of the rig."""


class Calls:
    """Holds every upsert of documents by a worker until the test lets it go on, or makes it fail."""

    def __init__(self, rig: Rig) -> None:
        self._upsert = rig.milvus.upsert
        self._allowed: dict[str, threading.Event] = {}
        self._errors: dict[str, Exception] = {}
        self._free = False
        self.refused: set[str] = set()
        """First documents of the calls that the server refuses, held or not."""
        rig.milvus.upsert = self._held  # type: ignore[method-assign]

    def _held(self, collection: str, partition: str | None, rows: Sequence[Any]) -> None:
        if collection != COLLECTION:
            self._upsert(collection, partition, rows)
            return
        first = rows[0]["doc_id"]
        if not self._free and first not in self.refused:
            allowed = self._allowed[first] = threading.Event()
            assert allowed.wait(10)
        if first in self.refused:
            raise RowsRefused("refused")
        if first in self._errors:
            raise self._errors.pop(first)
        self._upsert(collection, partition, rows)

    @property
    def under_way(self) -> list[str]:
        """The first document of each call that waits, in the order of the calls."""
        return list(self._allowed)

    def free(self) -> None:
        """Let these calls end, and hold none from now on."""
        self._free = True
        for first in self.under_way:
            self.go(first)

    def entered(self, first: str) -> bool:
        """Whether the call whose first row is of this document waits."""
        return first in self._allowed

    def go(self, first: str, error: Exception | None = None) -> None:
        """Let it end."""
        if error is not None:
            self._errors[first] = error
        self._allowed.pop(first).set()


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.create_topic(TOPIC, 2)
    broker.create_topic(DEAD_LETTERS, 1)
    return broker


def publish(broker: FakeBroker, *batches: str, partition: int = 0) -> None:
    for name in batches:
        for number in range(BATCH):
            broker.produce(TOPIC, document(f"{name}{number}", f"text {name} {number}"), partition=partition)


def test_a_batch_is_written_beside_another_and_committed_behind_it(broker: FakeBroker) -> None:
    rig = Rig(broker, append=True)
    calls = Calls(rig)
    publish(broker, "a", "b", "c")
    with running(rig):
        soon(lambda: calls.entered("a0") and calls.entered("b0"))
        calls.go("b0")
        soon(lambda: "b0" in rig.texts())
        assert not calls.entered("c0"), "two at a time"
        assert rig.flow.unwritten([(TOPIC, 0)]) == 3 * BATCH
        calls.go("a0")
        soon(lambda: rig.committed().get(0) == 2 * BATCH)
        soon(lambda: calls.entered("c0"))
        calls.go("c0")
        soon(lambda: rig.committed().get(0) == 3 * BATCH)
    assert len(rig.texts()) == 3 * BATCH


def test_what_was_written_behind_a_failure_is_read_again(broker: FakeBroker) -> None:
    rig = Rig(broker, append=True)
    calls = Calls(rig)
    publish(broker, "a", "b")
    rig.start()
    soon(lambda: calls.entered("a0") and calls.entered("b0"))
    calls.go("b0")
    soon(lambda: "b0" in rig.texts())
    calls.go("a0", ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        rig.ended()
    assert rig.committed() == {}

    calls.free()
    again = Rig(broker, rig.milvus, append=True, until_caught_up=True)
    again.start()
    assert again.ended().clean
    assert len(again.texts()) == 2 * BATCH
    assert again.committed() == {0: 2 * BATCH}


def test_an_assignment_takes_effect_behind_all_batches_before_it(broker: FakeBroker) -> None:
    rig = Rig(broker, append=True)
    with running(rig):
        soon(rig.source.assignment)
        calls = Calls(rig)
        publish(broker, "a", "b")
        soon(lambda: len(calls.under_way) == 2)
        listed = len(rig.milvus.calls)
        rig.flow.assign([(TOPIC, 1)])
        publish(broker, "c")
        _, second = calls.under_way
        calls.go(second)
        soon(lambda: second in rig.texts())
        assert ("list_partitions", COLLECTION, 0) not in rig.milvus.calls[listed:]
        calls.free()
        soon(lambda: rig.committed().get(0) == 3 * BATCH)
        assert ("list_partitions", COLLECTION, 0) in rig.milvus.calls[listed:], "read again after it"


def test_an_outage_is_waited_out_by_both(broker: FakeBroker) -> None:
    rig = Rig(broker, append=True)
    calls = Calls(rig)
    publish(broker, "a", "b")
    with running(rig):
        for _ in range(2):
            soon(lambda: calls.entered("a0") or calls.entered("b0"))
            calls.go("a0" if calls.entered("a0") else "b0", Unavailable("away"))
        for _ in range(2):
            soon(lambda: calls.entered("a0") or calls.entered("b0"))
            calls.go("a0" if calls.entered("a0") else "b0")
        soon(lambda: rig.committed().get(0) == 2 * BATCH)
    assert len(rig.texts()) == 2 * BATCH


def test_refused_records_are_counted_in_the_order_of_their_offsets(broker: FakeBroker) -> None:
    rig = Rig(broker, append=True, limits=DeadLetterLimits(max_consecutive=BATCH + 1))
    calls = Calls(rig)
    publish(broker, "a")
    broker.produce(TOPIC, document("b0"))
    broker.produce(TOPIC, document("b1"))
    rig.start()
    soon(lambda: calls.entered("a0") and calls.entered("b0"))
    calls.refused |= {"b0", "b1"}
    calls.go("b0")
    calls.refused |= {f"a{number}" for number in range(BATCH)}
    calls.go("a0")
    with pytest.raises(TooManyRejected, match=f"{BATCH + 2} records in a row"):
        rig.ended()


def test_a_partition_is_given_up_when_all_calls_that_write_it_have_ended(broker: FakeBroker) -> None:
    rig = Rig(broker, append=True, shutdown_s=0.1)
    with running(rig):
        broker.produce(TOPIC, document("x"), partition=1)
        soon(lambda: rig.committed().get(1) == 1)
        calls = Calls(rig)
        publish(broker, "a", "b", partition=1)
        soon(lambda: len(calls.under_way) == 2)
        first, second = calls.under_way
        reader = Member(FakeSource(broker, KafkaSettings("fake:9092", (TOPIC,), GROUP)))
        soon(lambda: reader.poll() or rig.flow.fenced)
        calls.go(second)
        soon(lambda: reader.poll() or second in rig.texts())
        assert rig.flow.writing([(TOPIC, 1)])
        assert not reader.source.assignment()
        calls.go(first)
        soon(lambda: reader.poll() or reader.source.assignment() == {(TOPIC, 1)})
        assert not rig.flow.writing([(TOPIC, 1)])


def test_a_record_folded_into_one_of_a_revoked_partition_is_decided_again(broker: FakeBroker) -> None:
    model = Counting("hash:8")
    rig = Rig(broker, embedder=model)
    calls = Calls(rig)
    with running(rig):
        soon(lambda: len(rig.source.assignment()) == 2)
        publish(broker, "a")
        soon(lambda: calls.entered("a0"))
        rig.source.pause()  # so that one poll returns both
        broker.produce(TOPIC, document("x", "older"), timestamp_ms=NOON)
        broker.produce(TOPIC, document("x", "newer"), partition=1, timestamp_ms=NOON + 1000)
        rig.source.resume()
        soon(lambda: "newer" in model.texts)
        rig.flow.revoke([(TOPIC, 1)])  # as by a rebalance whose drain was cut off
        calls.free()
        soon(lambda: rig.committed().get(0) == BATCH + 1)
        assert rig.texts()["x"] == ["older"]
        assert rig.committed() == {0: BATCH + 1}
        soon(lambda: rig.flow.idle)
    assert (rig.outcome("folded"), rig.outcome("written")) == (0, BATCH + 1)


@pytest.mark.parametrize("append", [False, True])
def test_a_batch_is_in_flight_until_its_receipt_is_with_the_governor(broker: FakeBroker, append: bool) -> None:
    # A worker that ends requests the last flush once nothing is in flight. A receipt that came after it would wait for
    # the interval of flushes, and could miss the shutdown deadline.
    rig = Rig(broker, append=append)
    in_flight: list[bool] = []
    put = rig.receipts.put_all

    def observed(receipts: Sequence[Finished]) -> None:
        if any(isinstance(one, Receipt) for one in receipts):  # the positions come later
            in_flight.append(not rig.flow.idle)
        put(receipts)

    rig.receipts.put_all = observed  # type: ignore[method-assign]
    publish(broker, "a")
    with running(rig):
        soon(lambda: rig.committed().get(0) == BATCH)
    assert in_flight
    assert all(in_flight)
