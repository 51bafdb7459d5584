"""What happens when Kafka partitions come and go: the order of steps that loses nothing."""

import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Protocol

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import FencedInstanceIdError, KafkaError

from consumers.kafka.positions import StartPositions
from pipeline import failpoints
from pipeline.errors import MembershipLost
from pipeline.records import KafkaPartition

log = structlog.get_logger(__name__)

_DRAIN_STEP_S = 0.05
_ANSWER_STEP_S = 0.005


class RebalanceHandler(Protocol):
    """The worker's side. Called while `Source.poll` has not returned, on another thread; none of it may block."""

    def on_assigned(self, partitions: Mapping[KafkaPartition, int]) -> None:
        """These Kafka partitions are read by this worker now, from the given offsets (the committed ones)."""

    def drain(self, partitions: Collection[KafkaPartition]) -> bool:
        """Stop feeding these; True when nothing of them is in flight any more. Called again and again."""

    def committable(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """What may be committed of these now."""

    def on_revoked(self, partitions: Collection[KafkaPartition]) -> None:
        """They go to another worker after this call: forget them."""

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """After `on_revoked`: whether a last call that writes records of these is under way. Called again and again."""

    def on_lost(self, partitions: Collection[KafkaPartition]) -> None:
        """They have gone to another worker already: forget them, commit nothing."""


class GroupListener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Runs on the client's IO thread; only awaits, so heartbeats go on.

    A synchronous listener that commits would stop the whole group. Blocking look-ups go to `executor`. The first
    error is kept in `failure` for poll to raise: raised here it would only be logged and wrapped by the client.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        handler: RebalanceHandler,
        positions: StartPositions,
        executor: Executor,
        *,
        drain_s: float,
    ) -> None:
        self._consumer = consumer
        self._handler = handler
        self._positions = positions
        self._executor = executor
        self._drain_s = drain_s
        self.failure: BaseException | None = None
        self.paused = False
        self.closing = False
        self.committed: dict[KafkaPartition, int] = {}
        """Last offset known to be committed, of the assigned Kafka partitions."""

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Seek to the committed offsets and tell the worker, before anything is fetched."""
        partitions = _names(assigned)
        if not partitions or self.failure is not None:
            return
        try:
            await self._assign(partitions)
        except Exception as error:  # the client would swallow it
            self.failure = error

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Let what is in flight finish, commit what is durable, give the rest up."""
        partitions = _names(revoked)
        if not partitions or self.closing or self.failure is not None:
            return
        try:
            await self._revoke(partitions)
        except Exception as error:  # the client would swallow it
            self.failure = error

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """The membership is gone, another worker reads them already: committing now would take its progress back."""
        partitions = _names(lost)
        if not partitions or self.closing or self.failure is not None:
            return
        try:
            self._forget(partitions)
            self._handler.on_lost(partitions)
        except Exception as error:  # the client would swallow it
            self.failure = error

    async def _assign(self, partitions: Collection[KafkaPartition]) -> None:
        looked_up = self._executor.submit(self._positions.find, partitions)
        while not looked_up.done():
            await self._sleep(_ANSWER_STEP_S)
        begin = looked_up.result()
        for name, offset in begin.positions.items():
            # Also where the client still has a position (eager protocol): what lay between it and the committed
            # offset was dropped when the Kafka partition was revoked and must be read again.
            self._consumer.seek(TopicPartition(*name), offset)
        if self.paused:
            self._consumer.pause(*(TopicPartition(*name) for name in partitions))
        await self._commit(begin.decided)
        self.committed.update(begin.positions)
        self._handler.on_assigned(begin.positions)

    async def _revoke(self, partitions: Collection[KafkaPartition]) -> None:
        deadline = time.monotonic() + self._drain_s
        failpoints.hit("revoke_begun")
        drained = self._handler.drain(partitions)
        while not drained and time.monotonic() < deadline:
            await self._sleep(_DRAIN_STEP_S)
            drained = self._handler.drain(partitions)
        if not drained:
            log.warning("kafka.drain_cut_off", after_s=self._drain_s, what="the next owner reads the rest again")
        failpoints.hit("revoke_drained")
        await self._commit(self._handler.committable(partitions))
        failpoints.hit("revoke_committed")
        self._forget(partitions)
        self._handler.on_revoked(partitions)
        # The next owner reads what is stored as soon as this returns: a write that comes after would be missed.
        while self._handler.writing(partitions):
            await self._sleep(_DRAIN_STEP_S)

    async def _commit(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """A commit that fails is dropped: the records are read and written again, which is exact."""
        if not offsets:
            return
        metadata = {TopicPartition(*name): self._positions.metadata(name, at) for name, at in offsets.items()}
        try:
            await self._consumer.commit_async(metadata)
        except FencedInstanceIdError as error:
            raise MembershipLost(_FENCED) from error
        except KafkaError as error:
            log.warning("kafka.commit_dropped", why=f"{type(error).__name__}: {error}")
        else:
            self.committed.update({name: at for name, at in offsets.items() if name in self.committed})

    async def _sleep(self, seconds: float) -> None:
        # The client has its own event loop; this is the only way to wait on it (no public name, kafka-python 3.0.12).
        await self._consumer._net.sleep(seconds)

    def _forget(self, partitions: Collection[KafkaPartition]) -> None:
        for name in partitions:
            self.committed.pop(name, None)


_FENCED = (
    "another worker has joined with the same kafka.group_instance_id: this one was fenced off and must not write. "
    "Give every worker its own group_instance_id"
)


def fenced(error: Any) -> MembershipLost:
    """The error of a static member whose id was taken by another; kafka-python tells only whoever commits."""
    lost = MembershipLost(_FENCED)
    lost.__cause__ = error
    return lost


def _names(partitions: Iterable[TopicPartition]) -> tuple[KafkaPartition, ...]:
    return tuple(sorted((tp.topic, tp.partition) for tp in partitions))
