"""The `Source` of a replay: an assignment of its own, with an end."""

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    OffsetOutOfRangeError,
    RetriableError,
)
from kafka.protocol.consumer import OffsetSpec
from kafka.structs import OffsetAndMetadata

from consumers.kafka.connection import KafkaSettings, kafka_errors, open_admin, open_consumer, translated
from consumers.kafka.internals import UnreadableBatch, source_record
from consumers.kafka.positions import StartPositions
from consumers.kafka.rebalance import RebalanceHandler
from consumers.kafka.source import COMMIT_TIMEOUT_S, Lag
from consumers.replay.range import ReplaySpan, offsets
from pipeline.errors import MilvusStreamError, OffsetsLost
from pipeline.records import KafkaPartition, SourceRecord

log = structlog.get_logger(__name__)

_SAME_TOPIC_S = 5.0
"""A topic that was deleted and created anew is noticed within this time."""


class ReplaySource:
    """Source of a replay: the same Kafka partitions from start to end, and never a record behind the range's end.

    It joins no group, so the live one is not disturbed; `commit` keeps the position under the replay's own group id.
    """

    def __init__(self, settings: KafkaSettings, span: ReplaySpan, *, rate: float | None = None) -> None:
        """`settings` are those of the live group; `span` must have something to read; `rate`: records/s at most."""
        options = {name: value for name, value in settings.options.items() if name != "group_instance_id"}
        at_once = settings.max_poll_records if rate is None else min(settings.max_poll_records, max(1, round(rate / 5)))
        self._settings = replace(settings, group_id=span.group_id, options=options, max_poll_records=at_once)
        self._rate = rate
        self._next_at = time.monotonic()
        self._span = span
        self._ends = {name: found.end for name, found in span.to_read.items()}
        self._open = set(self._ends)
        self._committed = {name: found.position for name, found in span.to_read.items()}
        self._paused = False
        self._consumer: KafkaConsumer | None = None
        self._admin: KafkaAdminClient | None = None
        self._looked = time.monotonic()
        self._failure: MilvusStreamError | None = None

    def start(self, handler: RebalanceHandler) -> None:
        """See Source.start; the handler is told of the whole assignment at once, and of no change after it."""
        self._admin = open_admin(self._settings)
        self._consumer = consumer = open_consumer(self._settings, group=True)
        consumer.assign([TopicPartition(*name) for name in self._ends])
        for name, position in self._committed.items():
            consumer.seek(TopicPartition(*name), position)
        handler.on_assigned(dict(self._committed))

    def poll(self, timeout_s: float) -> list[SourceRecord]:
        """See Source.poll."""
        consumer = self._started()
        self._raise_failure()
        if (wait := self._next_at - time.monotonic()) > 0:
            time.sleep(min(wait, timeout_s))
            if wait > timeout_s:
                return []
        try:
            batches = consumer.poll(timeout_ms=max(0, round(timeout_s * 1000)))
        except KafkaError as error:
            if isinstance(error, RetriableError) and not isinstance(error, AuthorizationError | CorruptRecordError):
                log.warning("kafka.poll_failed", why=f"{type(error).__name__}: {error}", what="trying again")
                time.sleep(min(timeout_s, 0.1))
                return []
            self._failure = self._fatal(error)
        self._raise_failure()
        records = []
        for tp, batch in batches.items():
            end = self._ends[tp.topic, tp.partition]
            topic_id = self._span.topic_ids.get(tp.topic, "")
            records += [source_record(raw, topic_id) for raw in batch if raw.offset < end]
        self._close_finished(consumer)
        if self._rate is not None and records:
            self._next_at = max(self._next_at, time.monotonic() - 1) + len(records) / self._rate
        return records

    def pause(self) -> None:
        """See Source.pause."""
        self._paused = True
        self._started().pause(*self._tps())

    def resume(self) -> None:
        """See Source.resume; a Kafka partition that is finished stays paused."""
        self._paused = False
        self._started().resume(*self._tps())

    def commit(self, offsets: Mapping[KafkaPartition, int]) -> bool:
        """See Source.commit; the position of the replay, not of the live group."""
        committed = {
            TopicPartition(*name): OffsetAndMetadata(at, self._span.topic_ids.get(name[0], ""), -1)
            for name, at in offsets.items()
        }
        try:
            self._started().commit(committed, timeout_ms=COMMIT_TIMEOUT_S * 1000)
        except KafkaError as error:
            if isinstance(error, AuthorizationError) or not isinstance(error, RetriableError | KafkaTimeoutError):
                raise translated(error, f"a commit to the replay's group {self._span.group_id}") from error
            log.warning("kafka.commit_dropped", why=f"{type(error).__name__}: {error}")
            return False
        self._committed.update(offsets)
        return True

    def assignment(self) -> Collection[KafkaPartition]:
        """See Source.assignment."""
        return frozenset(self._ends)

    def lag(self) -> Mapping[KafkaPartition, Lag]:
        """See Source.lag; ends are those of the range."""
        consumer = self._started()
        if time.monotonic() - self._looked >= _SAME_TOPIC_S:
            self._check_topics()
            self._looked = time.monotonic()
        result = {}
        for name, end in self._ends.items():
            position = self._position(consumer, name) if name in self._open else end
            committed = self._committed[name]
            result[name] = Lag(end, committed, committed if position is None else min(position, end))
        return result

    def ends(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """See Source.ends; they were fixed before the start."""
        return {name: self._ends[name] for name in partitions}

    @property
    def exhausted(self) -> bool:
        """Whether everything of the range has been handed on."""
        return not self._open

    def last_heartbeat(self) -> float:
        """See Source.last_heartbeat: nobody can take a replay's Kafka partitions away."""
        return time.monotonic()

    def close(self, timeout_s: float) -> None:
        """See Source.close."""
        consumer, self._consumer = self._consumer, None
        admin, self._admin = self._admin, None
        if consumer is not None:
            with suppress(KafkaError):
                consumer.close(autocommit=False, timeout_ms=timeout_s * 1000)
        if admin is not None:
            admin.close()

    def _tps(self) -> list[TopicPartition]:
        return [TopicPartition(*name) for name in self._open]

    def _close_finished(self, consumer: KafkaConsumer) -> None:
        """Pause for good what is read to its end, by position: compaction and transactions leave holes there."""
        for name in tuple(self._open):
            position = self._position(consumer, name)
            if position is not None and position >= self._ends[name]:
                consumer.pause(TopicPartition(*name))
                self._open.discard(name)

    def _position(self, consumer: KafkaConsumer, name: KafkaPartition) -> int | None:
        try:
            position: int | None = consumer.position(TopicPartition(*name), timeout_ms=0)
        except KafkaError as error:  # kafka-python tells of a truncated log only once: poll must raise it
            self._failure = self._fatal(error)
            return None
        return position

    def _check_topics(self) -> None:
        assert self._admin is not None  # set with the consumer  # noqa: S101
        known = StartPositions(self._admin, self._settings)
        known.topic_ids = dict(self._span.topic_ids)
        try:
            known.still_the_same({topic for topic, _ in self._ends})
        except OffsetsLost as error:
            self._failure = error
        except MilvusStreamError as error:
            log.warning("kafka.topics_unknown", why=str(error))

    def _started(self) -> KafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("the source is not started, or closed")
        return self._consumer

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fatal(self, error: KafkaError) -> MilvusStreamError:
        if isinstance(error, OffsetOutOfRangeError):
            found: MilvusStreamError = self._lost({(tp.topic, tp.partition): at for tp, at in error.args[0].items()})
        elif isinstance(error, LogTruncationError):
            found = OffsetsLost(f"the log was truncated below what was read already: {error}")
        elif isinstance(error, UnreadableBatch):
            found = MilvusStreamError(f"{error}. Or replay the ranges before and after it")
        elif isinstance(error, CorruptRecordError):
            found = MilvusStreamError(
                f"a record cannot be read: {error}. It is damaged. "
                f"Replay the ranges before and after it, or commit the next offset to the group {self._span.group_id}"
            )
        else:
            found = translated(error, "reading")
        found.__cause__ = error
        return found

    def _lost(self, positions: Mapping[KafkaPartition, int]) -> MilvusStreamError:
        assert self._admin is not None  # set with the consumer  # noqa: S101
        try:
            with kafka_errors("the first offsets of the topics"):
                first = offsets(self._admin, positions, OffsetSpec.EARLIEST)
        except MilvusStreamError as error:
            return error
        gaps = [f"{topic}/{n}: {first[topic, n] - at} from {at} on" for (topic, n), at in sorted(positions.items())]
        return OffsetsLost(
            f"records of the range were deleted before they were read ({', '.join(gaps)}; retention or deletion). "
            f"Replay with a later --from, or delete the group {self._span.group_id} to take what is left"
        )
