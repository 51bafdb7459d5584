"""The member of a consumer group: reads records and commits offsets."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
from typing_extensions import override

from consumers.kafka.client.connection import STATIC_LEASE_S, KafkaSettings, open_admin, open_consumer
from consumers.kafka.client.errors import error_text, fenced, kafka_errors, translated
from consumers.kafka.client.internals import (
    finish_join,
    follow_membership,
    is_replaced,
    is_stable,
    last_beat,
    member_id,
)
from consumers.kafka.client.lease_clock import NEVER, LeaseClock
from consumers.kafka.groups.binding import UNBOUND, CollectionBinding
from consumers.kafka.groups.commits import Commit
from consumers.kafka.groups.group_watch import GroupWatch
from consumers.kafka.groups.live_group import await_jobs
from consumers.kafka.positions.begin import begin_at
from consumers.kafka.positions.remembered import PositionMemory
from consumers.kafka.positions.start_positions import StartPositions
from consumers.kafka.source.base_source import COMMIT_TIMEOUT_S, BaseSource, source_records
from consumers.kafka.source.ports import Lag, Source
from consumers.kafka.source.rebalance import GroupListener, RebalanceHandler
from consumers.kafka.topics.admin import LogRange, log_ranges
from pipeline.errors import MembershipLost, MilvusStreamError, OffsetsLost, Unavailable
from pipeline.records import KafkaPartition, SourceRecord

log = structlog.get_logger(__name__)

_ENDS_TIMEOUT_S = 2.0
_ENDS_AGE_S = 1.0
_MAX_POLL_SHARE = 0.2
_SESSION_SHARE = 1 / 3
"""Shares of the poll interval and of the session that a drain may take before the group removes the member."""
_REMEDY = "To skip it, commit the next offset (kafka-consumer-groups --reset-offsets, worker stopped)"
_WITHOUT_EFFECT = (
    CommitFailedError,
    RebalanceInProgressError,
    IllegalGenerationError,
    UnknownMemberIdError,
    KafkaTimeoutError,
    RetriableError,
)
"""Errors after which a commit has, or may have had, no effect; the records are read again."""


class KafkaSource(BaseSource, Source):
    """A Source on kafka-python: classic group protocol, manual commits, no automatic reset of offsets."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        stored: Callable[[str], bool] | None = None,
        binding: CollectionBinding = UNBOUND,
        memory: PositionMemory | None = None,
        accept_gap: bool = False,
        jobs: str | None = None,
        clock: LeaseClock | None = None,
    ) -> None:
        """`stored`, `binding`, `memory` and `accept_gap`: for StartPositions.

        `jobs`: the group that jobs join which write the same documents.
        """
        super().__init__(_REMEDY)
        self._settings = settings
        self._stored = stored
        self._binding = binding
        self._memory = memory
        self._accept_gap = accept_gap
        self._jobs = jobs
        self._closing = threading.Event()
        self._listener: GroupListener | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kafka-positions")
        self._ends: dict[KafkaPartition, int] = {}
        self._ends_at = float("-inf")
        self._ends_read_at = float("-inf")
        self._clock = clock or LeaseClock()
        self._joining = NEVER
        self._joined: tuple[str, float] | None = None
        """The member id for which the wait of a static member was begun, and when."""
        self._read_as: Any = None
        """The group's metadata under which the last poll read."""

    @override
    def start(self, handler: RebalanceHandler) -> None:
        settings = self._settings
        self._admin = open_admin(settings)
        positions = StartPositions(
            self._admin, settings, self._stored, self._binding, memory=self._memory, accept_gap=self._accept_gap
        )
        positions.before_joining()
        self._consumer = open_consumer(settings, group=True, on_join=self._on_join)
        follow_membership(self._consumer, self._clock)
        self._listener = GroupListener(
            self._consumer,
            handler,
            positions,
            self._executor,
            self._failure,
            drain_s=min(
                _MAX_POLL_SHARE * settings.max_poll_interval_ms / 1000,
                _SESSION_SHARE * settings.session_timeout_ms / 1000,
            ),
            take_over=self._take_over_s,
            await_jobs=self._await_jobs,
        )
        self._consumer.subscribe(topics=list(settings.topics), listener=self._listener)
        with kafka_errors("the topics' partitions"):
            for topic in settings.topics:
                # A leader that has no metadata of a topic yet would assign nothing of it, so it is read before joining.
                self._consumer.partitions_for_topic(topic)

    @override
    def poll(self, timeout_s: float) -> list[SourceRecord]:
        consumer, listener = self._started()
        self._failure.check()
        finish_join(consumer)
        if is_stable(consumer):
            listener.begin_postponed()
        batches = self._fetch(timeout_s)
        # Only a poll joins the group, so the records belong to this membership or to one that has ended since.
        self._read_as = consumer.group_metadata()
        listener.positions.epochs.observe(batches)
        records = source_records(batches, listener.positions.topic_ids)
        if is_replaced(consumer):
            self._failure.error = fenced()
            self._failure.check()
        if is_stable(consumer) and listener.check_member(self.assignment()):
            return []
        return records

    @override
    def reread(self) -> None:
        _, listener = self._started()
        self._failure.check()
        if not listener.outlived:  # the next poll handles the loss
            listener.reread(set(listener.committed) & set(self.assignment()))

    @override
    def pause(self) -> None:
        consumer, listener = self._started()
        listener.paused = True
        consumer.pause(*consumer.assignment())

    @override
    def resume(self) -> None:
        consumer, listener = self._started()
        listener.paused = False
        begun = (tp for tp in consumer.assignment() if (tp.topic, tp.partition) not in listener.postponed)
        consumer.resume(*begun)

    @override
    def commit(self, offsets: Mapping[KafkaPartition, int]) -> bool:
        consumer, listener = self._started()
        assigned = {name: at for name, at in offsets.items() if name in listener.committed}
        if not assigned or listener.outlived:
            return False
        try:
            consumer.commit(
                {TopicPartition(*name): listener.positions.metadata(name, at) for name, at in assigned.items()},
                timeout_ms=COMMIT_TIMEOUT_S * 1000,
            )
        except FencedInstanceIdError as error:
            self._failure.error = fenced(error)
            raise self._failure.error from error
        except _WITHOUT_EFFECT as error:
            log.warning("kafka.commit_dropped", why=error_text(error))
            return False
        except KafkaError as error:
            raise translated(error, "a commit") from error
        listener.confirmed(assigned)
        return len(assigned) == len(offsets)

    def transaction_offsets(self, offsets: Mapping[KafkaPartition, int]) -> tuple[Mapping[TopicPartition, Any], Any]:
        """Return offsets and the group's metadata for a transaction that commits them; see `committed_outside`.

        The metadata is that of the poll which returned the records: the broker refuses it once another member may own
        them. That of a member that was removed since (generation -1, no member id) would be accepted from anybody.
        Raises Unavailable when the membership is known to be lost.
        """
        _, listener = self._started()
        group = self._read_as
        if group.generation_id < 0 or not listener.assigned_to(group.member_id):
            raise Unavailable("this is no member of the group any more: another one reads what is not committed")
        metadata = {TopicPartition(*name): listener.positions.metadata(name, at) for name, at in offsets.items()}
        return metadata, group

    def committed_outside(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Record offsets that a transaction has committed."""
        _, listener = self._started()
        listener.confirmed(offsets)

    @property
    def session_s(self) -> float:
        """Seconds without an answered heartbeat after which this is a member no more."""
        return self._settings.session_timeout_ms / 1000

    @override
    def assignment(self) -> Collection[KafkaPartition]:
        if self._consumer is None:
            return frozenset()
        return frozenset((tp.topic, tp.partition) for tp in self._consumer.assignment())

    @override
    def lag(self) -> Mapping[KafkaPartition, Lag]:
        _, listener = self._started()
        assigned = set(listener.committed) & set(self.assignment())
        now = time.monotonic()
        if now - self._ends_at >= _ENDS_AGE_S or not assigned <= self._ends.keys():
            self._refresh_ends(assigned)
            self._ends_at = now
        lags = {}
        for name in assigned & self._ends.keys():
            committed, position = listener.committed[name], self._position(name)
            position = committed if position is None else position
            lags[name] = Lag(self._ends[name], committed, position, self._ends_read_at)
        return lags

    @override
    def ends(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        consumer, _ = self._started()
        if not partitions:
            return {}
        with kafka_errors("the end offsets"):
            offsets = consumer.end_offsets(
                [TopicPartition(*name) for name in partitions], timeout_ms=_ENDS_TIMEOUT_S * 1000
            )
        return {(tp.topic, tp.partition): offset for tp, offset in offsets.items()}

    @override
    def last_heartbeat(self) -> float:
        """Return the latest time of `suspend_clock` at which this was certainly a member; -inf while it is none.

        The broker's session timer restarts when it receives a heartbeat or a request to join.
        """
        consumer, listener = self._consumer, self._listener
        if consumer is None or listener is None or isinstance(self._failure.error, MembershipLost):
            return float("-inf")
        beat = last_beat(consumer, self._joining)  # before `outlived`, which makes it valid
        return float("-inf") if listener.outlived else self._clock.certain(beat)

    def _on_join(self) -> None:
        self._joining = self._clock.beat()

    def _take_over_s(self) -> float:
        """Seconds until the process whose id this static member has taken can write no more.

        A member that is dynamic gets Kafka partitions only when the session of their former owner is over, or it has
        given them up. The broker gives those of a static member to whoever joins with its id, at once.
        """
        if not self._settings.is_static or self._consumer is None:
            return 0.0
        now, member = self._clock.now(), member_id(self._consumer)
        if self._joined is None or self._joined[0] != member:
            self._joined = (member, now)
        return self._joined[1] + STATIC_LEASE_S - now

    def _await_jobs(self) -> None:
        if self._jobs is not None:
            with closing(GroupWatch(self._settings, self._jobs)) as jobs:
                await_jobs(jobs.active, self._closing)

    @override
    def close(self, timeout_s: float) -> None:
        self._closing.set()
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._listener is not None:
            self._listener.close()
        super().close(timeout_s)

    def _refresh_ends(self, partitions: Collection[KafkaPartition]) -> None:
        """Read the ends again, and notice a recreated topic: its offsets count from 0 again."""
        _, listener = self._started()
        try:
            watch = listener.positions.compaction
            now_ms = watch.now_ms()
            self._ends = dict(self.ends(partitions))
            self._ends_read_at = time.monotonic()
            listener.positions.check_topics({topic for topic, _ in partitions})
            if outdated := watch.observe(self._ends, listener.committed, self._position, now_ms):
                self.commit(outdated)
        except OffsetsLost as error:
            self._failure.error = error
        except MilvusStreamError as error:
            log.warning("kafka.lag_unknown", why=str(error))

    def _started(self) -> tuple[KafkaConsumer, GroupListener]:
        if self._listener is None:
            raise RuntimeError("the source is not started, or closed")
        return self._open_consumer(), self._listener

    @override
    def _out_of_range(self, positions: Mapping[KafkaPartition, int]) -> MilvusStreamError:
        try:
            with kafka_errors("the first and last offsets of the topics"):
                ranges = log_ranges(self._open_admin(), positions)
            for name, at in positions.items():
                begin_at(name, LogRange(*ranges[name]), Commit(at, ""), topic_id="", read_before=True, first=0)
        except MilvusStreamError as error:
            return error
        return OffsetsLost(
            f"the broker reports these offsets as out of range, though its log holds them: {dict(positions)}"
        )
