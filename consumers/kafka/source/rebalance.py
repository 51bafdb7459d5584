"""The rebalance listener: the steps at each change of the assignment, in an order that loses nothing."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from typing import Protocol

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import FencedInstanceIdError, KafkaError

from consumers.kafka.client.errors import error_text, fenced
from consumers.kafka.client.internals import client_sleep, member_id, seek
from consumers.kafka.positions.start_positions import StartOffsets, StartPositions
from consumers.kafka.source.base_source import SourceFailure
from pipeline import failpoints
from pipeline.errors import Unavailable
from pipeline.records import KafkaPartition

log = structlog.get_logger(__name__)

_DRAIN_STEP_S = 0.05
_ANSWER_STEP_S = 0.005
_AGAIN_S = 1.0


class RebalanceHandler(Protocol):
    """The worker's reaction to a rebalance. Called on another thread while `Source.poll` blocks; it must not block."""

    def on_assigned(self, partitions: Mapping[KafkaPartition, int]) -> None:
        """Take over these Kafka partitions, which are read from the given offsets (the committed ones).

        Each call begins an epoch of each of them, also where it is owned already: what was read of it before counts
        no more.
        """

    def drain(self, partitions: Collection[KafkaPartition]) -> bool:
        """Stop feeding these Kafka partitions; True when none of their records is in flight. Called repeatedly."""

    def committable(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """Return the offsets of these Kafka partitions that may be committed now."""

    def on_revoked(self, partitions: Collection[KafkaPartition]) -> None:
        """Forget these Kafka partitions, which go to another worker after this call."""

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a write of records of these Kafka partitions is under way, after `on_revoked`. Called repeatedly."""

    def on_lost(self, partitions: Collection[KafkaPartition]) -> None:
        """Forget these Kafka partitions without a commit: they have gone to another worker already."""


class GroupListener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """A rebalance listener on the client's IO thread. It only awaits, so heartbeats go on.

    A synchronous listener that commits would stop the whole group. Blocking calls run on `executor`. The first error
    is kept in `failure`, which poll raises: raised here, the client would only log it.

    Kafka partitions belong to the member id under which they were assigned. Under another id they are lost, whatever
    the client calls: a member that was refused has been replaced for a session or longer.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        handler: RebalanceHandler,
        positions: StartPositions,
        executor: Executor,
        failure: SourceFailure,
        *,
        drain_s: float,
        take_over: Callable[[], float],
        await_jobs: Callable[[], None] = lambda: None,
    ) -> None:
        """`take_over`: seconds that a new member still waits before it takes over, called until it is not positive.

        `await_jobs` blocks until no job can be writing documents of this group.
        """
        self._consumer = consumer
        self._handler = handler
        self.positions = positions
        self._executor = executor
        self._drain_s = drain_s
        self._failure = failure
        self._take_over = take_over
        self._await_jobs = await_jobs
        self._member = ""
        """The id under which the Kafka partitions in `committed` were assigned."""
        self.paused = False
        self.closing = False
        self.postponed: set[KafkaPartition] = set()
        """Assigned, and not begun yet: where to begin could not be read."""
        self._again_at = 0.0
        self.committed: dict[KafkaPartition, int] = {}
        """The last committed offset of each assigned Kafka partition; without one, where reading began."""

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Seek to the committed offsets and call the worker, before anything is fetched."""
        partitions = _names(assigned)
        if not partitions or self._failure.error is not None:
            return
        try:
            await self._assign(partitions)
        except Unavailable as error:
            self._postpone(partitions, error)
        except Exception as error:  # the client would swallow it
            self._failure.error = error

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Drain the records in flight, commit the durable ones, and give up the rest."""
        partitions = self._begun(revoked)
        if not partitions or self.closing or self._failure.error is not None:
            return
        try:
            if self.outlived:
                self._lose(tuple(self.committed))
            else:
                await self._revoke(partitions)
        except Exception as error:  # the client would swallow it
            self._failure.error = error

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """Forget the Kafka partitions: another worker reads them, and a commit now would undo its progress."""
        partitions = self._begun(lost)
        if not partitions or self.closing or self._failure.error is not None:
            return
        try:
            self._lose(partitions)
        except Exception as error:  # the client would swallow it
            self._failure.error = error

    @property
    def outlived(self) -> bool:
        """Whether Kafka partitions are still owned under an id that is this member's no more."""
        return bool(self.committed) and self._member != member_id(self._consumer)

    def assigned_to(self, member: str) -> bool:
        """Whether the Kafka partitions were assigned under this id, and it is this member's still."""
        return self._member == member and not self.outlived

    def check_member(self, assigned: Collection[KafkaPartition]) -> bool:
        """Handle a loss that the client has not announced; True: everything assigned is read again. Blocks.

        For the polling thread, of a member whose group is stable.
        """
        if self.outlived:
            self._lose(tuple(self.committed))
        if all(name in self.committed or name in self.postponed for name in assigned):
            return False
        self._await_jobs()
        self.reread(assigned)
        return True

    def begin_postponed(self) -> None:
        """Try again, once a second, to begin what could not be begun. Blocks; for the polling thread.

        For months a worker waits for Milvus wherever it needs it. Ending here instead would end it for a rebalance that
        happens to fall into an outage.
        """
        if not self.postponed or time.monotonic() < self._again_at:
            return
        waiting = sorted(self.postponed)
        try:
            self._await_jobs()
            self.reread(waiting)
        except Unavailable:
            self._again_at = time.monotonic() + _AGAIN_S
            return
        self.postponed.clear()
        log.info("kafka.begun", partitions=[f"{topic}/{number}" for topic, number in waiting])
        if not self.paused:
            self._consumer.resume(*(TopicPartition(*name) for name in waiting))

    def reread(self, partitions: Collection[KafkaPartition]) -> None:
        """Begin these Kafka partitions again at their committed offsets. Blocks; for the polling thread.

        A start without a commit remains one: Milvus remembers it until the first commit of what was read.
        """
        if not partitions:
            return
        self._member = member_id(self._consumer)
        begin = self.positions.find(partitions)
        self._seek(begin)
        self._begin(begin.positions)

    def close(self) -> None:
        """Ignore what the client announces from now on, and wait for the last write of positions.

        Another worker reads them as soon as this member leaves. Blocks; for the polling thread.
        """
        self.closing = True
        owned = tuple(self.committed)
        self.positions.released(owned)
        while self.positions.writing(owned):
            time.sleep(_DRAIN_STEP_S)

    def confirmed(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Record offsets that Kafka has committed."""
        self.committed.update({name: at for name, at in offsets.items() if name in self.committed})
        self.positions.confirmed(offsets)

    async def _assign(self, partitions: Collection[KafkaPartition]) -> None:
        if self.outlived:
            self._lose(tuple(self.committed))
        self._member = member_id(self._consumer)
        while (wait_s := self._take_over()) > 0:
            await client_sleep(self._consumer, min(wait_s, _DRAIN_STEP_S))
        search = self._executor.submit(self._find_start, partitions)
        while not search.done():
            await client_sleep(self._consumer, _ANSWER_STEP_S)
        begin = search.result()
        self._seek(begin)
        if self.paused:
            self._consumer.pause(*(TopicPartition(*name) for name in partitions))
        await self._commit({**begin.rebound, **begin.decided})
        self._begin(begin.positions)

    def _postpone(self, partitions: Collection[KafkaPartition], error: Unavailable) -> None:
        """Leave Kafka partitions paused, at a position that is never read: the client raises where it has none."""
        log.warning(
            "kafka.begin_postponed",
            partitions=[f"{topic}/{number}" for topic, number in partitions],
            why=str(error),
            what="it is tried again until it succeeds",
        )
        for name in partitions:
            seek(self._consumer, TopicPartition(*name), 0, -1)
        self._consumer.pause(*(TopicPartition(*name) for name in partitions))
        self.postponed.update(partitions)
        self._again_at = time.monotonic() + _AGAIN_S

    def _begun(self, partitions: Iterable[TopicPartition]) -> tuple[KafkaPartition, ...]:
        """Those of which the worker knows; of the others nothing is in flight, and nothing is to be begun any more."""
        names = _names(partitions)
        begun = tuple(name for name in names if name not in self.postponed)
        self.postponed.difference_update(names)
        return begun

    def _find_start(self, partitions: Collection[KafkaPartition]) -> StartOffsets:
        self._await_jobs()
        return self.positions.find(partitions)

    def _seek(self, begin: StartOffsets) -> None:
        """Read on at these offsets, after the client has compared their leader epochs with the log.

        Needed even if the client still has a position (eager protocol): the records between it and the committed offset
        were dropped when the Kafka partition was revoked, and must be read again.
        """
        for name, offset in begin.positions.items():
            seek(self._consumer, TopicPartition(*name), offset, begin.epochs.get(name, -1))

    def _begin(self, positions: Mapping[KafkaPartition, int]) -> None:
        self.committed.update(positions)
        self._handler.on_assigned(positions)

    def _lose(self, partitions: Collection[KafkaPartition]) -> None:
        """Call the worker before the lease is answered again: `outlived` ends when nothing is owned."""
        self._handler.on_lost(partitions)
        self._forget(partitions)

    async def _revoke(self, partitions: Collection[KafkaPartition]) -> None:
        deadline = time.monotonic() + self._drain_s
        failpoints.hit("revoke_begun")
        drained = self._handler.drain(partitions)
        while not drained and time.monotonic() < deadline:
            await client_sleep(self._consumer, _DRAIN_STEP_S)
            drained = self._handler.drain(partitions)
        if not drained:
            log.warning("kafka.drain_cut_off", after_s=self._drain_s, what="the next owner reads the rest again")
        failpoints.hit("revoke_drained")
        await self._commit(self._handler.committable(partitions))
        failpoints.hit("revoke_committed")
        self._forget(partitions)
        self._handler.on_revoked(partitions)
        # The next owner reads documents and positions as soon as this returns, and would miss a later write.
        while self._handler.writing(partitions) or self.positions.writing(partitions):
            await client_sleep(self._consumer, _DRAIN_STEP_S)

    async def _commit(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Commit. A failed commit is dropped: the records are read and written again, which is exact.

        So is a start without a commit: the next one begins there, as Milvus remembers.
        """
        if not offsets:
            return
        metadata = {TopicPartition(*name): self.positions.metadata(name, at) for name, at in offsets.items()}
        try:
            await self._consumer.commit_async(metadata)
        except FencedInstanceIdError as error:
            raise fenced(error) from error
        except KafkaError as error:
            log.warning("kafka.commit_dropped", why=error_text(error))
        else:
            self.confirmed(offsets)

    def _forget(self, partitions: Collection[KafkaPartition]) -> None:
        self.positions.released(partitions)
        for name in partitions:
            self.committed.pop(name, None)


def _names(partitions: Iterable[TopicPartition]) -> tuple[KafkaPartition, ...]:
    return tuple(sorted((tp.topic, tp.partition) for tp in partitions))
