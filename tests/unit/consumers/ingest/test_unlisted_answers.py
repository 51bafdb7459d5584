"""A worker on a Milvus that refuses something in words that no table lists."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.errors import MilvusStreamError, Unavailable, UnlistedAnswer
from pipeline.ingest import RefusalLimit
from pipeline.store.writing.requests.unlisted_answers import UnlistedPolicy
from tests.support.fakes.kafka import FakeBroker
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, TOPIC, Rig, document, running, soon

QUICK = UnlistedPolicy(split_after=2, times=3, over_s=0.2, outage_requests=3, unproven_s=30.0)
WORDS = "json key not supported"


class Refusing(FakeMilvus):
    """Refuses every request with a row of a text that says so, in words of some later version."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.refused_reads = False

    def upsert(self, collection: str, partition: str | None, rows: Sequence[Any]) -> None:
        if self.broken or any("UNLISTED" in row.get("text", "") for row in rows):
            raise UnlistedAnswer(f"upsert of collection {collection!r}: Milvus: {WORDS} (code 1)")
        super().upsert(collection, partition, rows)

    def query(self, collection: str, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        if self.refused_reads and collection == f"{COLLECTION}__ledger":
            raise UnlistedAnswer(f"query of collection {collection!r}: Milvus: {WORDS} (code 1)")
        return super().query(collection, *arguments, **options)


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.create_topic(TOPIC, 2)
    broker.create_topic(DEAD_LETTERS, 1)
    return broker


def sample(rig: Rig, name: str) -> float:
    value = rig.metrics.registry.get_sample_value(name)
    assert value is not None, name
    return value


def publish_until_rejected(rig: Rig) -> None:
    """Publish documents, one after the other is stored, until there is a dead letter."""
    for number in range(200):
        if rig.broker.read(DEAD_LETTERS):
            return
        rig.broker.produce(TOPIC, document(f"c{number}", "text"), partition=1)
        soon(lambda: f"c{number}" in rig.texts())  # noqa: B023 - called at once
    raise AssertionError("200 documents were stored, and none was rejected")


@pytest.mark.parametrize("append", [False, True])
def test_one_such_row_holds_up_nothing_and_ends_as_a_dead_letter_with_the_words(
    broker: FakeBroker, append: bool
) -> None:
    rig = Rig(broker, Refusing(), append=append, unlisted=QUICK)
    with running(rig):
        broker.produce(TOPIC, document("bad", "UNLISTED"), partition=0)
        for number in range(30):
            broker.produce(TOPIC, document(f"a{number}", "text"), partition=0)
            broker.produce(TOPIC, document(f"b{number}", "text"), partition=1)
        soon(lambda: len(rig.texts()) == 60)
        soon(lambda: rig.committed().get(1) == 30)
        # While it is unknown what the words mean, its offset waits.
        publish_until_rejected(rig)
        soon(lambda: rig.committed().get(0) == 31)
    (dead_letter,) = broker.read(DEAD_LETTERS)
    headers = {name: value.decode() for name, value in dead_letter.headers if value is not None}
    assert headers["milvus-stream.reason"] == "refused_by_milvus"
    assert WORDS in headers["__connect.errors.exception.message"]
    assert "bad" not in rig.texts()


def test_the_stored_version_of_a_refused_document_stays(broker: FakeBroker) -> None:
    rig = Rig(broker, Refusing(), unlisted=QUICK)
    with running(rig):
        broker.produce(TOPIC, document("k", "first"), partition=0)
        soon(lambda: rig.texts().get("k") == ["first"])
        broker.produce(TOPIC, document("k", "UNLISTED"), partition=0)
        publish_until_rejected(rig)
        soon(lambda: rig.committed().get(0) == 2)
    assert rig.texts()["k"] == ["first"]
    (entry,) = [row for row in rig.milvus.stored(f"{COLLECTION}__ledger")["_default"].values() if row["doc_id"] == "k"]
    assert not entry["pending"]


def test_a_newer_version_passes_the_one_that_is_set_aside(broker: FakeBroker) -> None:
    rig = Rig(broker, Refusing(), unlisted=UnlistedPolicy(split_after=1, times=1000, outage_requests=1000))
    with running(rig):
        broker.produce(TOPIC, document("k", "UNLISTED"), partition=0)
        soon(lambda: rig.metrics.retries.labels("write")._value.get() > 3)
        soon(lambda: sample(rig, "ingest_set_aside_records") == 1)
        soon(lambda: sample(rig, "ingest_set_aside_age_seconds") > 0.1)
        broker.produce(TOPIC, document("k", "second"), partition=0)
        soon(lambda: rig.committed().get(0) == 2)
        soon(lambda: sample(rig, "ingest_set_aside_records") == 0 == sample(rig, "ingest_set_aside_age_seconds"))
    assert rig.texts()["k"] == ["second"]
    assert broker.read(DEAD_LETTERS) == []


def test_an_outage_in_such_words_makes_no_dead_letter(broker: FakeBroker) -> None:
    milvus = Refusing()
    rig = Rig(broker, milvus, unlisted=UnlistedPolicy(split_after=2, times=2, over_s=0.0, unproven_s=0.2))
    with running(rig):
        broker.produce(TOPIC, document("before", "text"), partition=0)
        soon(lambda: "before" in rig.texts())
        milvus.broken = True
        for number in range(100):
            broker.produce(TOPIC, document(f"a{number}", "text"), partition=number % 2)
        soon(lambda: rig.metrics.retries.labels("write")._value.get() > 40)
        assert broker.read(DEAD_LETTERS) == []
        milvus.broken = False
        soon(lambda: len(rig.texts()) == 101)
        soon(lambda: sum(rig.committed().values()) == 101)
    assert broker.read(DEAD_LETTERS) == []


def test_a_read_refused_in_such_words_ends_the_worker_while_others_are_answered(broker: FakeBroker) -> None:
    milvus = Refusing()
    rig = Rig(broker, milvus, refusals=RefusalLimit(times=3, over_s=0.2))
    milvus.refused_reads = True
    broker.produce(TOPIC, document("a", "text"), partition=0)
    rig.start()
    with pytest.raises(MilvusStreamError, match=WORDS) as ended:
        rig.ended()
    assert not isinstance(ended.value, Unavailable)
    assert rig.committed() == {}
