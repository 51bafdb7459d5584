"""What the worker relies on from a source, on real Apache Kafka and on the fake."""

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from consumers.kafka import KafkaSettings, RememberedPositions, Source, suspend_clock
from consumers.local.kafka import LocalKafka
from pipeline.errors import MilvusStreamError, OffsetsLost, UsageError
from pipeline.records import KafkaPartition
from pipeline.store import Marks, PositionMarks
from pipeline.store.collection.opening import open_marks
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.kafka import Member, RealRig, Rig, now_ms
from tests.support.waiting import eventually


@contextmanager
def member(rig: Rig, settings: KafkaSettings, **more: Any) -> Iterator[Member]:
    source = rig.source(settings, **more)
    try:
        yield Member(source)
    finally:
        source.close(5)


def fill(rig: Rig, topic: str, count: int, *, partition: int = 0, first: int = 0) -> None:
    for number in range(first, first + count):
        rig.produce(topic, b"%d" % number, key=b"k", partition=partition)
    rig.flush()


def test_a_record_arrives_byte_for_byte(rig: Rig) -> None:
    topic = rig.topic()
    at = now_ms() - 5_000
    headers = [("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None), ("bytes", b"\xff\x00")]
    rig.produce(topic, b"\x00\xff value", key=b"\xfe key", headers=headers, timestamp_ms=at)
    rig.produce(topic, None, key=b"deleted")
    rig.produce(topic, b"", key=None)
    rig.flush()
    with member(rig, rig.settings(topic)) as reader:
        first, deleted, empty = reader.read(3)
    assert first.position == (topic, 0, 0)
    assert (first.key, first.value, first.timestamp_ms) == (b"\xfe key", b"\x00\xff value", at)
    assert first.headers == tuple(headers)
    assert (deleted.key, deleted.value, deleted.headers) == (b"deleted", None, ())
    assert (empty.key, empty.value) == (None, b"")


def test_each_kafka_partition_comes_in_order_and_is_announced_before_its_records(rig: Rig) -> None:
    topic = rig.topic(3)
    for partition in range(3):
        fill(rig, topic, 300, partition=partition)
    with member(rig, rig.settings(topic, max_poll_records=70)) as reader:
        assert max(len(reader.poll(1.0)) for _ in range(5)) <= 70
        reader.read(900)
        assert sorted(name for _, names in reader.events for name in names) == [(topic, n) for n in range(3)]
        assert reader.positions == {(topic, n): 0 for n in range(3)}
    for partition in range(3):
        offsets = [r.position.offset for r in reader.records if r.position.partition == partition]
        assert offsets == list(range(300))


def test_only_what_was_committed_is_not_read_again(rig: Rig) -> None:
    topic, group = rig.topic(), "group_" + rig.topic()
    settings = rig.settings(topic, group=group)
    fill(rig, topic, 10)
    with member(rig, settings) as reader:
        records = reader.read(10)
        assert rig.committed(group) == {(topic, 0): 0}
        reader.finish(records[:4] + records[6:])
        assert reader.commit()
        assert rig.committed(group) == {(topic, 0): 4}
        reader.finish(records[4:6])
    assert rig.committed(group) == {(topic, 0): 4}, "close must not commit"
    assert [event for event, _ in reader.events] == ["assigned"], "close must call no handler"
    with member(rig, settings) as again:
        again.read(6)
    assert again.offsets == [4, 5, 6, 7, 8, 9]
    assert again.positions == {(topic, 0): 4}


def test_a_second_member_takes_over_after_the_drain_at_the_committed_offset(rig: Rig) -> None:
    topic, group = rig.topic(2), "group_" + rig.topic()
    settings = rig.settings(topic, group=group, session_timeout_ms=9_000)
    for partition in range(2):
        fill(rig, topic, 20, partition=partition)
    with member(rig, settings) as old, rig_member_later(rig, settings) as new_source:
        old.read(40)
        in_flight = list(old.records)

        def drained() -> bool:
            if old.drains == 3:  # what was in flight becomes durable while the revoke waits for it
                old.finish(in_flight)
            return old.drains >= 5

        old.drain_when = drained
        new = Member(new_source)
        old.joined(new)
        assert old.drains >= 5
        assert old.commit_requests == 1
        moved = tuple(new.source.assignment())
        assert ("revoked", moved) in old.events
        assert rig.committed(group)[moved[0]] == 20, "what was durable at the end of the drain is committed"
        assert new.positions == {moved[0]: 20}
        fill(rig, topic, 1, partition=moved[0][1], first=20)
        new.read(1)
        assert new.values == [b"20"]
        assert old.source.commit({moved[0]: 5}) is False, "it is another member's now"
        assert rig.committed(group)[moved[0]] == 20


@contextmanager
def rig_member_later(rig: Rig, settings: KafkaSettings) -> Iterator[Source]:
    """A source that the test starts itself, closed in any case."""
    source = rig.source(settings)
    try:
        yield source
    finally:
        source.close(5)


def test_a_drain_that_does_not_end_is_cut_off_and_nothing_undone_is_committed(rig: Rig) -> None:
    topic, group = rig.topic(2), "group_" + rig.topic()
    settings = rig.settings(topic, group=group, options={"max_poll_interval_ms": 3_000})
    for partition in range(2):
        fill(rig, topic, 5, partition=partition)
    with member(rig, settings) as old, rig_member_later(rig, settings) as new_source:
        old.read(10)
        old.drain_when = lambda: False
        new = Member(new_source)

        def taken_over() -> bool:
            old.poll(0.05)
            new.poll(0.05)
            return len(new.records) >= 5

        eventually(taken_over, every=0)
        assert new.offsets == [0, 1, 2, 3, 4]
        assert old.drains > 1


@pytest.mark.parametrize("assignor", ["cooperative-sticky", "range", "roundrobin"])
def test_what_was_dropped_at_a_rebalance_is_read_again(rig: Rig, assignor: str) -> None:
    """Under the eager protocol the client keeps its position although the worker has dropped its records."""
    topic = rig.topic(2)
    settings = rig.settings(topic, assignor=assignor)
    for partition in range(2):
        fill(rig, topic, 50, partition=partition)
    with member(rig, settings) as old, rig_member_later(rig, settings) as new_source:
        old.read(100)
        new = Member(new_source)
        old.joined(new)
        finished: dict[KafkaPartition, set[int]] = {}
        dropped = {name for event, names in old.events if event == "revoked" for name in names}
        kept = [r for r in old.records[:100] if r.position[:2] not in dropped]
        for record in [*kept, *old.records[100:], *new.records]:
            finished.setdefault(record.position[:2], set()).add(record.position.offset)

        def everything_again() -> bool:
            for reader in (old, new):
                for record in reader.poll(0.05):
                    finished.setdefault(record.position[:2], set()).add(record.position.offset)
            return all(finished.get((topic, n)) == set(range(50)) for n in range(2))

        eventually(everything_again, every=0)


def test_a_killed_member_is_replaced_from_its_last_commit(rig: Rig) -> None:
    topic, group = rig.topic(2), "group_" + rig.topic()
    settings = rig.settings(topic, group=group, session_timeout_ms=1_500)
    with member(rig, settings) as survivor, rig_member_later(rig, settings) as victim_source:
        victim = Member(victim_source)
        survivor.joined(victim)
        ((_, partition),) = victim.source.assignment()
        fill(rig, topic, 10, partition=partition)
        records = victim.read(10)
        victim.finish(records[:3])
        assert victim.commit()
        rig.kill(victim.source)
        survivor.read(7, within=20)
        assert survivor.offsets == [3, 4, 5, 6, 7, 8, 9]
        assert len(survivor.source.assignment()) == 2


def test_a_member_that_was_expelled_loses_commits_nothing_and_reads_again(rig: Rig) -> None:
    topic, group = rig.topic(), "group_" + rig.topic()
    fill(rig, topic, 5)
    with member(rig, rig.settings(topic, group=group)) as reader:
        reader.finish(reader.read(5))
        rig.expel(reader.source)
        assert reader.source.last_heartbeat() == float("-inf")
        assert reader.source.commit({(topic, 0): 5}) is False
        eventually(lambda: reader.poll() or len(reader.records) == 10)
        assert [event for event, _ in reader.events] == ["assigned", "lost", "assigned"]
        assert (reader.drains, reader.commit_requests) == (0, 0)
        assert rig.committed(group) == {(topic, 0): 0}
    assert reader.offsets == [0, 1, 2, 3, 4] * 2


@pytest.mark.servers
def test_finding_the_coordinator_again_is_no_heartbeat(kafka_bootstrap: str) -> None:
    with closing(RealRig(kafka_bootstrap)) as rig:
        began = suspend_clock()
        slow = rig.settings(rig.topic(), session_timeout_ms=30_000, options={"heartbeat_interval_ms": 9_000})
        with member(rig, slow) as reader:
            reader.joined()
            counted_in = reader.source.last_heartbeat()
            assert began < counted_in < suspend_clock()
            rig.find_coordinator_again(reader.source)
            assert reader.source.last_heartbeat() == counted_in


def test_pausing_and_resuming_everything_under_flow_loses_nothing(rig: Rig) -> None:
    topic = rig.topic(4)
    for partition in range(4):
        fill(rig, topic, 1_000, partition=partition)
    chance = random.Random(7)
    with member(rig, rig.settings(topic, max_poll_records=120)) as reader:
        while len(reader.records) < 4_000:
            before = len(reader.records)
            reader.source.pause()
            for _ in range(chance.randint(1, 3)):
                assert reader.poll(0.01) == []
            reader.source.resume()
            eventually(lambda: reader.poll(0.2), every=0, what=f"a record after {before}")
            for _ in range(chance.randint(0, 2)):
                reader.poll(0.01)
    for partition in range(4):
        offsets = [r.position.offset for r in reader.records if r.position.partition == partition]
        assert offsets == list(range(1_000))


def test_a_kafka_partition_assigned_while_paused_is_paused_too(rig: Rig) -> None:
    topic = rig.topic(2)
    settings = rig.settings(topic)
    with member(rig, settings) as reader, rig_member_later(rig, settings) as leaving_source:
        leaving = Member(leaving_source)
        reader.joined(leaving)
        reader.source.pause()
        for partition in range(2):
            fill(rig, topic, 3, partition=partition)
        leaving.source.close(5)
        eventually(lambda: reader.poll(0.05) or len(reader.source.assignment()) == 2)
        assert [reader.poll(0.05) for _ in range(5)] == [[]] * 5
        assert reader.records == []
        reader.source.resume()
        assert len(reader.read(6)) == 6


def test_start_from_latest_acts_on_the_first_start_only(rig: Rig) -> None:
    topic, group = rig.topic(), "group_" + rig.topic()
    settings = rig.settings(topic, group=group, start_from="latest")
    fill(rig, topic, 5)
    with member(rig, settings) as reader:
        eventually(lambda: reader.poll() or reader.source.assignment())
        assert rig.committed(group) == {(topic, 0): 5}, "the decision is made once, before a record is read"
    fill(rig, topic, 5, first=5)
    with member(rig, settings) as again:
        again.read(5)
    assert again.offsets == [5, 6, 7, 8, 9]


def test_the_first_start_is_decided_before_joining(rig: Rig) -> None:
    topic = rig.topic(2)
    settings = rig.settings(topic, start_from="latest")
    fill(rig, topic, 5)
    with member(rig, settings) as first, rig_member_later(rig, settings) as second_source:
        fill(rig, topic, 3, first=5)
        second = Member(second_source)  # decides nothing again, although nobody has joined yet
        fill(rig, topic, 2, partition=1)

        def all_five() -> bool:
            first.poll(0.05)
            second.poll(0.05)
            return {r.value for r in [*first.records, *second.records]} == {b"5", b"6", b"7", b"0", b"1"}

        eventually(all_five, every=0)
        first.joined(second)


def test_start_from_a_time(rig: Rig) -> None:
    topic = rig.topic()
    for number, at in enumerate([1_000, 2_000, 3_000, 4_000]):
        rig.produce(topic, b"%d" % number, timestamp_ms=1_763_000_000_000 + at)
    rig.flush()
    with member(rig, rig.settings(topic, start_from="2025-11-13T02:13:22.500Z")) as reader:
        reader.read(2)
    assert reader.values == [b"2", b"3"]


def test_a_kafka_partition_added_later_is_read_from_its_beginning(rig: Rig) -> None:
    topic = rig.topic()
    settings = rig.settings(topic, start_from="latest")
    with member(rig, settings) as reader:
        eventually(lambda: reader.poll() or reader.source.assignment())
    rig.add_partitions(topic, 2)
    fill(rig, topic, 3, partition=1)
    with member(rig, settings) as again:
        again.read(3)
    assert {record.position.partition for record in again.records} == {1}
    assert again.offsets == [0, 1, 2]


def test_a_kafka_partition_added_while_running_is_read_from_its_beginning(rig: Rig) -> None:
    topic = rig.topic()
    with member(rig, rig.settings(topic, start_from="latest")) as reader:
        eventually(lambda: reader.poll() or reader.source.assignment())
        rig.add_partitions(topic, 2)
        fill(rig, topic, 3, partition=1)
        # Polls that are shorter than the rebalance: kafka-python forgets such a join if nobody reminds it.
        eventually(lambda: reader.poll(0.001) or len(reader.records) == 3, every=0)
    assert {record.position.partition for record in reader.records} == {1}


def test_expired_records_stop_the_start_with_the_size_of_the_gap(rig: Rig) -> None:
    topic, group = rig.topic(), "group_" + rig.topic()
    settings = rig.settings(topic, group=group)
    fill(rig, topic, 20)
    with member(rig, settings) as reader:
        reader.finish(reader.read(20)[:5])
        assert reader.commit()
    rig.delete_records(topic, 0, 17)
    with member(rig, settings) as again, pytest.raises(OffsetsLost, match=r"begins at 17: 12 offsets are gone"):
        eventually(again.poll, within=5)
    assert rig.committed(group) == {(topic, 0): 5}
    assert again.records == []


def test_records_that_expire_while_running_stop_the_worker_with_the_size_of_the_gap(rig: Rig) -> None:
    topic = rig.topic()
    fill(rig, topic, 10)
    with member(rig, rig.settings(topic, options={"fetch_max_wait_ms": 20})) as reader:
        reader.read(10)
        reader.source.pause()
        assert [reader.poll(0.05) for _ in range(5)] == [[]] * 5  # longer than a fetch: none is on its way any more
        fill(rig, topic, 10, first=10)
        rig.delete_records(topic, 0, 18)
        reader.source.resume()
        with pytest.raises(OffsetsLost, match="begins at 18: 8 offsets are gone"):
            eventually(reader.poll, within=5)
        with pytest.raises(OffsetsLost):
            reader.poll()


def test_a_lost_commit_stops_the_start_where_records_may_be_gone(rig: Rig) -> None:
    topic, group = rig.topic(2), "group_" + rig.topic()
    settings = rig.settings(topic, group=group)
    fill(rig, topic, 10)
    with member(rig, settings) as reader:
        reader.finish(reader.read(10))
        assert reader.commit()
    rig.forget_commit(group, (topic, 0))
    with member(rig, settings) as again:  # nothing was deleted from the log: reading it all again is exact
        again.read(10)
        assert again.positions[topic, 0] == 0
    rig.forget_commit(group, (topic, 0))
    rig.delete_records(topic, 0, 4)
    with member(rig, settings) as stopped, pytest.raises(OffsetsLost, match="up to 4 records may be lost"):
        eventually(stopped.poll, within=5)


def test_a_new_group_over_a_filled_store_is_not_taken_for_a_first_start(rig: Rig) -> None:
    topic = rig.topic()
    fill(rig, topic, 10)
    rig.delete_records(topic, 0, 4)
    source = rig.source(rig.settings(topic, start_from="latest"), stored=lambda name: name == topic)
    try:
        reader = Member(source)
        with pytest.raises(OffsetsLost, match="up to 4 records may be lost"):
            eventually(reader.poll, within=5)
    finally:
        source.close(5)


def test_a_recreated_topic_is_read_from_its_beginning(rig: Rig) -> None:
    topic, group = rig.topic(), "group_" + rig.topic()
    settings = rig.settings(topic, group=group)
    fill(rig, topic, 5)
    with member(rig, settings) as reader:
        reader.finish(reader.read(5))
        assert reader.commit()
    rig.recreate(topic)
    eventually(lambda: not rig.committed(group))
    fill(rig, topic, 9)
    with member(rig, settings) as again:
        again.read(9)
    assert again.offsets == list(range(9))


def test_a_topic_recreated_while_it_is_read_stops_the_worker(rig: Rig) -> None:
    topic = rig.topic()
    fill(rig, topic, 5)
    with member(rig, rig.settings(topic)) as reader:
        reader.read(5)
        rig.recreate(topic)
        fill(rig, topic, 9)
        with pytest.raises(OffsetsLost, match="recreated"):
            eventually(lambda: reader.source.lag() == {} or reader.poll(), within=8)
        assert len(reader.records) == 5


def test_a_topic_recreated_before_a_rebalance_stops_the_worker_and_every_start_after_it(rig: Rig) -> None:
    topic, group = rig.topic(), "group_" + rig.topic()
    settings = rig.settings(topic, group=group)
    milvus = FakeMilvus()
    open_marks(milvus, "docs")

    def memory() -> RememberedPositions:
        return RememberedPositions(PositionMarks(Marks(milvus, "docs"), group), group, lambda _: True)

    fill(rig, topic, 5)
    with member(rig, settings, memory=memory()) as reader:
        reader.finish(reader.read(5))
        assert reader.commit()
        rig.recreate(topic)
        eventually(lambda: not rig.committed(group))  # the broker forgets the commits of a deleted topic
        fill(rig, topic, 9)
        rig.expel(reader.source)
        with pytest.raises(OffsetsLost, match="recreated since offset 0 was remembered in Milvus"):
            eventually(reader.poll, within=15)
        assert len(reader.records) == 5
    with pytest.raises(OffsetsLost, match="recreated"), member(rig, settings, memory=memory()):
        pass
    with member(rig, settings, memory=memory(), accept_gap=True) as accepted:
        assert len(accepted.read(9)) == 9
    with member(rig, settings, memory=memory()) as later:
        assert len(later.read(9)) == 9


def test_a_missing_topic_is_a_setting_to_correct(rig: Rig) -> None:
    topic = rig.topic()
    source = rig.source(rig.settings(topic + "x"))
    try:
        with pytest.raises(UsageError, match=rf"{topic}x.*did you mean.*{topic}"):
            Member(source)
    finally:
        source.close(5)


@pytest.mark.servers
@pytest.mark.timeout(120)
def test_a_record_that_the_client_cannot_read_stops_the_worker_and_is_named(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as bootstrap, closing(RealRig(bootstrap)) as rig:
        topic = rig.topic()
        for value in (b"good", b"a bad one"):
            rig.produce(topic, value)
            rig.flush()
        (segment,) = (tmp_path / "kafka" / "data" / f"{topic}-0").glob("*.log")
        segment.write_bytes(segment.read_bytes().replace(b"a bad one", b"a BAD one"))
        with member(rig, rig.settings(topic)) as reader:
            reader.read(1)
            with pytest.raises(MilvusStreamError, match=rf"{topic}/0, offset 1.*commit the next offset"):
                eventually(reader.poll, within=5)
            with pytest.raises(MilvusStreamError):  # kafka-python would hang here
                reader.poll()


def test_lag_and_ends(rig: Rig) -> None:
    topic = rig.topic()
    fill(rig, topic, 8)
    with member(rig, rig.settings(topic, max_poll_records=5)) as reader:
        reader.finish(reader.read(5)[:2])
        assert reader.commit()
        assert reader.source.ends([(topic, 0)]) == {(topic, 0): 8}
        lag = reader.source.lag()[topic, 0]
        assert (lag.end, lag.committed, lag.position) == (8, 2, 5)
        reader.read(8)
        assert reader.source.lag()[topic, 0].position == 8
