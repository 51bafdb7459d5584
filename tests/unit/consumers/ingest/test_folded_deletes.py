"""A delete without version that was folded into a put of its batch, where that put cannot be stored.

The stored version is 9. The batch deletes the document and puts version 3; the next batch puts version 2, which counts
only if the delete was applied before it.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.errors import RowsRefused, UnlistedAnswer
from pipeline.store.writing.requests.unlisted_answers import UnlistedPolicy
from pipeline.telemetry import OUTCOMES
from tests.support.fakes.kafka import FakeBroker
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, NOON, TOPIC, MarkedNan, Rig, document, running, soon

DAY_MS = 86_400_000
BATCH = 10
NEVER_GIVEN_UP = UnlistedPolicy(split_after=1, times=1000, outage_requests=1000)


class Held(FakeMilvus):
    """Holds the first write of rows until everything is read; refuses rows whose text says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.open = threading.Event(), threading.Event()
        self.refusing = True

    def upsert(self, collection: str, partition: str | None, rows: Sequence[Any]) -> None:
        if collection == COLLECTION and not self.open.is_set():
            self.waiting.set()
            assert self.open.wait(10)
        if self.refusing and any("UNLISTED" in row.get("text", "") for row in rows):
            raise UnlistedAnswer("upsert: Milvus: json key not supported (code 1)")
        if any("REFUSED" in row.get("text", "") for row in rows):
            raise RowsRefused("the row is too big")
        super().upsert(collection, partition, rows)


@pytest.fixture
def broker() -> FakeBroker:
    made = FakeBroker()
    made.create_topic(TOPIC, 1)
    made.create_topic(DEAD_LETTERS, 1)
    return made


def produce(broker: FakeBroker, refused: bytes, *after: bytes) -> int:
    """Version 9 in a batch; its delete, the put that is refused and others in the next; `after` in the last."""
    for number in range(BATCH):
        broker.produce(TOPIC, document("k" if not number else f"y{number}", "highest", v=9), timestamp_ms=NOON)
    broker.produce(TOPIC, None, key=b"k", timestamp_ms=NOON)
    broker.produce(TOPIC, refused, timestamp_ms=NOON)
    for number in range(BATCH - 2):
        broker.produce(TOPIC, document(f"x{number}", v=1), timestamp_ms=NOON)
    for value in after:
        broker.produce(TOPIC, value, timestamp_ms=NOON)
    return len(broker.read(TOPIC))


def read_before_the_first_write(rig: Rig, milvus: Held, records: int) -> None:
    """Let the batches after the first be planned while that one is being written."""
    assert milvus.waiting.wait(10)
    soon(lambda: rig.flow.unwritten([(TOPIC, 0)]) == records)
    milvus.open.set()


def outcomes(rig: Rig) -> float:
    return sum(rig.outcome(name) for name in OUTCOMES)


def a_day_too_many() -> bytes:
    return document("k", "one partition too many", v=3, event_time=NOON - 400 * DAY_MS)


def refused_by_milvus() -> bytes:
    return document("k", "REFUSED", v=3)


def no_vector() -> bytes:
    return document("k", "NAN", v=3)


@pytest.mark.parametrize("refused", [no_vector, a_day_too_many, refused_by_milvus])
def test_the_delete_ends_the_versions_before_it_for_the_next_batch(
    broker: FakeBroker, refused: Callable[[], bytes]
) -> None:
    milvus = Held()
    rig = Rig(broker, milvus, embedder=MarkedNan("hash:8"), version_field="v", max_partitions=2)
    records = produce(broker, refused(), document("k", "again", v=2))
    with running(rig):
        read_before_the_first_write(rig, milvus, records)
        soon(lambda: rig.committed() == {0: records})
    assert rig.texts()["k"] == ["again"]
    assert len(broker.read(DEAD_LETTERS)) == 1
    assert outcomes(rig) == records


@pytest.mark.parametrize("refused", [no_vector, a_day_too_many, refused_by_milvus])
def test_without_a_later_record_the_document_is_deleted(broker: FakeBroker, refused: Callable[[], bytes]) -> None:
    milvus = Held()
    rig = Rig(broker, milvus, embedder=MarkedNan("hash:8"), version_field="v", max_partitions=2)
    records = produce(broker, refused())
    with running(rig):
        read_before_the_first_write(rig, milvus, records)
        soon(lambda: rig.committed() == {0: records})
    assert "k" not in rig.texts()
    assert rig.outcome("deleted") == 1
    assert outcomes(rig) == records


@pytest.mark.parametrize("later", [True, False])
def test_the_delete_is_applied_before_a_put_that_is_set_aside_is_tried_again(broker: FakeBroker, later: bool) -> None:
    milvus = Held()
    rig = Rig(broker, milvus, version_field="v", unlisted=NEVER_GIVEN_UP)
    records = produce(broker, document("k", "UNLISTED", v=3), *([document("k", "again", v=2)] if later else []))
    with running(rig):
        read_before_the_first_write(rig, milvus, records)
        soon(lambda: rig.texts().get("k") == (["again"] if later else None))
        soon(lambda: rig.metrics.retries.labels("write")._value.get() > 3)
        assert rig.texts().get("k") == (["again"] if later else None)
        milvus.refusing = False
        soon(lambda: rig.committed() == {0: records})
    assert rig.texts()["k"] == ["UNLISTED"]
    assert outcomes(rig) == records
