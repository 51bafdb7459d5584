"""Records put back in transactions, on real Apache Kafka: all of a batch or nothing, and by one run at a time."""

from collections.abc import Iterator

import pytest
from kafka.admin import KafkaAdminClient

from consumers.dead_letters.retry_transaction import (
    RetryLog,
    RetryProducer,
    RetryRecord,
    ensure_notes_topic,
    notes_topic,
    stable_ranges,
)
from consumers.kafka import KafkaSettings, read_range
from consumers.kafka.sending import hand_over
from pipeline.errors import Stopped, UsageError
from pipeline.records import Position
from tests.support.names import unique

pytestmark = pytest.mark.servers
LIMIT = 5_000


@pytest.fixture
def kafka(kafka_bootstrap: str) -> Iterator[KafkaSettings]:
    """A topic with two Kafka partitions that takes small records only."""
    name = unique("back")
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    configs = {"max.message.bytes": str(LIMIT)}
    admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1, "configs": configs}})
    settings = KafkaSettings(kafka_bootstrap, (name,), name)
    ensure_notes_topic(settings, name, create=True)
    yield settings
    admin.delete_topics([name, notes_topic(name)])
    admin.close()


def back(kafka: KafkaSettings, offset: int, *, size: int = 10, partition: int = 0) -> RetryRecord:
    origin = Position(kafka.topics[0], partition, offset)
    return RetryRecord(f"{partition}-{offset}", origin, partition, b"k", bytes(size), (("h", b""),), 1_000 + offset)


def put_back(kafka: KafkaSettings) -> RetryProducer:
    return RetryProducer(kafka, kafka.topics[0], RetryLog(kafka, kafka.topics[0]))


def stored(kafka: KafkaSettings) -> list[tuple[int, int]]:
    """Kafka partition and timestamp of what a reader of committed records sees."""
    records = read_range(kafka, stable_ranges(kafka, kafka.topics))
    return sorted((record.position.partition, record.timestamp_ms) for record in records)


def test_what_a_topic_refuses_holds_back_nothing_else(kafka: KafkaSettings) -> None:
    sizes = [10, 10, 4 * LIMIT, 10, 2 * LIMIT, 10, 10]
    with put_back(kafka) as sender:
        placed, refused = sender.send([back(kafka, n, size=size, partition=n % 2) for n, size in enumerate(sizes)])
    assert sorted(refused) == ["0-2", "0-4"]
    assert "MessageSizeTooLargeError" in refused["0-2"]
    assert stored(kafka) == [(0, 1_000), (0, 1_006), (1, 1_001), (1, 1_003), (1, 1_005)]
    notes = RetryLog(kafka, kafka.topics[0])
    notes.read()
    assert notes.letter_ids == placed.keys()
    assert {at: notes.moved[at].offset for at in notes.moved} == {at: int(name[2:]) for name, at in placed.items()}


def test_of_two_runs_the_earlier_ends_and_nothing_is_there_twice(kafka: KafkaSettings) -> None:
    batch = [back(kafka, n) for n in range(5)]
    with put_back(kafka) as first, put_back(kafka) as second:
        second.send(batch[:3])
        with pytest.raises(Stopped, match="another `dlq retry` has begun"):
            first.send(batch)
        # One that comes back after that (a refused record makes it open anew) knows what the other has done.
        placed, _ = first.send(batch)
        assert placed.keys() == {"0-3", "0-4"}
        with pytest.raises(Stopped):
            second.send([back(kafka, 9)])
    assert stored(kafka) == [(0, 1_000 + n) for n in range(5)]


def test_a_run_that_ended_in_the_middle_left_nothing(kafka: KafkaSettings) -> None:
    lost = put_back(kafka)
    with lost:
        producer = lost._opened()
        producer.begin_transaction()
        hand_over(producer, kafka.topics[0], None, b"half", headers=(), timestamp_ms=1).get(10)
        with put_back(kafka) as sender:
            sender.send([back(kafka, 1)])
        assert stored(kafka) == [(0, 1_001)]


def test_without_a_place_for_notes_nothing_is_sent(kafka_bootstrap: str) -> None:
    name = unique("none")
    with pytest.raises(UsageError, match=f"{name}.retried"):
        ensure_notes_topic(KafkaSettings(kafka_bootstrap, (name,), name), name, create=False)
    notes = RetryLog(KafkaSettings(kafka_bootstrap, (name,), name), name)
    notes.read()
    assert not notes.letter_ids
