"""A sender of single records, each confirmed before the next; for records that are rare."""

from typing import Any

from consumers.kafka.client.connection import KafkaSettings, open_producer
from consumers.kafka.client.errors import kafka_errors
from pipeline.errors import MilvusStreamError

_CONFIRM_S = 20.0
"""Longer than the producer itself tries (`delivery_timeout_ms`)."""


class RecordSender:
    """Sends records to one cluster; connects with the first one, and after a failure again. For one thread."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None

    def send(self, topic: str, key: bytes, value: bytes | None) -> int:
        """Send one record, wait until it is confirmed, and return its Kafka timestamp in epoch milliseconds.

        Raises Unavailable (it may have been written all the same), UsageError where Kafka refuses it.
        """
        try:
            if self._producer is None:
                self._producer = open_producer(self._settings)
            with kafka_errors(f"a record for topic {topic}"):
                return int(self._producer.send(topic, key=key, value=value).get(_CONFIRM_S).timestamp)
        except MilvusStreamError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, if there is one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=1)
