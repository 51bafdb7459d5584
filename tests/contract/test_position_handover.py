"""Positions in Milvus at a handover: the next owner reads them after the last write of the former one."""

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from typing_extensions import override

from consumers.kafka import KafkaSettings, RememberedPositions, Source
from pipeline.errors import Unavailable
from pipeline.records import KafkaPartition
from pipeline.store import Marks, PositionMarks, StoredPositions
from pipeline.store.collection.opening import open_marks
from tests.support.fakes.milvus import FakeMilvus
from tests.support.names import unique
from tests.support.rigs.kafka import Member, Rig
from tests.support.waiting import eventually

WAIT_S = 20


class SlowMarks(FakeMilvus):
    """A Milvus that answers the writes of `writer` only when it may."""

    def __init__(self) -> None:
        super().__init__()
        open_marks(self, "docs")
        self.writer: threading.Thread | None = None
        self.arrived, self.may_answer = threading.Event(), threading.Event()
        self.answered = False
        self.on_answer: Callable[[], object] = lambda: None

    def upsert(self, *arguments: Any) -> None:
        if threading.current_thread() is self.writer:
            self.arrived.set()
            assert self.may_answer.wait(WAIT_S)
            self.on_answer()
        super().upsert(*arguments)
        self.answered |= threading.current_thread() is self.writer

    def newest(self, name: KafkaPartition) -> dict[str, Any]:
        """The payload of the newest position."""
        rows = [row for row in self.stored("docs__marks")["_default"].values() if row["name"].endswith(f"/{name[1]}")]
        payload: dict[str, Any] = json.loads(max(rows, key=lambda row: row["count"])["payload"])
        return payload


class Watched(RememberedPositions):
    """Lets Milvus answer once the source has looked three times whether a write is under way."""

    def __init__(self, milvus: SlowMarks) -> None:
        super().__init__(PositionMarks(Marks(milvus, "docs"), "g"), "g", lambda topic: True)
        self._milvus = milvus
        self._calls = 0

    @override
    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        answer = super().writing(partitions)
        self._calls += 1
        if self._calls == 3:
            self._milvus.may_answer.set()
        return answer


@contextmanager
def under_way(milvus: SlowMarks, memory: RememberedPositions, names: Collection[KafkaPartition]) -> Iterator[None]:
    """A write of positions that has reached Milvus and is not answered."""
    milvus.writer = threading.Thread(target=memory.write, args=(dict.fromkeys(names, 1),))
    milvus.writer.start()
    try:
        assert milvus.arrived.wait(WAIT_S)
        yield
    finally:
        milvus.may_answer.set()
        milvus.writer.join(WAIT_S)


@pytest.fixture
def milvus() -> SlowMarks:
    return SlowMarks()


@contextmanager
def closed(source: Source) -> Iterator[Source]:
    try:
        yield source
    finally:
        source.close(5)


def test_the_next_owner_is_assigned_after_the_last_write_of_a_position(rig: Rig, milvus: SlowMarks) -> None:
    settings = rig.settings(rig.topic(2))
    memory = Watched(milvus)
    owned_at_answer: list[Collection[KafkaPartition]] = []
    with closed(rig.source(settings, memory=memory)) as old_source, closed(rig.source(settings)) as new_source:
        old = Member(old_source)
        old.joined(each=2)
        milvus.on_answer = lambda: owned_at_answer.append(new_source.assignment())
        with under_way(milvus, memory, old_source.assignment()):
            new = Member(new_source)
            old.joined(new)
        assert owned_at_answer == [frozenset()]
        [moved], [kept] = new_source.assignment(), old_source.assignment()
        memory.write({moved: 2, kept: 2})
        assert [milvus.newest(name)["offset"] for name in (moved, kept)] == [1, 2], (
            "it writes no more of what it gave up"
        )


def test_where_reading_began_is_remembered_until_an_offset_is_committed(rig: Rig, milvus: SlowMarks) -> None:
    topic, group = rig.topic(), unique("group")
    memory = Watched(milvus)
    rig.produce(topic, b"0")
    rig.flush()
    with closed(rig.source(rig.settings(topic, group=group), memory=memory)) as source:
        member = Member(source)
        member.read(1)
        memory.assigned({(topic, 0): 0}, [(topic, 0)])  # as if the first commit had had no effect
        memory.write({(topic, 0): 1})
        assert milvus.newest((topic, 0))["began"] == 0
        member.finish(member.records)
        assert member.commit()
        memory.write({(topic, 0): 1})
        assert "began" not in milvus.newest((topic, 0))


class Counted(RememberedPositions):
    """Counts the reads that Milvus has not answered."""

    unanswered = 0

    @override
    def read(self, topic_ids: Mapping[str, str]) -> StoredPositions:
        try:
            return super().read(topic_ids)
        except Unavailable:
            self.unanswered += 1
            raise


@contextmanager
def postponed(rig: Rig, milvus: SlowMarks) -> Iterator[tuple[Member, KafkaSettings]]:
    """A member to which a new Kafka partition with one record was assigned while Milvus is away."""
    settings = rig.settings(topic := rig.topic())
    memory = Counted(PositionMarks(Marks(milvus, "docs"), "g"), "g", lambda topic: True)
    with closed(rig.source(settings, memory=memory)) as source:
        member = Member(source)
        member.joined(each=1)
        milvus.down = True
        rig.add_partitions(topic, 2)
        rig.produce(topic, b"new", partition=1)
        rig.flush()

        def refused() -> bool:
            source.pause()
            source.resume()
            member.poll()
            return memory.unanswered > 2

        eventually(refused, within=WAIT_S, every=0, what="a third answer")
        assert member.records == []
        yield member, settings


def test_a_new_kafka_partition_is_begun_when_milvus_answers_again(rig: Rig, milvus: SlowMarks) -> None:
    with postponed(rig, milvus) as (member, settings):
        milvus.down = False
        member.read(1)
        rig.produce(settings.topics[0], b"after")
        rig.flush()
        member.read(2)
        assert member.values == [b"new", b"after"]
        member.finish(member.records)
        assert member.commit()


def test_a_kafka_partition_that_is_not_begun_yet_can_move(rig: Rig, milvus: SlowMarks) -> None:
    with postponed(rig, milvus) as (member, settings), closed(rig.source(settings)) as other_source:
        other = Member(other_source)
        member.joined(other, each=1)
        milvus.down = False

        def read() -> bool:
            member.poll()
            other.poll()
            return member.values + other.values == [b"new"]

        eventually(read, within=WAIT_S, every=0, what="the record, once")


def test_a_member_leaves_after_its_last_write_of_a_position(rig: Rig, milvus: SlowMarks) -> None:
    settings = rig.settings(rig.topic())
    memory = Watched(milvus)
    with closed(rig.source(settings, memory=memory)) as source:
        member = Member(source)
        member.joined()
        with under_way(milvus, memory, source.assignment()):
            source.close(5)
            assert milvus.answered
