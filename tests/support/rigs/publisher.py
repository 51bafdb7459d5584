"""A producer of a load: in order and exactly once, over restarts of the broker too."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from tests.support.rigs.load import Sent


def produce(bootstrap: str, topic: str, records: Sequence[Sent]) -> None:
    """Send everything and wait until all of it is confirmed."""
    with publisher(bootstrap, topic) as sender:
        sender.publish(records)
        sender.flush(60)


class Publisher:
    """One producer that stays open: in order and exactly once, over restarts of the broker too."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._failures: list[Any] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 5,
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": 0,  # for as long as it takes
                "reconnect.backoff.max.ms": 500,
                "log_level": 2,  # a broker that is away is no news here
            }
        )
        self.delivered = 0
        """Records confirmed so far, as known by the last call."""

    def publish(self, records: Sequence[Sent]) -> None:
        """Take charge of the records; returns before they are delivered, but waits while its queue is full."""
        for record in records:
            while True:
                try:
                    self._producer.produce(self._topic, on_delivery=self._confirm, **_fields(record))
                    break
                except BufferError:
                    self._producer.poll(0.2)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                        raise
                    self._read_metadata()  # a Kafka partition that was added a moment ago
        self._producer.poll(0)

    def _read_metadata(self) -> None:
        with suppress(KafkaException):  # the broker is away
            self._producer.list_topics(self._topic, timeout=1)
        self._producer.poll(0.2)

    def flush(self, within: float) -> None:
        """Wait until everything is confirmed."""
        left = self._producer.flush(within)
        assert not self._failures, self._failures[:3]
        assert left == 0, f"{left} records of {self._topic} are not confirmed after {within} s"

    def close(self) -> None:
        """Give up what is not confirmed."""
        self._producer.purge()
        self._producer.flush(5)

    def _confirm(self, error: Any, _: Any) -> None:
        if error is None:
            self.delivered += 1
        else:
            self._failures.append(error)


@contextmanager
def publisher(bootstrap: str, topic: str) -> Iterator[Publisher]:
    """A Publisher for the length of the block."""
    opened = Publisher(bootstrap, topic)
    try:
        yield opened
    finally:
        opened.close()


def _fields(record: Sent) -> dict[str, Any]:
    fields: dict[str, Any] = {"value": record.value, "key": record.key, "headers": record.headers}
    if record.partition is not None:
        fields["partition"] = record.partition
    if record.timestamp_ms is not None:
        fields["timestamp"] = record.timestamp_ms
    return fields
