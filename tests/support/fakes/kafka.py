"""Kafka in memory: topics, a group coordinator, a source and dead letters that pass the real ones' contract suite.

Threads may share a broker. Nothing runs by itself: members take part in a rebalance from inside their own poll.
"""

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from consumers.dead_letters.earlier import EarlierDeadLetters
from consumers.dead_letters.envelope import OutgoingDeadLetter, decode_dead_letter, encode_dead_letter, fitted
from consumers.kafka import KafkaSettings, Lag, RebalanceHandler, suspend_clock
from consumers.kafka.client.connection import start_timestamp_ms
from consumers.kafka.groups.commits import Commit
from consumers.kafka.positions.begin import begin_at
from consumers.kafka.positions.remembered import AcceptableGap, PositionMemory, Remembered
from consumers.kafka.topics.admin import LogRange
from pipeline import failpoints
from pipeline.errors import OffsetsLost, Unavailable, UsageError
from pipeline.records import KafkaPartition, Position, Receipt, Rejected, SourceRecord
from pipeline.store import StoredPositions

_STEP_S = 0.002


@dataclass
class _Partition:
    records: list[SourceRecord] = field(default_factory=list)
    start: int = 0
    end: int = 0


@dataclass
class _Topic:
    partitions: list[_Partition]
    max_message_bytes: int = 1_048_588
    topic_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass
class _Group:
    members: list[object] = field(default_factory=list)
    silent: list[object] = field(default_factory=list)
    """Members whose session ends when another one joins."""
    owners: dict[KafkaPartition, object] = field(default_factory=dict)
    commits: dict[KafkaPartition, Commit] = field(default_factory=dict)


class FakeBroker:
    """What the members share. Its methods may be called by any thread."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, _Group] = {}
        self.drops: set[KafkaPartition] = set()
        """Kafka partitions whose commits have no effect, as while the group's coordinator moves."""
        self.dropped: list[Mapping[KafkaPartition, int]] = []
        """The commits that had none."""

    # --- topics ------------------------------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int = 1, *, max_message_bytes: int = 1_048_588) -> None:
        with self.changed:
            self._topics[name] = _Topic([_Partition() for _ in range(partitions)], max_message_bytes)

    def delete_topic(self, name: str) -> None:
        with self.changed:
            del self._topics[name]
            for group in self._groups.values():  # as Apache Kafka does
                group.commits = {at: commit for at, commit in group.commits.items() if at[0] != name}

    def add_partitions(self, name: str, total: int) -> None:
        with self.changed:
            present = self._topics[name].partitions
            present += [_Partition() for _ in range(total - len(present))]
            self.changed.notify_all()

    def produce(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Iterable[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
    ) -> Position:
        with self.changed:
            log = self._topics[topic].partitions[partition]
            at = Position(topic, partition, log.end)
            stamp = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
            log.records.append(SourceRecord(at, stamp, key, value, tuple(headers)))
            log.end += 1
            self.changed.notify_all()
            return at

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """What retention does: offsets below `before` are gone."""
        with self.changed:
            log = self._topics[topic].partitions[partition]
            log.start = before
            log.records = [record for record in log.records if record.position.offset >= before]

    def truncate(self, topic: str, partition: int, end: int) -> None:
        """The log loses its end, as on a broker without power: offsets from `end` on are used again."""
        with self.changed:
            log = self._topics[topic].partitions[partition]
            log.end = end
            log.records = [record for record in log.records if record.position.offset < end]

    def read(self, topic: str) -> list[SourceRecord]:
        with self.changed:
            return [record for log in self._topics[topic].partitions for record in log.records]

    def fetch(self, name: KafkaPartition, position: int, limit: int) -> list[SourceRecord]:
        with self.changed:
            log = self._topics[name[0]].partitions[name[1]]
            # Records have rising offsets without holes behind `start`, so the index follows from the offset.
            first = max(0, position - log.start)
            return log.records[first : first + limit]

    def describe(self, topic: str) -> tuple[str, Sequence[LogRange]]:
        """Id of the topic, and the offsets it holds. Raises UsageError like the real one."""
        with self.changed:
            if topic not in self._topics:
                near = [name for name in self._topics if name[:4] == topic[:4]]
                raise UsageError(f"kafka.topics: no such topic on the broker: {topic} (did you mean {near}?)")
            found = self._topics[topic]
            return found.topic_id, [LogRange(log.start, log.end) for log in found.partitions]

    def message_limit(self, topic: str) -> int:
        with self.changed:
            return self._topics[topic].max_message_bytes

    def offset_at(self, name: KafkaPartition, timestamp_ms: int) -> int:
        with self.changed:
            log = self._topics[name[0]].partitions[name[1]]
            return next((r.position.offset for r in log.records if r.timestamp_ms >= timestamp_ms), log.end)

    # --- groups ------------------------------------------------------------------------------------------------

    def committed(self, group: str) -> dict[KafkaPartition, int]:
        with self.changed:
            return {name: commit.offset for name, commit in self._group(group).commits.items()}

    def commits(self, group: str) -> dict[KafkaPartition, Commit]:
        with self.changed:
            return dict(self._group(group).commits)

    def forget_commit(self, group: str, name: KafkaPartition) -> None:
        with self.changed:
            del self._group(group).commits[name]

    def store(self, group: str, offsets: Mapping[KafkaPartition, int], topic_ids: Mapping[str, str]) -> bool:
        """Commit; False: without effect."""
        with self.changed:
            if self.drops & offsets.keys():
                self.dropped.append(dict(offsets))
                return False
            for name, at in offsets.items():
                self._group(group).commits[name] = Commit(at, topic_ids[name[0]])
            return True

    def join(self, group: str, member: object) -> None:
        with self.changed:
            if member not in self._group(group).members:
                self._group(group).members.append(member)
                for silent in self._group(group).silent:
                    self.leave(group, silent)
                self._group(group).silent = []
                self.changed.notify_all()

    def silence(self, group: str, member: object) -> None:
        """The member sends nothing more; a group that must wait for it goes on without it."""
        with self.changed:
            self._group(group).silent.append(member)

    def leave(self, group: str, member: object) -> None:
        """The member is gone, by its own will or by the session timeout; what it owned is free."""
        with self.changed:
            found = self._group(group)
            found.members = [other for other in found.members if other is not member]
            found.owners = {name: owner for name, owner in found.owners.items() if owner is not member}
            self.changed.notify_all()

    def is_member(self, group: str, member: object) -> bool:
        with self.changed:
            return member in self._group(group).members

    def share(self, group: str, member: object, topics: Collection[str]) -> set[KafkaPartition]:
        """The Kafka partitions that the member shall own, round robin."""
        with self.changed:
            members = self._group(group).members
            names = [(topic, n) for topic in sorted(topics) for n in range(len(self._topics[topic].partitions))]
            return {name for i, name in enumerate(names) if members[i % len(members)] is member}

    def claim(self, group: str, member: object, wanted: Collection[KafkaPartition]) -> set[KafkaPartition]:
        """Own those of them that nobody else owns; returns them."""
        with self.changed:
            owners = self._group(group).owners
            free = {name for name in wanted if owners.get(name, member) is member}
            owners.update(dict.fromkeys(free, member))
            return free

    def release(self, group: str, partitions: Collection[KafkaPartition]) -> None:
        with self.changed:
            for name in partitions:
                self._group(group).owners.pop(name, None)
            self.changed.notify_all()

    def _group(self, name: str) -> _Group:
        return self._groups.setdefault(name, _Group())


class FakeSource:
    """Source of a FakeBroker: cooperative protocol, the same decisions about offsets as the real one."""

    def __init__(
        self,
        broker: FakeBroker,
        settings: KafkaSettings,
        *,
        stored: Callable[[str], bool] | None = None,
        memory: PositionMemory | None = None,
        accept_gap: bool = False,
        drain_s: float = 0.5,
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._stored = stored
        self._memory = memory
        self._accept_gap = accept_gap
        self._accepted: set[KafkaPartition] = set()
        self._drain_s = drain_s
        self._handler: RebalanceHandler | None = None
        self._positions: dict[KafkaPartition, int] = {}
        self._committed: dict[KafkaPartition, int] = {}
        self._topic_ids: dict[str, str] = {}
        self._paused = False
        self._failure: Exception | None = None
        self.heartbeats = True
        self.ends_age_s = 0.0
        """How long ago the end offsets were read: a broker that is away leaves them old."""
        """False: none is answered from now on, as for a member that is cut off from the broker."""
        self._heartbeat = float("-inf")
        self._joining = False

    def start(self, handler: RebalanceHandler) -> None:
        for topic in self._settings.topics:
            _, ranges = self._broker.describe(topic)
            self._begin([(topic, n) for n in range(len(ranges))], only_new_topics=True)
        self._handler = handler

    def poll(self, timeout_s: float) -> list[SourceRecord]:
        if self._failure is not None:
            raise self._failure
        try:
            return self._poll(time.monotonic() + timeout_s)
        except Exception as error:
            self._failure = error
            raise

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def commit(self, offsets: Mapping[KafkaPartition, int]) -> bool:
        mine = {name: at for name, at in offsets.items() if name in self._positions}
        if not mine or not self._broker.is_member(self._settings.group_id, self):
            return False
        if not self._store(mine):
            return False
        self._committed.update(mine)
        return len(mine) == len(offsets)

    def assignment(self) -> Collection[KafkaPartition]:
        return frozenset(self._positions)

    def lag(self) -> Mapping[KafkaPartition, Lag]:
        ends = self.ends(self._positions)
        for topic in {name for name, _ in self._positions}:
            if self._broker.describe(topic)[0] != self._topic_ids[topic]:
                self._failure = OffsetsLost(f"{topic}: the topic was deleted and recreated while it was read")
        return {
            name: Lag(ends[name], self._committed[name], at, time.monotonic() - self.ends_age_s)
            for name, at in self._positions.items()
        }

    def ends(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        return {name: self._broker.describe(name[0])[1][name[1]].end for name in partitions}

    def last_heartbeat(self) -> float:
        if self._handler is None or (not self._joining and not self._broker.is_member(self._settings.group_id, self)):
            return float("-inf")
        if self.heartbeats and not self._joining:
            self._heartbeat = suspend_clock()
        return self._heartbeat

    def hold_join(self) -> None:
        """Begin a join that gets no answer: no heartbeat is sent during a join, and nothing is read."""
        self._joining = True
        self._broker.silence(self._settings.group_id, self)

    def release_join(self) -> None:
        """The broker answers: a member whose session has ended is refused, and joins again as a new one."""
        self._joining = False

    def reread(self) -> None:
        if self._handler is not None and self._broker.is_member(self._settings.group_id, self):
            positions = self._begin(sorted(self._positions), only_new_topics=False)
            self._positions.update(positions)
            self._committed.update(positions)
            if positions:
                self._handler.on_assigned(positions)

    def close(self, timeout_s: float) -> None:
        self._handler = None
        owned = tuple(self._positions)
        self._drop(owned)
        while self._memory is not None and self._memory.writing(owned):
            time.sleep(_STEP_S)
        self._broker.leave(self._settings.group_id, self)

    def _poll(self, deadline: float) -> list[SourceRecord]:
        while True:
            if not self._joining:
                self._rebalance()
            records: list[SourceRecord] = []
            for name in [] if self._paused or self._joining else sorted(self._positions):
                records += self._fetch(name, self._settings.max_poll_records - len(records))
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            with self._broker.changed:
                self._broker.changed.wait(min(left, 0.05))

    def _fetch(self, name: KafkaPartition, limit: int) -> list[SourceRecord]:
        _, ranges = self._broker.describe(name[0])
        at = Commit(self._positions[name], "")
        begin_at(name, ranges[name[1]], at, topic_id="", read_before=True, first=0)
        records = self._broker.fetch(name, self._positions[name], limit) if limit else []
        if records:
            self._positions[name] = records[-1].position.offset + 1
        return [replace(record, topic_id=self._topic_ids[name[0]]) for record in records]

    def _rebalance(self) -> None:
        handler, group = self._handler, self._settings.group_id
        if handler is None:
            raise RuntimeError("the source is not started, or closed")
        if not self._broker.is_member(group, self):
            lost = tuple(sorted(self._positions))
            if lost:
                handler.on_lost(lost)
            self._drop(lost)
            self._broker.join(group, self)
        share = self._broker.share(group, self, self._settings.topics)
        gone = tuple(sorted(self._positions.keys() - share))
        if gone:
            self._revoke(handler, gone)
        added = self._broker.claim(group, self, share - self._positions.keys())
        if added:
            try:
                positions = self._begin(sorted(added), only_new_topics=False)
            except Unavailable:
                self._broker.release(self._settings.group_id, added)  # tried again by the next poll
                return
            self._positions.update(positions)
            self._committed.update(positions)
            handler.on_assigned(positions)

    def _revoke(self, handler: RebalanceHandler, gone: tuple[KafkaPartition, ...]) -> None:
        deadline = time.monotonic() + self._drain_s
        failpoints.hit("revoke_begun")
        while not handler.drain(gone) and time.monotonic() < deadline:
            time.sleep(_STEP_S)
        failpoints.hit("revoke_drained")
        self.commit(handler.committable(gone))
        failpoints.hit("revoke_committed")
        self._drop(gone)
        handler.on_revoked(gone)
        while handler.writing(gone) or (self._memory is not None and self._memory.writing(gone)):
            time.sleep(_STEP_S)
        self._broker.release(self._settings.group_id, gone)

    def _store(self, offsets: Mapping[KafkaPartition, int]) -> bool:
        stored = self._broker.store(self._settings.group_id, offsets, self._topic_ids)
        if stored and self._memory is not None:
            self._memory.confirmed(offsets)
        return stored

    def _drop(self, partitions: Collection[KafkaPartition]) -> None:
        if self._memory is not None:
            self._memory.released(partitions)
        for name in partitions:
            self._positions.pop(name, None)
            self._committed.pop(name, None)

    def _begin(self, partitions: Collection[KafkaPartition], *, only_new_topics: bool) -> dict[KafkaPartition, int]:
        commits = self._broker.commits(self._settings.group_id)
        self._topic_ids |= {topic: self._broker.describe(topic)[0] for topic, _ in partitions}
        stored = StoredPositions({}, {}) if self._memory is None else self._memory.read(self._topic_ids)
        remembered = stored.current
        known = {topic for topic, _ in (*commits, *remembered)}
        former = {name: position for name, position in stored.former.items() if name[0] not in known}
        known |= {topic for topic in self._settings.topics if self._stored is not None and self._stored(topic)}
        known -= {topic for topic, _ in former}
        positions, decided = {}, {}
        for name in partitions:
            if only_new_topics and name[0] in known:
                continue
            log = self._broker.describe(name[0])[1][name[1]]
            unknown = name in commits and name not in remembered
            filled = not unknown or self._memory is None or self._memory.filled(name[0])
            try:
                positions[name] = begin_at(
                    name,
                    log,
                    commits.get(name),
                    topic_id=self._topic_ids[name[0]],
                    read_before=name[0] in known,
                    first=self._first(name, log),
                    remembered=Remembered(remembered.get(name), filled, former.get(name)),
                )
            except AcceptableGap as gap:
                if not self._accept_gap or name in self._accepted:
                    raise
                self._accepted.add(name)
                positions[name] = decided[name] = gap.go_on_at
            if name not in commits:
                decided[name] = positions[name]
        if self._memory is not None:
            self._memory.begin(decided)
            if not only_new_topics:
                self._memory.assigned(positions, decided)
        self._store(decided)
        return positions

    def _first(self, name: KafkaPartition, log: LogRange) -> int:
        timestamp_ms = start_timestamp_ms(self._settings.start_from)
        if timestamp_ms is not None:
            return self._broker.offset_at(name, timestamp_ms)
        return log.start if self._settings.start_from == "earliest" else log.end


class FakeDeadLetters:
    """Dead letters to a topic of a FakeBroker; confirmed inside `send` unless the topic is out of order."""

    def __init__(
        self,
        broker: FakeBroker,
        topic: str,
        *,
        on_confirmed: Callable[[Receipt], None],
        on_sent: Callable[[str], None] = lambda _: None,
        pipeline: str = "milvus-stream",
        room_bytes: int = 16 * 2**20,
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._on_confirmed = on_confirmed
        self._on_sent = on_sent
        self._earlier = EarlierDeadLetters(lambda: map(decode_dead_letter, broker.read(topic)))
        self._pipeline = pipeline
        self._room_bytes = room_bytes
        self._waiting: list[OutgoingDeadLetter] = []
        self._problem: str | None = None

    def start(self) -> None:
        """Nothing to start: the caller's thread sends."""

    def send(self, rejected: Rejected) -> None:
        self._waiting.append(encode_dead_letter(rejected, pipeline=self._pipeline, worker="fake-1"))
        self._flush()

    def assigned(self) -> None:
        self._earlier.assigned()

    def out_of_order(self, problem: str | None) -> None:
        """Break the topic with this message, or (None) repair it and send what waits."""
        self._problem = problem
        self._flush()

    @property
    def has_room(self) -> bool:
        return sum(made.size for made in self._waiting) <= self._room_bytes

    @property
    def problem(self) -> str | None:
        return self._problem

    def check(self) -> None:
        """No thread that could have died."""

    def close(self, timeout_s: float) -> None:
        """What waits is not confirmed."""
        self._waiting.clear()

    def _flush(self) -> None:
        while self._waiting and self._problem is None:
            made = fitted(self._waiting[0], self._broker.message_limit(self._topic))
            if not self._earlier.holds(self._waiting[0]):
                failpoints.hit("dead_letter_unsent")
                self._broker.produce(
                    self._topic, made.value, key=made.key, headers=made.headers, timestamp_ms=made.timestamp_ms
                )
                failpoints.hit("dead_letter_sent")
                self._earlier.confirmed(self._waiting[0])
                self._on_sent(made.reason)
            self._waiting.pop(0)
            self._on_confirmed(Receipt([made.position], made.batch))


class FakeLookup:
    """`RecordLookup` over the broker."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    def read(self, topic_ids: Mapping[Position, str]) -> Mapping[Position, SourceRecord]:
        records = {}
        for position, topic_id in topic_ids.items():
            try:
                current_id, logs = self._broker.describe(position.topic)
            except UsageError:
                continue
            log = logs[position.partition] if position.partition < len(logs) else LogRange(0, 0)
            if topic_id in ("", current_id) and log.start <= position.offset < log.end:
                [record] = self._broker.fetch(position[:2], position.offset, 1)
                records[position] = record
        return records
