"""The common part of the sources of a consumer group and of a replay."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    FencedInstanceIdError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    RetriableError,
)

from consumers.kafka.client.errors import error_text, fenced, translated
from consumers.kafka.client.internals import UnreadableBatch, unread_position
from consumers.kafka.positions.remembered import truncated
from consumers.kafka.records.source_record import source_record
from pipeline.errors import MilvusStreamError
from pipeline.records import KafkaPartition, SourceRecord

log = structlog.get_logger(__name__)

COMMIT_TIMEOUT_S = 5.0
"""A commit that takes longer is abandoned; the next one includes its offsets."""
_RETRY_PAUSE_S = 0.1


class SourceFailure:
    """The first error that ends a source. A poll after it would skip records, hang or fail again."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            raise self.error


class BaseSource(ABC):
    """A source's kafka-python clients, its polls, and the meaning of their errors."""

    def __init__(self, remedy: str) -> None:
        """`remedy`: a sentence on how to go on after a record that cannot be read."""
        self._remedy = remedy
        self._consumer: KafkaConsumer | None = None
        self._admin: KafkaAdminClient | None = None
        self._failure = SourceFailure()

    def _open_consumer(self) -> KafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("the source is not started, or closed")
        return self._consumer

    def _open_admin(self) -> KafkaAdminClient:
        if self._admin is None:
            raise RuntimeError("the source is not started, or closed")
        return self._admin

    def _fetch(self, timeout_s: float) -> Mapping[TopicPartition, Sequence[Any]]:
        """Poll once; empty after an error that may pass. Raises the source's failure."""
        try:
            batches: Mapping[TopicPartition, Sequence[Any]] = self._open_consumer().poll(
                timeout_ms=max(0, round(timeout_s * 1000))
            )
        except KafkaError as error:
            # A failure of the rebalance listener is the cause of anything the client reports after it.
            self._failure.check()
            if isinstance(error, RetriableError) and not isinstance(error, AuthorizationError):
                log.warning("kafka.poll_failed", why=error_text(error), what="it is retried")
                time.sleep(min(timeout_s, _RETRY_PAUSE_S))
                return {}
            self._failure.error = self._read_failure(error)
        self._failure.check()
        return batches

    def _position(self, name: KafkaPartition) -> int | None:
        """Return the offset of the next record; None if it is unknown or the source has failed.

        kafka-python reports a truncated log only once, here or in poll, so the failure is kept for the next poll.
        """
        try:
            position: int | None = self._open_consumer().position(TopicPartition(*name), timeout_ms=0)
        except KafkaError as error:
            self._failure.error = self._read_failure(error)
            return None
        return position

    def _read_failure(self, error: KafkaError) -> MilvusStreamError:
        """Return the error that ends the source after a failed poll."""
        if isinstance(error, FencedInstanceIdError):
            return fenced(error)
        if isinstance(error, OffsetOutOfRangeError):
            failure: MilvusStreamError = self._out_of_range(
                {(tp.topic, tp.partition): at for tp, at in error.args[0].items()}
            )
        elif isinstance(error, LogTruncationError):
            (tp, divergent), *_ = error.divergent_offsets.items()
            position = self._open_consumer().position(tp, timeout_ms=0) or 0
            failure = truncated((tp.topic, tp.partition), position, None if divergent is None else divergent.offset)
        elif isinstance(error, UnreadableBatch):
            failure = MilvusStreamError(f"{error}. {self._remedy}")
        elif isinstance(error, CorruptRecordError):
            # Polled again, kafka-python 3.0.12 would loop for ever inside poll.
            position = "" if self._consumer is None else unread_position(self._consumer)
            failure = MilvusStreamError(f"a record cannot be read{position}: {error}. It is damaged. {self._remedy}")
        else:
            failure = translated(error, "reading")
        failure.__cause__ = error
        return failure

    @abstractmethod
    def _out_of_range(self, positions: Mapping[KafkaPartition, int]) -> MilvusStreamError:
        """Return the error for positions outside the log, with the size of the gap."""

    def close(self, timeout_s: float) -> None:
        """Close the clients without a commit."""
        consumer, self._consumer = self._consumer, None
        admin, self._admin = self._admin, None
        if consumer is not None:
            with suppress(KafkaError):
                # Without a timeout it waits 30 s for a group that is in the middle of a rebalance.
                consumer.close(autocommit=False, timeout_ms=timeout_s * 1000)
        if admin is not None:
            admin.close()


def source_records(
    batches: Mapping[TopicPartition, Sequence[Any]],
    topic_ids: Mapping[str, str],
    ends: Mapping[KafkaPartition, int] | None = None,
) -> list[SourceRecord]:
    """Convert polled batches; `ends`: offsets before which the records are kept, None for all records."""
    records: list[SourceRecord] = []
    for tp, batch in batches.items():
        topic_id = topic_ids.get(tp.topic, "")
        if ends is None:
            records += [source_record(raw, topic_id) for raw in batch]
        else:
            end = ends[tp.topic, tp.partition]
            records += [source_record(raw, topic_id) for raw in batch if raw.offset < end]
    return records
