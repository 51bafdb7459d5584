"""Records in, offsets out: one member of a consumer group."""

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    CommitFailedError,
    CorruptRecordError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)

from consumers.kafka.admin import log_ranges
from consumers.kafka.connection import KafkaSettings, kafka_errors, open_admin, open_consumer, translated
from consumers.kafka.internals import UnreadableBatch, source_record
from consumers.kafka.positions import Commit, LogRange, StartPositions, begin_at
from consumers.kafka.rebalance import GroupListener, RebalanceHandler, fenced
from pipeline.errors import MilvusStreamError, OffsetsLost
from pipeline.records import KafkaPartition, SourceRecord

log = structlog.get_logger(__name__)

COMMIT_TIMEOUT_S = 5.0
"""A commit that takes longer is given up; the next one carries its offsets, too."""
_ENDS_TIMEOUT_S = 2.0
_ENDS_AGE_S = 1.0
_MAX_POLL_SHARE = 0.2
_SESSION_SHARE = 1 / 3
"""Shares of the limits after which the group goes on without a member that has not rejoined."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Where reading stands on one Kafka partition."""

    end: int
    """Offset of the next record to be produced (to be committed, in a transaction)."""
    committed: int | None
    position: int
    """Offset of the next record that poll returns."""


class Source(Protocol):
    """A member of a consumer group, owned by one thread. An outage of the broker is not an error: poll is empty."""

    def start(self, handler: RebalanceHandler) -> None:
        """Connect and subscribe. Raises UsageError (topic, option, right), Unavailable, OffsetsLost."""

    def poll(self, timeout_s: float) -> list[SourceRecord]:
        """Records of the assigned Kafka partitions, each in its order; calls the handler at a rebalance.

        Must be called at least every `max_poll_interval_ms`, also while paused. A rebalance can hold it for as long
        as a drain may take. Raises OffsetsLost (with the size of the gap), MembershipLost, UsageError; after any of
        these the source can only be closed.
        """

    def pause(self) -> None:
        """Read nothing more, of all Kafka partitions and of those assigned later."""

    def resume(self) -> None:
        """Go on reading where pause stopped it."""

    def commit(self, offsets: Mapping[KafkaPartition, int]) -> bool:
        """Commit; False if it had no effect or no answer came (a rebalance, an outage): the records are redone.

        Raises MembershipLost when fenced, UsageError without the right to commit.
        """

    def assignment(self) -> Collection[KafkaPartition]:
        """The Kafka partitions this member reads."""

    def lag(self) -> Mapping[KafkaPartition, Lag]:
        """For each assigned Kafka partition; ends are up to a second old, older in an outage.

        Call it regularly: it is also how a topic that was deleted and created anew is noticed (poll raises it).
        """

    def ends(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """End offsets now. Raises Unavailable."""

    def last_heartbeat(self) -> float:
        """Monotonic time at which the group certainly counted this member in; -inf while it is no member."""

    def close(self, timeout_s: float) -> None:
        """Leave the group (a static member stays); commits nothing and calls no handler."""


class KafkaSource:
    """Source on kafka-python: classic group protocol, manual commits, no reset of offsets by itself."""

    def __init__(self, settings: KafkaSettings, *, stored: Callable[[str], bool] | None = None) -> None:
        """`stored(topic)`: whether the store holds documents of the topic; see StartPositions."""
        self._settings = settings
        self._stored = stored
        self._consumer: KafkaConsumer | None = None
        self._admin: KafkaAdminClient | None = None
        self._listener: GroupListener | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kafka-positions")
        self._positions: StartPositions | None = None
        self._ends: dict[KafkaPartition, int] = {}
        self._ends_at = float("-inf")
        self._heartbeat = float("-inf")
        self._joining = float("-inf")

    def start(self, handler: RebalanceHandler) -> None:
        """See Source.start."""
        settings = self._settings
        self._admin = open_admin(settings)
        self._positions = StartPositions(self._admin, settings, self._stored)
        self._positions.before_joining()
        self._consumer = open_consumer(settings, group=True, on_join=self._on_join)
        self._listener = GroupListener(
            self._consumer,
            handler,
            self._positions,
            self._executor,
            drain_s=min(
                _MAX_POLL_SHARE * settings.max_poll_interval_ms / 1000,
                _SESSION_SHARE * settings.session_timeout_ms / 1000,
            ),
        )
        self._consumer.subscribe(topics=list(settings.topics), listener=self._listener)
        with kafka_errors("the topics' partitions"):
            for topic in settings.topics:
                # Known before joining: a leader that has no metadata yet would assign nothing, to anybody.
                self._consumer.partitions_for_topic(topic)

    def poll(self, timeout_s: float) -> list[SourceRecord]:
        """See Source.poll."""
        consumer, listener = self._started()
        self._raise_failure()
        coordinator = consumer._coordinator
        if coordinator.rejoining:
            # A leader that rejoins because a topic has more partitions forgets the reason while it assigns them. If
            # that poll ends first, no later one would finish the join: heartbeats stop, the group goes on without
            # this member, and it reads on as a zombie (kafka-python 3.0.12).
            coordinator.request_rejoin()
        try:
            batches = consumer.poll(timeout_ms=max(0, round(timeout_s * 1000)))
        except KafkaError as error:
            # What the listener met is the cause of whatever the client says about it.
            self._raise_failure()
            if isinstance(error, RetriableError) and not isinstance(error, AuthorizationError):
                log.warning("kafka.poll_failed", why=f"{type(error).__name__}: {error}", what="trying again")
                time.sleep(min(timeout_s, 0.1))
                return []
            listener.failure = self._fatal(error)
        self._raise_failure()
        assert self._positions is not None  # set with the consumer  # noqa: S101
        records: list[SourceRecord] = []
        for tp, batch in batches.items():
            topic_id = self._positions.topic_ids.get(tp.topic, "")
            records += [source_record(raw, topic_id) for raw in batch]
        return records

    def pause(self) -> None:
        """See Source.pause."""
        consumer, listener = self._started()
        listener.paused = True
        consumer.pause(*consumer.assignment())

    def resume(self) -> None:
        """See Source.resume."""
        consumer, listener = self._started()
        listener.paused = False
        consumer.resume(*consumer.assignment())

    def commit(self, offsets: Mapping[KafkaPartition, int]) -> bool:
        """See Source.commit."""
        consumer, listener = self._started()
        assert self._positions is not None  # set with the consumer  # noqa: S101
        mine = {name: at for name, at in offsets.items() if name in listener.committed}
        if not mine:
            return False
        try:
            consumer.commit(
                {TopicPartition(*name): self._positions.metadata(name, at) for name, at in mine.items()},
                timeout_ms=COMMIT_TIMEOUT_S * 1000,
            )
        except FencedInstanceIdError as error:
            raise fenced(error) from error
        except _NO_COMMIT as error:
            log.warning("kafka.commit_dropped", why=f"{type(error).__name__}: {error}")
            return False
        except KafkaError as error:
            raise translated(error, "a commit") from error
        listener.committed.update(mine)
        return len(mine) == len(offsets)

    def assignment(self) -> Collection[KafkaPartition]:
        """See Source.assignment."""
        if self._consumer is None:
            return frozenset()
        return frozenset((tp.topic, tp.partition) for tp in self._consumer.assignment())

    def lag(self) -> Mapping[KafkaPartition, Lag]:
        """See Source.lag."""
        consumer, listener = self._started()
        mine = set(listener.committed) & set(self.assignment())
        now = time.monotonic()
        if now - self._ends_at >= _ENDS_AGE_S or not mine <= self._ends.keys():
            self._look(mine)
            self._ends_at = now
        result = {}
        for name in mine & self._ends.keys():
            at = listener.committed[name]
            try:
                position = consumer.position(TopicPartition(*name), timeout_ms=0)
            except KafkaError as error:  # kafka-python tells of a truncated log only once: poll must raise it
                listener.failure = self._fatal(error)
                break
            result[name] = Lag(self._ends[name], at, at if position is None else position)
        return result

    def ends(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """See Source.ends."""
        consumer, _ = self._started()
        if not partitions:
            return {}
        with kafka_errors("the end offsets"):
            found = consumer.end_offsets(
                [TopicPartition(*name) for name in partitions], timeout_ms=_ENDS_TIMEOUT_S * 1000
            )
        return {(tp.topic, tp.partition): offset for tp, offset in found.items()}

    def last_heartbeat(self) -> float:
        """See Source.last_heartbeat."""
        if self._consumer is None:
            return float("-inf")
        coordinator = self._consumer._coordinator
        if not coordinator._generation.has_member_id():
            return float("-inf")
        # The broker's clock for this member starts anew when it *gets* a heartbeat or a wish to join, so the time of
        # sending one that succeeded is certain. The client's own `last_reset` is not: it also moves when a process that
        # was stopped finds its coordinator again, long after it has been replaced. Each time is read before what makes
        # it valid, because the client's thread goes on meanwhile.
        beat, joining = coordinator.heartbeat, self._joining
        sent = beat.last_send
        if sent <= beat.last_receive:
            self._heartbeat = max(self._heartbeat, sent)
        return max(self._heartbeat, joining) if coordinator.stable() else self._heartbeat

    def _on_join(self) -> None:
        self._joining = time.monotonic()

    def close(self, timeout_s: float) -> None:
        """See Source.close."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._listener is not None:
            self._listener.closing = True
        consumer, self._consumer = self._consumer, None
        admin, self._admin = self._admin, None
        if consumer is not None:
            with suppress(KafkaError):
                # Without a timeout it waits 30 s for a group that is in the middle of a rebalance.
                consumer.close(autocommit=False, timeout_ms=timeout_s * 1000)
        if admin is not None:
            admin.close()

    def _look(self, partitions: Collection[KafkaPartition]) -> None:
        """Read the ends anew, and notice a topic that was created anew: its offsets count from 0 again."""
        _, listener = self._started()
        assert self._positions is not None  # set with the consumer  # noqa: S101
        try:
            self._ends = dict(self.ends(partitions))
            self._positions.still_the_same({topic for topic, _ in partitions})
        except OffsetsLost as error:
            listener.failure = error
        except MilvusStreamError as error:
            log.warning("kafka.lag_unknown", why=str(error))

    def _started(self) -> tuple[KafkaConsumer, GroupListener]:
        if self._consumer is None or self._listener is None:
            raise RuntimeError("the source is not started, or closed")
        return self._consumer, self._listener

    def _raise_failure(self) -> None:
        if self._listener is not None and self._listener.failure is not None:
            raise self._listener.failure

    def _fatal(self, error: KafkaError) -> MilvusStreamError:
        """What an error of poll means; polling again would skip records, hang or repeat it."""
        if isinstance(error, FencedInstanceIdError):
            return fenced(error)
        if isinstance(error, OffsetOutOfRangeError):
            return self._lost(error.args[0])
        if isinstance(error, LogTruncationError):
            found: MilvusStreamError = OffsetsLost(f"the log was truncated below what was read already: {error}")
        elif isinstance(error, UnreadableBatch):
            found = MilvusStreamError(f"{error}. {_GIVE_UP}")
        elif isinstance(error, CorruptRecordError):
            # Polled again, kafka-python 3.0.12 would loop for ever inside poll.
            found = MilvusStreamError(
                f"a record cannot be read{self._unreadable()}: {error}. It is damaged. {_GIVE_UP}"
            )
        else:
            found = translated(error, "reading")
        found.__cause__ = error
        return found

    def _lost(self, offsets: Mapping[TopicPartition, int]) -> MilvusStreamError:
        assert self._admin is not None and self._positions is not None  # set with the consumer  # noqa: S101, PT018
        names = {(tp.topic, tp.partition): at for tp, at in offsets.items()}
        try:
            with kafka_errors("the first and last offsets of the topics"):
                ranges = log_ranges(self._admin, list(names))
            for name, at in names.items():
                begin_at(name, LogRange(*ranges[name]), Commit(at, ""), topic_id="", read_before=True, first=0)
        except MilvusStreamError as error:
            return error
        return OffsetsLost(f"the broker says these offsets are out of range, though its log holds them: {names}")

    def _unreadable(self) -> str:
        parked: Any = self._consumer._fetcher._next_partition_records if self._consumer is not None else None
        if not parked:
            return ""
        return (
            f" at {parked.topic_partition.topic}/{parked.topic_partition.partition}, offset {parked.next_fetch_offset}"
        )


_GIVE_UP = "To give it up, commit the next offset (kafka-consumer-groups --reset-offsets, worker stopped)"
_NO_COMMIT = (
    CommitFailedError,
    RebalanceInProgressError,
    IllegalGenerationError,
    UnknownMemberIdError,
    KafkaTimeoutError,
    RetriableError,
)
