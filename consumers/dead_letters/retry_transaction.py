"""The transactions of a retry: records go back to their topics exactly once, each with an entry in the retry log.

The retry log is a topic beside the dead-letter topic. Committed offsets could not replace it: the offsets of a group
expire, and filters retry dead letters in any order.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from consumers.dead_letters.topics import retry_log_topic
from consumers.kafka import KafkaSettings, TopicFacts, read_range, stable_ranges, topic_facts
from consumers.kafka.client.connection import open_producer
from consumers.kafka.client.errors import error_text, kafka_errors, translated
from consumers.kafka.producing.sending import NullableKey, send_record
from consumers.kafka.producing.transactions import FENCED, TRANSACTION_S, commit_in_time
from pipeline import failpoints
from pipeline.errors import MilvusStreamError, Stopped
from pipeline.records import KafkaPartition, Position

_COMMIT_UNKNOWN = "Start `dlq retry` again: it finds out whether these records were retried"
_LARGEST_REQUEST = 64 * 2**20
"""Large, so that the topic decides what is too large, not the client."""
_REFUSALS = (InvalidRecordError, InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError)


@dataclass(frozen=True, slots=True)
class RetryRecord:
    """A record to be sent back to its topic."""

    record_id: str
    """The same for all dead letters of the record."""
    origin: Position
    partition: int | None
    """Of the topic in `origin`; None: chosen by the key."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class SentRecords:
    """The result of a send, by `record_id`."""

    positions: Mapping[str, Position]
    """New positions of the records that were sent."""
    refused: Mapping[str, str]
    """Why its topic refused a record."""


class RetryLog:
    """The records retried so far, as read from the retry log."""

    def __init__(self, settings: KafkaSettings, dead_letter_topic: str) -> None:
        self._settings = settings
        self._topic = retry_log_topic(dead_letter_topic)
        self._next: dict[KafkaPartition, int] = {}
        self.record_ids: set[str] = set()
        self.moved: dict[Position, Position] = {}
        """New position of a retried record -> its first position."""

    def read(self) -> None:
        """Read the entries since the last call; none if nothing was ever retried. Raises Unavailable, UsageError."""
        if not isinstance(topic_facts(self._settings, (self._topic,))[self._topic], TopicFacts):
            return
        ranges = stable_ranges(self._settings, [self._topic])
        unread = {name: (self._next.get(name, start), end) for name, (start, end) in ranges.items()}
        for record in read_range(self._settings, unread):
            entry = json.loads(record.value or b"{}")
            self.add((record.key or b"").decode(), _parse_position(entry["to"]), _parse_position(entry["origin"]))
        self._next = {name: end for name, (_, end) in unread.items()}

    def add(self, record_id: str, position: Position, origin: Position) -> None:
        """Add a record that was retried."""
        self.record_ids.add(record_id)
        self.moved[position] = origin


class RetryProducer:
    """A transactional producer of retried records and their log entries.

    Opening it ends the transaction of any earlier or concurrent run, which then fails, and reads the retry log after
    that. The log is therefore complete: no other run can add an entry without making this one fail.
    """

    def __init__(self, settings: KafkaSettings, dead_letter_topic: str, retry_log: RetryLog) -> None:
        self._settings = settings
        self._topic = retry_log_topic(dead_letter_topic)
        self._log = retry_log
        self._producer: KafkaProducer | None = None

    def __enter__(self) -> Self:
        """Open the producer. Raises Unavailable, UsageError."""
        self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the producer; a transaction that is not committed is aborted."""
        self._close()

    def send(self, records: Sequence[RetryRecord]) -> SentRecords:
        """Send the records that were not retried yet; a refused record does not hold back the others.

        Raises Unavailable (the next opening finds out whether the transaction was committed), UsageError (a missing
        right), Stopped when another run has taken over.
        """
        try:
            producer = self._opened()
            records = [record for record in records if record.record_id not in self._log.record_ids]
            positions, refusal = self._attempt(producer, records) if records else ({}, None)
        except KafkaError as error:
            self._close()
            if isinstance(error, FENCED):
                raise Stopped(
                    "another `dlq retry` has begun with the same dead-letter topic and continues alone; the batch "
                    "that was being sent here was not retried"
                ) from error
            raise translated(error, f"a transaction that retries records (retry log {self._topic})") from error
        if refusal is None:
            return SentRecords(positions, {})
        # The refused record is found by halving. The producer is closed, which aborts the transaction: after a refusal
        # its other answers are unreliable.
        self._close()
        if len(records) == 1:
            return SentRecords({}, {records[0].record_id: refusal})
        middle = len(records) // 2
        first, second = self.send(records[:middle]), self.send(records[middle:])
        return SentRecords({**first.positions, **second.positions}, {**first.refused, **second.refused})

    def _attempt(
        self, producer: KafkaProducer, records: Sequence[RetryRecord]
    ) -> tuple[Mapping[str, Position], str | None]:
        """Run one transaction. Returns the new positions, or the refusal of a record and no commit."""
        producer.begin_transaction()
        futures: dict[str, Any] = {}
        for record in records:
            try:
                futures[record.record_id] = send_record(
                    producer,
                    record.origin.topic,
                    record.key,
                    record.value,
                    headers=record.headers,
                    timestamp_ms=record.timestamp_ms,
                    partition=record.partition,
                )
            except _REFUSALS as error:
                return {}, error_text(error)
        positions, refusal = _answers(futures)
        failpoints.hit("retry_sent")
        if refusal is not None:
            return {}, refusal
        self._log_entries(producer, records, positions)
        failpoints.hit("retry_logged")
        commit_in_time(producer, _COMMIT_UNKNOWN)
        failpoints.hit("retry_committed")
        for record in records:
            self._log.add(record.record_id, positions[record.record_id], record.origin)
        return positions, None

    def _log_entries(
        self, producer: KafkaProducer, records: Sequence[RetryRecord], positions: Mapping[str, Position]
    ) -> None:
        """Send an entry for each record to the retry log, within the transaction."""
        futures = []
        for record in records:
            entry = {"origin": _format_position(record.origin), "to": _format_position(positions[record.record_id])}
            key, value = record.record_id.encode(), json.dumps(entry).encode()
            futures.append(send_record(producer, self._topic, key, value, headers=(), timestamp_ms=-1))
        for future in futures:
            future.get()

    def _opened(self) -> KafkaProducer:
        if self._producer is None:
            producer = open_producer(
                self._settings,
                key_serializer=NullableKey(),
                transactional_id=self._topic,
                transaction_timeout_ms=TRANSACTION_S * 1000,
                enable_idempotence=True,
                max_request_size=_LARGEST_REQUEST,
                linger_ms=5,
            )
            self._producer = producer
            try:
                with kafka_errors(f"transactions (transactional id {self._topic})"):
                    producer.init_transactions()
                self._log.read()
            except MilvusStreamError:
                self._close()
                raise
        return self._producer

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError):
                producer.close(timeout=0)


def _answers(futures: Mapping[str, Any]) -> tuple[dict[str, Position], str | None]:
    """Wait for the broker's answers. Returns the positions, or the first refusal; raises any other KafkaError."""
    positions: dict[str, Position] = {}
    failures = []
    for record_id, future in futures.items():
        try:
            sent = future.get()
        except KafkaError as error:
            failures.append(error)
        else:
            positions[record_id] = Position(sent.topic, sent.partition, sent.offset)
    # Records behind a refused one fail, too, with other errors: a refusal is the cause.
    refusals = [failure for failure in failures if isinstance(failure, _REFUSALS)]
    if refusals:
        return {}, error_text(refusals[0])
    if failures:
        raise failures[0]
    return positions, None


def _format_position(position: Position) -> str:
    return "/".join(map(str, position))


def _parse_position(text: str) -> Position:
    topic, partition, offset = text.split("/")
    return Position(topic, int(partition), int(offset))
