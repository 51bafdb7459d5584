"""A publisher of records, for the demo and the benchmarks."""

from types import TracebackType
from typing import Any, Self

from kafka.errors import KafkaError

from consumers.kafka.client.connection import KafkaSettings, open_producer
from consumers.kafka.client.errors import kafka_errors, translated

SEND_TIMEOUT_S = 60.0


class Publisher:
    """A producer of records that waits, at the end of its `with` block, until all of them are confirmed."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._producer = open_producer(settings, linger_ms=20, batch_size=2**18, compression_type="zstd")
        self._sent: list[Any] = []

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Queue one record; a null value is a tombstone."""
        with kafka_errors(f"a record for topic {topic}"):
            self._sent.append(self._producer.send(topic, key=key, value=value))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        """Raises Unavailable or UsageError for the first record that was not confirmed."""
        try:
            if kind is None:
                for future in self._sent:
                    future.get(SEND_TIMEOUT_S)
        except KafkaError as error:
            raise translated(error, "a record") from error
        finally:
            self._producer.close(timeout=0 if kind else 5)
