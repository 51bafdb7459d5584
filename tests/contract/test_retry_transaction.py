"""Records retried in transactions, on real Apache Kafka: all of a batch or nothing, and by one run at a time."""

from collections.abc import Iterator

import pytest
from kafka.admin import KafkaAdminClient

from consumers.dead_letters.retry_transaction import RetryLog, RetryProducer, RetryRecord
from consumers.dead_letters.topics import ensure_retry_log, retry_log_topic
from consumers.kafka import KafkaSettings, read_range, stable_ranges
from consumers.kafka.producing.sending import send_record
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
    ensure_retry_log(settings, name, create=True)
    yield settings
    admin.delete_topics([name, retry_log_topic(name)])
    admin.close()


def record(kafka: KafkaSettings, offset: int, *, size: int = 10, partition: int = 0) -> RetryRecord:
    origin = Position(kafka.topics[0], partition, offset)
    return RetryRecord(f"{partition}-{offset}", origin, partition, b"k", bytes(size), (("h", b""),), 1_000 + offset)


def retry_producer(kafka: KafkaSettings) -> RetryProducer:
    return RetryProducer(kafka, kafka.topics[0], RetryLog(kafka, kafka.topics[0]))


def stored(kafka: KafkaSettings) -> list[tuple[int, int]]:
    """Kafka partition and timestamp of what a reader of committed records sees."""
    records = read_range(kafka, stable_ranges(kafka, kafka.topics))
    return sorted((record.position.partition, record.timestamp_ms) for record in records)


def test_what_a_topic_refuses_holds_back_nothing_else(kafka: KafkaSettings) -> None:
    sizes = [10, 10, 4 * LIMIT, 10, 2 * LIMIT, 10, 10]
    with retry_producer(kafka) as sender:
        sent = sender.send([record(kafka, n, size=size, partition=n % 2) for n, size in enumerate(sizes)])
    assert sorted(sent.refused) == ["0-2", "0-4"]
    assert "MessageSizeTooLargeError" in sent.refused["0-2"]
    assert stored(kafka) == [(0, 1_000), (0, 1_006), (1, 1_001), (1, 1_003), (1, 1_005)]
    retry_log = RetryLog(kafka, kafka.topics[0])
    retry_log.read()
    assert retry_log.record_ids == sent.positions.keys()
    assert {at: retry_log.moved[at].offset for at in retry_log.moved} == {
        at: int(name[2:]) for name, at in sent.positions.items()
    }


def test_of_two_runs_the_earlier_ends_and_nothing_is_there_twice(kafka: KafkaSettings) -> None:
    batch = [record(kafka, n) for n in range(5)]
    with retry_producer(kafka) as first, retry_producer(kafka) as second:
        second.send(batch[:3])
        with pytest.raises(Stopped, match="another `dlq retry` has begun"):
            first.send(batch)
        # If it opens again after that (as after a refused record), it knows what the other run has done.
        assert first.send(batch).positions.keys() == {"0-3", "0-4"}
        with pytest.raises(Stopped):
            second.send([record(kafka, 9)])
    assert stored(kafka) == [(0, 1_000 + n) for n in range(5)]


def test_a_run_that_ended_in_the_middle_left_nothing(kafka: KafkaSettings) -> None:
    lost = retry_producer(kafka)
    with lost:
        producer = lost._opened()
        producer.begin_transaction()
        send_record(producer, kafka.topics[0], None, b"half", headers=(), timestamp_ms=1).get(10)
        with retry_producer(kafka) as sender:
            sender.send([record(kafka, 1)])
        assert stored(kafka) == [(0, 1_001)]


def test_without_a_retry_log_nothing_is_sent(kafka_bootstrap: str) -> None:
    name = unique("none")
    with pytest.raises(UsageError, match=f"{name}.retried"):
        ensure_retry_log(KafkaSettings(kafka_bootstrap, (name,), name), name, create=False)
    retry_log = RetryLog(KafkaSettings(kafka_bootstrap, (name,), name), name)
    retry_log.read()
    assert not retry_log.record_ids
