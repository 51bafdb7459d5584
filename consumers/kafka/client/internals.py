"""The internals of kafka-python that this program uses or replaces; with `batches`, the only user of its private names.

Replaced is what happens to a member that is refused while it joins, how fetched batches become records, and how a
client ends.
kafka-python 3.0 unpacks a whole batch before the size of a record is known, and stops for ever at a header name that is
not UTF-8. Here a batch is unpacked piece by piece, a record too large for memory is cut on the way, and a record with
such a header name gets a defect, which dead-letters it.
"""

from collections.abc import Iterator
from typing import Any

import kafka
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.consumer.fetcher import Fetcher
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.coordinator.heartbeat import Heartbeat
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector
from kafka.structs import OffsetAndMetadata

from consumers.kafka.client.lease_clock import NEVER, Beat, LeaseClock
from consumers.kafka.records.batches import HEADER_COST, Batches, ReadLimits
from consumers.kafka.records.unpacking import Unpackable, missing_codecs
from pipeline.errors import UsageError

_KNOWN = (3, 0)
"""The version of kafka-python whose internals these are."""


class UnreadableBatch(KafkaError):  # type: ignore[misc]  # kafka-python ships no types
    """A batch that cannot be unpacked; the message names its position and what to do."""


def check_client() -> None:
    """Check the version of kafka-python and the packages of the codecs. Raises UsageError."""
    if tuple(int(part) for part in kafka.__version__.split(".")[:2]) != _KNOWN:
        raise UsageError(
            f"kafka-python {kafka.__version__} is installed; milvus-stream reads with the internals of "
            f"{'.'.join(map(str, _KNOWN))}: pip install 'kafka-python=={'.'.join(map(str, _KNOWN))}.*'"
        )
    lacking = missing_codecs()
    if lacking:
        raise UsageError(
            f"records compressed with {' and '.join(codec.name for codec in lacking)} cannot be read, because of "
            f"missing packages: pip install {' '.join(codec.package for codec in lacking)}"
        )


def open_network(**config: Any) -> KafkaNetClient:
    """Return the network of one client, which leaves no socket open when it is closed."""
    return KafkaNetClient(net=_Network(**config), **config)


def bound_reads(consumer: KafkaConsumer, limits: ReadLimits) -> None:
    """Make the consumer read within the limits; its poll may then also raise UnreadableBatch."""
    fetcher = consumer._fetcher
    fetcher.__class__ = _BoundedFetcher
    fetcher.limits = limits


def finish_join(consumer: KafkaConsumer) -> None:
    """Keep a join under way from being forgotten; call it before every poll.

    A leader that rejoins because a topic has more partitions forgets the reason while it assigns them. If that poll
    ends first, no later one finishes the join: heartbeats stop, the group goes on without this member, and it keeps
    reading as a zombie.
    """
    if consumer._coordinator.rejoining:
        consumer._coordinator.request_rejoin()


def follow_membership(consumer: KafkaConsumer, clock: LeaseClock) -> None:
    """Make the consumer announce every loss of its membership, and keep the times of its heartbeats on `clock`."""
    coordinator = consumer._coordinator
    coordinator.__class__ = _Coordinator
    heartbeat = coordinator.heartbeat
    heartbeat.__class__ = _Heartbeat
    heartbeat.clock = clock


def member_id(consumer: KafkaConsumer) -> str:
    """Return the id under which the consumer is a member; empty while it is none."""
    generation = consumer._coordinator._generation
    return str(generation.member_id) if generation.generation_id >= 0 else ""


def is_stable(consumer: KafkaConsumer) -> bool:
    """Whether the consumer is a member of a group that is not rebalancing."""
    return bool(consumer._coordinator.stable())


def is_replaced(consumer: KafkaConsumer) -> bool:
    """Whether another consumer has taken the id of this static member.

    kafka-python reports it nowhere: it sends no heartbeats any more, and goes on reading.
    """
    coordinator = consumer._coordinator
    with coordinator._lock:  # a join that ends sets these fields together
        return coordinator.stable() and not coordinator.rejoining and not coordinator._heartbeat_enabled


def answered_heartbeat(consumer: KafkaConsumer) -> Beat:
    """Return when the last heartbeat that was answered left.

    The broker's session timer restarts when it receives a heartbeat, so only the time of sending is certain. The
    client's own `last_reset` is not: it also moves when a process that was stopped finds its coordinator again, long
    after the group has replaced it.
    """
    answered: Beat = consumer._coordinator.heartbeat.answered
    return answered


def last_beat(consumer: KafkaConsumer, joining: Beat) -> Beat:
    """Return when the last request left that certainly restarted this member's session; `joining`: the last join.

    The times are read before the state that makes them valid, because the client's thread goes on in between; an id is
    never given twice.
    """
    answered = answered_heartbeat(consumer)
    beat = max(joining, answered) if is_stable(consumer) else answered
    return NEVER if is_replaced(consumer) or not member_id(consumer) else beat


def seek(consumer: KafkaConsumer, partition: TopicPartition, offset: int, leader_epoch: int) -> None:
    """Read on at an offset; `leader_epoch`: that of the record before it, -1 if it is unknown.

    With an epoch, the next poll first compares it with the leader's log, and raises LogTruncationError where that
    record is gone. kafka-python's own `seek` takes no epoch.
    """
    consumer.seek(partition, offset)
    if leader_epoch >= 0:
        consumer._subscription.assignment[partition].seek(OffsetAndMetadata(offset, "", leader_epoch))


def unread_position(consumer: KafkaConsumer) -> str:
    """Return ` at TOPIC/PARTITION, offset N` of the batch that stopped the consumer; empty if none did."""
    parked = consumer._fetcher._next_partition_records
    if not parked:
        return ""
    partition = parked.topic_partition
    return f" at {partition.topic}/{partition.partition}, offset {parked.next_fetch_offset}"


async def client_sleep(consumer: KafkaConsumer, seconds: float) -> None:
    """Sleep on the event loop of the client's IO thread, so that heartbeats go on."""
    await consumer._net.sleep(seconds)


def wait_for_transactions(admin: KafkaAdminClient) -> None:
    """Make the admin's requests for committed offsets fail while a transaction that commits some is open (KIP-447).

    The error is UnstableOffsetCommitError, which is retriable. kafka-python's consumer asks for the same, its admin
    client cannot.
    """
    requests = type(admin)._list_group_offsets_requests

    def stable(group_specs: Any) -> Iterator[Any]:
        for group_id, request in requests(admin, group_specs):
            request.require_stable = True
            yield group_id, request

    admin._list_group_offsets_requests = stable


def broker_version(admin: KafkaAdminClient) -> tuple[int, ...]:
    """Return the newest Kafka version whose protocol the broker speaks."""
    return tuple(admin.config["api_version"] or admin._manager.broker_version)


class _Network(NetworkSelector):  # type: ignore[misc]
    """An event loop that also closes the sockets on which its tasks wait when it ends.

    kafka-python cancels these tasks. The socket of a connection that is being made, and that of a closed connection
    with unsent bytes, then belong to nobody and stay open until the interpreter collects garbage.
    """

    def close(self) -> None:
        if self._closed:
            return
        self.stop()
        self.drain()
        waiting = [key.fileobj for key in self._selector.get_map().values() if key.fileobj is not self._wakeup_r]
        super().close()
        for connection in waiting:
            connection.close()


class _Coordinator(ConsumerCoordinator):  # type: ignore[misc]
    """A coordinator that calls `on_partitions_lost` also when the membership is lost in the middle of a join.

    kafka-python prepares a join once, and the preparation is what announces a loss. If the broker then refuses the
    member (it was silent for a session while it joined), the join is repeated as a new member with the old assignment.
    """

    def reset_generation(self, *arguments: Any, **options: Any) -> None:
        super().reset_generation(*arguments, **options)
        self.rejoining = False  # the next attempt is prepared again


class _Heartbeat(Heartbeat):  # type: ignore[misc]
    """Heartbeats, one at a time, with the time at which the last answered one left."""

    clock: LeaseClock
    sent = NEVER
    answered = NEVER

    def sent_heartbeat(self) -> None:
        self.sent = self.clock.beat()
        super().sent_heartbeat()

    def received_heartbeat(self) -> None:
        super().received_heartbeat()
        self.answered = self.sent


class _BoundedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one fetch of a Kafka partition."""

    room = 0
    """Bytes left for this poll."""
    limits: ReadLimits

    def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Iterator[Any]:
        return super()._unpack_records(tp, self._batches(records._buffer), *deserializers)  # type: ignore[no-any-return]

    def _batches(self, fetched: Any) -> "Batches":
        return Batches(fetched, lambda: self.limits)

    def take(self, n: int | None = None) -> list[Any]:
        self._maybe_raise_next_inline_exception()
        records: list[Any] = []
        iterator, start = self.record_iterator, self.bytes_read
        try:
            while (n is None or len(records) < n) and self.bytes_read - start < self.room:
                record = next(iterator, None)
                if record is None:
                    break
                records.append(record)
                self.room -= HEADER_COST * len(record[8])
        except (KafkaError, Unpackable) as error:  # as in kafka-python, the records before it are returned first
            failure: Exception = error
            if isinstance(error, Unpackable):
                partition = self.topic_partition
                position = f"{partition.topic}/{partition.partition}, offset {self.next_fetch_offset}"
                failure = UnreadableBatch(f"the batch at {position} {error}")
                failure.__cause__ = error
            if not records:
                raise failure from error
            self._next_inline_exception = failure
        self.room -= self.bytes_read - start
        return records


class _BoundedFetcher(Fetcher):  # type: ignore[misc]
    """A fetcher whose polls also end at a number of bytes."""

    limits: ReadLimits
    _room = 0
    _next_partition_records: Any
    PartitionRecords = _BoundedRecords

    def fetched_records(self, max_records: int | None = None, update_offsets: bool = True) -> Any:
        self._room = self.limits.poll_bytes
        if not self._next_partition_records:
            # Used up. kafka-python would read on with what a paused partition has left only where this is None, and
            # fetches nothing of such a partition: after a resume it would never be read again.
            self._next_partition_records = None
        return super().fetched_records(max_records, update_offsets)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> Any:
        if not part:
            return super()._append(drained, part, max_records, update_offsets)
        part.limits, part.room = self.limits, self._room
        taken = super()._append(drained, part, max_records, update_offsets)
        self._room = part.room
        return taken if self._room > 0 else max_records  # reported as the full number of records, which ends the poll
