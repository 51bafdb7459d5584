"""The transactions of a rekey stage: records and the offsets behind them are committed together, or neither is."""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from consumers.kafka import KafkaSettings, KafkaSource
from consumers.kafka.client.connection import open_producer
from consumers.kafka.client.errors import error_text, kafka_errors, translated
from consumers.kafka.producing.sending import NullableKey, send_record
from consumers.kafka.producing.transactions import commit_in_time
from pipeline import failpoints
from pipeline.errors import MilvusStreamError
from pipeline.records import KafkaPartition, SourceRecord

_LARGEST_REQUEST = 64 * 2**20
"""Large, so that the topic decides what is too large, not the client."""
_REFUSALS = (InvalidRecordError, InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError)
_TRANSACTION_S = 8
"""The broker aborts a longer transaction. After a crash the next owner waits for that."""
_KEY_SCHEMA = "__key_schema_id"
"""The header that names the schema of a key. Behind it another key would be read by that schema."""
_REMEDY = "The records are read again: the broker says then whether they were forwarded"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A record with the key that it gets."""

    record: SourceRecord
    key: bytes | None


class Forwarder:
    """A transactional producer into one topic.

    Every process has a transactional id of its own. What keeps an earlier owner of a Kafka partition from committing is
    the generation of the consumer group in which it read the records, which the transaction carries (KIP-447). The next
    owner waits for a transaction that is still open before it reads the committed offsets.
    """

    def __init__(self, settings: KafkaSettings, topic: str, source: KafkaSource) -> None:
        self._settings = settings
        self._topic = topic
        self._source = source
        self._transactional_id = f"{settings.group_id}.{uuid.uuid4().hex}"
        self._producer: KafkaProducer | None = None

    def forward(self, records: Sequence[Forwarded]) -> None:
        """Send the records, in order, and commit the offsets behind them.

        Raises Unavailable or UsageError; then it is unknown whether the transaction was committed, and the records must
        be read again from the committed offsets.
        """
        try:
            producer = self._opened()
            producer.begin_transaction()
            self._send_all(producer, records)
            failpoints.hit("rekey_sent")
            offsets = _behind(records)
            producer.send_offsets_to_transaction(*self._source.transaction_offsets(offsets))
            failpoints.hit("rekey_offsets_sent")
            commit_in_time(producer, _REMEDY)
        except (KafkaError, OSError, ValueError, AssertionError) as error:
            self.close()
            raise translated(error, f"a transaction into {self._topic}") from error
        except MilvusStreamError:
            self.close()
            raise
        failpoints.hit("rekey_committed")
        self._source.committed_outside(offsets)

    def close(self) -> None:
        """Close the producer; a transaction that is not committed is aborted."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError):
                producer.close(timeout=0)

    def _send_all(self, producer: KafkaProducer, records: Sequence[Forwarded]) -> None:
        """Send in order and wait. Raises KafkaError, or MilvusStreamError for a record that the topic refuses."""
        futures = []
        for forwarded in records:
            try:
                futures.append((forwarded, self._send(producer, forwarded)))
            except _REFUSALS as error:
                raise self._refused(forwarded, error) from error
        failures: list[KafkaError] = []
        for forwarded, future in futures:
            try:
                future.get()
            except _REFUSALS as error:
                # Records behind a refused one fail, too, with other errors.
                raise self._refused(forwarded, error) from error
            except KafkaError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _refused(self, forwarded: Forwarded, error: KafkaError) -> MilvusStreamError:
        position = "{}/{}/{}".format(*forwarded.record.position)
        return MilvusStreamError(
            f"{self._topic} refuses the record at {position}: {error_text(error)}. Give it the max.message.bytes and "
            f"message.timestamp.* of {forwarded.record.position.topic}; nothing behind the record was forwarded"
        )

    def _send(self, producer: KafkaProducer, forwarded: Forwarded) -> Any:
        record = forwarded.record
        return send_record(
            producer,
            self._topic,
            forwarded.key,
            record.value,
            headers=_headers(forwarded),
            timestamp_ms=record.timestamp_ms,
        )

    def _opened(self) -> KafkaProducer:
        if self._producer is None:
            self._producer = open_producer(
                self._settings,
                key_serializer=NullableKey(),
                transactional_id=self._transactional_id,
                transaction_timeout_ms=_TRANSACTION_S * 1000,
                enable_idempotence=True,
                max_request_size=_LARGEST_REQUEST,
                linger_ms=5,
            )
            with kafka_errors(f"transactions (transactional id {self._transactional_id})"):
                self._producer.init_transactions()
        return self._producer


def _headers(forwarded: Forwarded) -> list[tuple[str, bytes]]:
    record = forwarded.record
    kept = forwarded.key == record.key
    return [(name, value or b"") for name, value in record.headers if kept or name != _KEY_SCHEMA]


def _behind(records: Sequence[Forwarded]) -> dict[KafkaPartition, int]:
    """The next offset of each Kafka partition."""
    return {forwarded.record.position[:2]: forwarded.record.position.offset + 1 for forwarded in records}
