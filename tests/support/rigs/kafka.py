"""One set of levers for real Kafka and for the fake, so that one suite can test both."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from confluent_kafka import Producer
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient, MemberToRemove

from consumers.dead_letters import DeadLetterProducer
from consumers.kafka import KafkaLookup, KafkaSettings, KafkaSource, OffsetTracker, Source, read_range, topic_ranges
from consumers.kafka.client.retry import retry_until_deadline
from consumers.kafka.groups.commits import COORDINATOR_MOVES
from pipeline.ingest import DeadLetterChannel, RecordLookup
from pipeline.records import KafkaPartition, Position, Receipt, SourceRecord
from tests.support.fakes.kafka import FakeBroker, FakeDeadLetters, FakeLookup, FakeSource
from tests.support.names import unique
from tests.support.waiting import eventually


@contextmanager
def delivering(channel: DeadLetterChannel) -> Iterator[DeadLetterChannel]:
    """A channel that delivers within the block; an error that ended its delivery fails the test."""
    channel.start()
    try:
        yield channel
    finally:
        channel.close(5)
        channel.check()


class Rig(Protocol):
    """What a test does to Kafka from outside."""

    def topic(self, partitions: int = 1, *, max_message_bytes: int | None = None) -> str: ...
    def recreate(self, topic: str) -> None: ...
    def add_partitions(self, topic: str, total: int) -> None: ...
    def produce(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Iterable[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
    ) -> object: ...
    def flush(self) -> None: ...
    def delete_records(self, topic: str, partition: int, before: int) -> None: ...
    def read(self, topic: str) -> list[SourceRecord]: ...
    def settings(self, *topics: str, group: str | None = None, **more: Any) -> KafkaSettings: ...
    def source(self, settings: KafkaSettings, **more: Any) -> Source: ...  # `stored`, `memory`
    def lookup(self) -> RecordLookup: ...
    def committed(self, group: str) -> Mapping[KafkaPartition, int]: ...
    def forget_commit(self, group: str, partition: KafkaPartition) -> None: ...
    def kill(self, source: Source) -> None: ...
    def expel(self, source: Source) -> None: ...
    def hold_join(self, source: Source) -> Callable[[], None]: ...
    def dead_letters(self, topic: str, on_confirmed: Callable[[Receipt], None]) -> DeadLetterChannel: ...


class FakeRig:
    """The levers of a FakeBroker."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.produce = self.broker.produce
        self.add_partitions = self.broker.add_partitions
        self.delete_records = self.broker.delete_records
        self.read = self.broker.read
        self.committed = self.broker.committed
        self.forget_commit = self.broker.forget_commit
        self._groups: dict[int, str] = {}

    def topic(self, partitions: int = 1, *, max_message_bytes: int | None = None) -> str:
        name = unique("topic")
        self.broker.create_topic(name, partitions, max_message_bytes=max_message_bytes or 1_048_588)
        return name

    def recreate(self, topic: str) -> None:
        self.broker.delete_topic(topic)
        self.broker.create_topic(topic)

    def flush(self) -> None:
        """Records are there at once."""

    def settings(self, *topics: str, group: str | None = None, **more: Any) -> KafkaSettings:
        return KafkaSettings("fake:9092", topics, group or unique("group"), **more)

    def lookup(self) -> RecordLookup:
        return FakeLookup(self.broker)

    def source(self, settings: KafkaSettings, **more: Any) -> Source:
        source = FakeSource(self.broker, settings, **more)
        self._groups[id(source)] = settings.group_id
        return source

    def kill(self, source: Source) -> None:
        self.broker.leave(self._groups[id(source)], source)

    def expel(self, source: Source) -> None:
        self.broker.leave(self._groups[id(source)], source)

    def hold_join(self, source: Source) -> Callable[[], None]:
        assert isinstance(source, FakeSource)
        source.hold_join()
        return source.release_join

    def dead_letters(self, topic: str, on_confirmed: Callable[[Receipt], None]) -> DeadLetterChannel:
        return FakeDeadLetters(self.broker, topic, on_confirmed=on_confirmed)


class RealRig:
    """The levers of a real broker. Records are produced, and committed offsets read, by clients of their own."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
        self._topics: set[str] = set()
        self._groups: set[str] = set()
        self._failed: list[Any] = []

    def topic(self, partitions: int = 1, *, max_message_bytes: int | None = None) -> str:
        name = unique("topic")
        configs = {} if max_message_bytes is None else {"max.message.bytes": str(max_message_bytes)}
        self._create(name, partitions, configs)
        self._topics.add(name)
        return name

    def recreate(self, topic: str) -> None:
        self._admin.delete_topics([topic])
        eventually(lambda: topic not in self._admin.list_topics())
        self._create(topic, 1, {})

    def add_partitions(self, topic: str, total: int) -> None:
        self._admin.create_partitions({topic: total})

    def produce(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Iterable[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
    ) -> None:
        self._producer.produce(
            topic,
            value,
            key=key,
            partition=partition,
            headers=list(headers),
            timestamp=timestamp_ms or 0,  # 0: now
            on_delivery=lambda error, _: self._failed.append(error) if error else None,
        )
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(10) == 0
        assert not self._failed

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        self._admin.delete_records({TopicPartition(topic, partition): before})

    def read(self, topic: str) -> list[SourceRecord]:
        settings = self.settings(topic)
        return list(read_range(settings, topic_ranges(settings, [topic])))

    def settings(self, *topics: str, group: str | None = None, **more: Any) -> KafkaSettings:
        group = group or unique("group")
        self._groups.add(group)
        options = {"metadata_max_age_ms": 500, "heartbeat_interval_ms": 200, **more.pop("options", {})}
        more.setdefault("session_timeout_ms", 3_000)
        return KafkaSettings(self._bootstrap, topics, group, options=options, **more)

    def lookup(self) -> RecordLookup:
        return KafkaLookup(self.settings("documents"))

    def source(self, settings: KafkaSettings, **more: Any) -> Source:
        return KafkaSource(settings, **more)

    def committed(self, group: str) -> Mapping[KafkaPartition, int]:
        offsets = retry_until_deadline(lambda: self._admin.list_group_offsets({group: None}), COORDINATOR_MOVES)
        return {(tp.topic, tp.partition): commit.offset for tp, commit in offsets.get(group, {}).items()}

    def forget_commit(self, group: str, partition: KafkaPartition) -> None:
        self._admin.delete_group_offsets(group, [TopicPartition(*partition)])

    def kill(self, source: Source) -> None:
        """Silence the member as kill -9 would: its connections end, without a request to leave."""
        assert isinstance(source, KafkaSource)
        assert source._consumer is not None
        source._consumer._client.close()
        source._consumer = None
        source.close(1.0)

    def expel(self, source: Source) -> None:
        """Let the member fall out of the group behind its back, as after a long pause of its process."""
        assert isinstance(source, KafkaSource)
        assert source._consumer is not None
        metadata = source._consumer.group_metadata()
        self._admin.remove_group_members(metadata.group_id, [MemberToRemove(member_id=metadata.member_id)])
        eventually(lambda: source.last_heartbeat() == float("-inf"), what="the member noticing it")

    def hold_join(self, source: Source) -> Callable[[], None]:
        """Hold back the member's next request to join, as a link that is down; returns what lets it pass."""
        assert isinstance(source, KafkaSource)
        assert source._consumer is not None
        coordinator = source._consumer._coordinator
        join, released = coordinator._do_join_and_sync_async, threading.Event()

        async def held() -> object:
            while not released.is_set():
                await coordinator._net.sleep(0.02)
            return await join()

        coordinator._do_join_and_sync_async = held
        return released.set

    def find_coordinator_again(self, source: Source) -> None:
        """As a process does that was stopped for longer than its session."""
        assert isinstance(source, KafkaSource)
        assert source._consumer is not None
        coordinator = source._consumer._coordinator
        coordinator.coordinator_dead("for the test")
        eventually(lambda: source.poll(0.05) or not coordinator.coordinator_unknown(), what="a known coordinator")

    def dead_letters(self, topic: str, on_confirmed: Callable[[Receipt], None]) -> DeadLetterChannel:
        settings = self.settings(group=f"{topic}-group")  # a redo is one of the same group
        return DeadLetterProducer(settings, topic, on_confirmed=on_confirmed)

    def close(self) -> None:
        self._producer.flush(1)
        if self._topics:
            self._admin.delete_topics(sorted(self._topics))
        present = {group["group_id"] for group in self._admin.list_groups()}
        self._admin.delete_groups(sorted(self._groups & present))
        self._admin.close()

    def _create(self, name: str, partitions: int, configs: Mapping[str, str]) -> None:
        spec = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(configs)}
        self._admin.create_topics({name: spec}, wait_for_metadata=True)


class Member:
    """A worker reduced to its bookkeeping: a source, an offset tracker, and the calls of the group."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tracker = OffsetTracker()
        self.records: list[SourceRecord] = []
        self.events: list[tuple[str, tuple[KafkaPartition, ...]]] = []
        self.positions: dict[KafkaPartition, int] = {}
        self.drains = 0
        self.commit_requests = 0
        """Calls of `committable`, at a revoke."""
        self.leases_at_losses: list[float] = []
        """What `last_heartbeat` answered at each loss."""
        self.last_calls = 0
        """How often `writing` is still to answer True."""
        self.drain_when: Callable[[], bool] = lambda: True
        """Whether nothing is in flight any more, at a revoke."""
        source.start(self)

    def poll(self, timeout_s: float = 0.1) -> list[SourceRecord]:
        records = self.source.poll(timeout_s)
        self.tracker.taken(record.position for record in records)
        self.records += records
        return records

    def read(self, count: int, *, within: float = 10.0) -> list[SourceRecord]:
        """Poll until this many records came in all."""

        def enough() -> bool:
            if len(self.records) < count:
                self.poll()
            return len(self.records) >= count

        eventually(enough, within=within, every=0, what=f"{count} records")
        return self.records

    def joined(self, *others: "Member", each: int = 1) -> None:
        """Poll all of them until each one has `each` Kafka partitions."""
        members = (self, *others)

        def settled() -> bool:
            for member in members:
                member.poll(0.05)
            return all(len(member.source.assignment()) == each for member in members)

        eventually(settled, within=15, every=0, what=f"{each} Kafka partitions for each of {len(members)} members")

    def finish(self, records: Collection[SourceRecord]) -> None:
        self.tracker.done([record.position for record in records])

    def commit(self) -> bool:
        offsets = self.tracker.committable()
        ok = self.source.commit(offsets)
        if ok:
            self.tracker.committed(offsets)
        return ok

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]

    @property
    def offsets(self) -> list[int]:
        return [record.position.offset for record in self.records]

    # --- RebalanceHandler --------------------------------------------------------------------------------------

    def on_assigned(self, partitions: Mapping[KafkaPartition, int]) -> None:
        self.events.append(("assigned", tuple(sorted(partitions))))
        self.positions.update(partitions)
        self.tracker.assigned(partitions)

    def drain(self, partitions: Collection[KafkaPartition]) -> bool:
        self.drains += 1
        return self.drain_when()

    def committable(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        self.commit_requests += 1
        offsets = self.tracker.committable()
        return {name: offsets[name] for name in partitions if name in offsets}

    def on_revoked(self, partitions: Collection[KafkaPartition]) -> None:
        self.events.append(("revoked", tuple(sorted(partitions))))
        self.tracker.dropped(partitions)

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        self.last_calls -= 1
        return self.last_calls >= 0

    def on_lost(self, partitions: Collection[KafkaPartition]) -> None:
        self.leases_at_losses.append(self.source.last_heartbeat())
        self.events.append(("lost", tuple(sorted(partitions))))
        self.tracker.dropped(partitions)


def now_ms() -> int:
    return int(time.time() * 1000)


__all__ = ["FakeRig", "Member", "Position", "RealRig", "Rig", "now_ms"]
