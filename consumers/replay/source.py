"""The Source of a replay: fixed Kafka partitions with an end, read by the job that holds the collection."""

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

import structlog
from kafka import TopicPartition
from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError, RetriableError
from typing_extensions import override

from consumers.kafka import JobMembership, KafkaSettings, Lag, RebalanceHandler, Source
from consumers.kafka.client.connection import open_admin, open_consumer
from consumers.kafka.client.errors import error_text, kafka_errors, translated
from consumers.kafka.positions.start_positions import check_topic_ids, commit_metadata
from consumers.kafka.source.base_source import COMMIT_TIMEOUT_S, BaseSource, source_records
from consumers.kafka.topics.admin import EARLIEST, stable_offsets
from consumers.replay.range import ReplaySpan
from pipeline.errors import MilvusStreamError, OffsetsLost
from pipeline.records import KafkaPartition, SourceRecord

log = structlog.get_logger(__name__)

_TOPIC_CHECK_S = 5.0
"""A topic that was deleted and recreated is noticed within this time."""


class ReplaySource(BaseSource, Source):
    """A Source that reads the same Kafka partitions from start to end, and never a record behind the end.

    It does not join the live group, so it does not disturb it; `commit` keeps the position under the replay's group id.
    """

    def __init__(
        self, settings: KafkaSettings, span: ReplaySpan, member: JobMembership, *, rate: float | None = None
    ) -> None:
        """`settings`: those of the live group; `span`: not empty; `rate`: most records a second.

        `member`: this job's own, which the caller joins and closes.
        """
        super().__init__(
            f"To skip it, replay the ranges before and after it, or commit the next offset to the group {span.group_id}"
        )
        options = {name: value for name, value in settings.options.items() if name != "group_instance_id"}
        most = settings.max_poll_records if rate is None else min(settings.max_poll_records, max(1, round(rate / 5)))
        self._settings = replace(settings, group_id=span.group_id, options=options, max_poll_records=most)
        self._member = member
        self._rate = rate
        self._next_poll_at = time.monotonic()
        self._span = span
        self._ends = {name: offsets.end for name, offsets in span.to_read.items()}
        self._handler: RebalanceHandler | None = None
        self._paused = False
        self._unfinished = set(self._ends)
        self._committed = {name: offsets.position for name, offsets in span.to_read.items()}
        self._topics_checked_at = time.monotonic()

    @override
    def start(self, handler: RebalanceHandler) -> None:
        """Connect and call the handler once, with the whole assignment. Raises UsageError, Unavailable."""
        self._admin = open_admin(self._settings)
        self._consumer = consumer = open_consumer(self._settings, group=True)
        consumer.assign([TopicPartition(*name) for name in self._ends])
        for name, position in self._committed.items():
            consumer.seek(TopicPartition(*name), position)
        self._handler = handler
        handler.on_assigned(dict(self._committed))

    @override
    def reread(self) -> None:
        consumer = self._open_consumer()
        for name, position in self._committed.items():
            consumer.seek(TopicPartition(*name), position)
        self._unfinished = set(self._ends)
        if not self._paused:
            self.resume()
        if self._handler is not None:
            self._handler.on_assigned(dict(self._committed))

    @override
    def poll(self, timeout_s: float) -> list[SourceRecord]:
        self._open_consumer()
        self._failure.check()
        self._member.check()
        if (wait := self._next_poll_at - time.monotonic()) > 0:
            time.sleep(min(wait, timeout_s))
            if wait > timeout_s:
                return []
        records = source_records(self._fetch(timeout_s), self._span.topic_ids, self._ends)
        self._pause_finished()
        if self._rate is not None and records:
            self._next_poll_at = max(self._next_poll_at, time.monotonic() - 1) + len(records) / self._rate
        return records

    @override
    def pause(self) -> None:
        self._paused = True
        self._open_consumer().pause(*(TopicPartition(*name) for name in self._unfinished))

    @override
    def resume(self) -> None:
        """Continue reading; a Kafka partition that is read to its end remains paused."""
        self._paused = False
        self._open_consumer().resume(*(TopicPartition(*name) for name in self._unfinished))

    @override
    def commit(self, offsets: Mapping[KafkaPartition, int]) -> bool:
        """Commit the position of the replay, not of the live group; only while no other job can go on from it."""
        if self._member.left_s() <= 0:
            log.warning("kafka.commit_dropped", why="Kafka has not answered this job's heartbeats")
            return False
        commits = {
            TopicPartition(*name): commit_metadata(
                at, self._span.topic_ids.get(name[0], ""), collection_id=self._span.collection_id
            )
            for name, at in offsets.items()
        }
        try:
            self._open_consumer().commit(commits, timeout_ms=COMMIT_TIMEOUT_S * 1000)
        except KafkaError as error:
            if isinstance(error, AuthorizationError) or not isinstance(error, RetriableError | KafkaTimeoutError):
                raise translated(error, f"a commit to the replay's group {self._span.group_id}") from error
            log.warning("kafka.commit_dropped", why=error_text(error))
            return False
        self._committed.update(offsets)
        return True

    @override
    def assignment(self) -> Collection[KafkaPartition]:
        return frozenset(self._ends)

    @override
    def lag(self) -> Mapping[KafkaPartition, Lag]:
        """Measure the lag; the ends are those of the range."""
        self._open_consumer()
        if time.monotonic() - self._topics_checked_at >= _TOPIC_CHECK_S:
            self._check_topics()
            self._topics_checked_at = time.monotonic()
        lags = {}
        for name, end in self._ends.items():
            position = self._position(name) if name in self._unfinished else end
            committed = self._committed[name]
            position = committed if position is None else min(position, end)
            lags[name] = Lag(end, committed, position, time.monotonic())
        return lags

    @override
    def ends(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """Return the ends of the range, which were fixed before the start."""
        return {name: self._ends[name] for name in partitions}

    @property
    def exhausted(self) -> bool:
        """Whether every record of the range has been returned by `poll`."""
        return not self._unfinished

    @override
    def last_heartbeat(self) -> float:
        """Return the latest time of `suspend_clock` at which no other job could write the collection."""
        return self._member.last_heartbeat()

    def _pause_finished(self) -> None:
        """Pause Kafka partitions read to their end; by position, as compaction and transactions leave holes there."""
        for name in tuple(self._unfinished):
            position = self._position(name)
            if position is not None and position >= self._ends[name]:
                self._open_consumer().pause(TopicPartition(*name))
                self._unfinished.discard(name)

    def _check_topics(self) -> None:
        topic_ids = {topic: self._span.topic_ids.get(topic, "") for topic, _ in self._ends}
        try:
            check_topic_ids(self._open_admin(), topic_ids)
        except OffsetsLost as error:
            self._failure.error = error
        except MilvusStreamError as error:
            log.warning("kafka.topics_unknown", why=str(error))

    @override
    def _out_of_range(self, positions: Mapping[KafkaPartition, int]) -> MilvusStreamError:
        try:
            with kafka_errors("the first offsets of the topics"):
                first = stable_offsets(self._open_admin(), positions, EARLIEST)
        except MilvusStreamError as error:
            return error
        gaps = [f"{topic}/{n}: {first[topic, n] - at} from {at} on" for (topic, n), at in sorted(positions.items())]
        return OffsetsLost(
            f"records of the range were deleted before they were read ({', '.join(gaps)}; retention or deletion). "
            f"Replay with a later --from, or delete the group {self._span.group_id} to replay the remaining records"
        )
