"""A publisher of records, for `publish`, the demo and the benchmarks."""

from collections import deque
from types import TracebackType
from typing import Any, Self

from kafka.errors import KafkaError

from consumers.kafka.client.connection import KafkaSettings, open_producer
from consumers.kafka.client.errors import kafka_errors, translated

SEND_TIMEOUT_S = 60.0
_UNCONFIRMED_RECORDS = 50_000
_UNCONFIRMED_BYTES = 2**23
"""What waits longer than the producer's `delivery_timeout_ms` is given up: a slow broker must take it sooner."""
_LARGEST_REQUEST = 2**30
"""The topic decides which record is too large."""


class Publisher:
    """A producer of records that waits, at the end of its `with` block, until all of them are confirmed.

    Of the records that are not confirmed yet it holds a limited number: more of them wait for the first ones.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._producer = open_producer(
            settings,
            linger_ms=20,
            batch_size=2**18,
            compression_type="zstd",
            max_request_size=_LARGEST_REQUEST,
        )
        self._sent: deque[tuple[Any, int]] = deque()
        self._bytes = 0

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Queue one record; a null value is a tombstone. Raises Unavailable or UsageError, also for an earlier one."""
        size = len(key or b"") + len(value or b"")
        with kafka_errors(f"a record for topic {topic}"):
            while self._sent and (len(self._sent) >= _UNCONFIRMED_RECORDS or self._bytes + size > _UNCONFIRMED_BYTES):
                self._confirm_first()
            self._sent.append((self._producer.send(topic, key=key, value=value), size))
        self._bytes += size

    def _confirm_first(self) -> None:
        future, size = self._sent.popleft()
        future.get(SEND_TIMEOUT_S)
        self._bytes -= size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        """Raises Unavailable or UsageError for the first record that was not confirmed."""
        try:
            while kind is None and self._sent:
                self._confirm_first()
        except KafkaError as error:
            raise translated(error, "a record") from error
        finally:
            self._producer.close(timeout=0 if kind else 5)
