"""What the worker relies on from a source when its membership ends or changes, on real Apache Kafka and on the fake."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from kafka.coordinator.consumer import ConsumerCoordinator

from consumers.kafka import KafkaSettings, KafkaSource, LeaseClock, Source, suspend_clock
from consumers.kafka.client import internals
from consumers.kafka.client.connection import STATIC_LEASE_S
from consumers.kafka.source.rebalance import GroupListener
from pipeline.errors import MembershipLost
from tests.support.rigs.kafka import Member, RealRig, Rig
from tests.support.waiting import eventually

# kafka-python leaves a socket open if it is closed with a request unsent, as in the middle of a join.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning")

INFINITELY_LONG_AGO = float("-inf")


@contextmanager
def closed_later(*sources: Source) -> Iterator[None]:
    """Close the sources in any case."""
    with ExitStack() as stack:
        for source in sources:
            stack.callback(source.close, 5)
        yield
    gc.collect()  # what a client left open is noticed here, not in a test that comes later


def fill(rig: Rig, topic: str, count: int, *, partitions: int = 2, first: int = 0) -> None:
    for partition in range(partitions):
        for number in range(first, first + count):
            rig.produce(topic, b"%d" % number, partition=partition)
    rig.flush()


@contextmanager
def replaced_in_a_join(rig: Rig) -> Iterator[tuple[Member, Member, str, Callable[[], None]]]:
    """A member that joins for longer than its session, the new owner of all, the topic, and what ends the join.

    The first one has finished offsets 0 to 4 of both Kafka partitions, and has not committed them. The new owner has
    committed 10.
    """
    topic, group = rig.topic(2), "group_" + rig.topic()
    settings = rig.settings(topic, group=group)
    fill(rig, topic, 5)
    first, second = rig.source(settings), rig.source(settings)
    with closed_later(first, second):
        old = Member(first)
        old.joined(each=2)
        old.finish(list(old.read(10)))
        end_join = rig.hold_join(first)
        new = Member(second)

        def taken_over() -> bool:
            for member in (old, new):
                member.poll(0.05)
            return len(second.assignment()) == 2

        eventually(taken_over, within=20, every=0, what="the new owner")
        fill(rig, topic, 5, first=5)
        new.finish(new.read(20))
        assert new.commit()
        assert old.events == [("assigned", ((topic, 0), (topic, 1)))], "it knows nothing of it yet"
        yield old, new, group, end_join


def assert_lost(old: Member) -> None:
    """The old member lost all at once: no drain, no commit, and no lease before it knew."""
    assigned, lost, *_ = old.events
    assert (assigned[0], lost[0]) == ("assigned", "lost")
    assert lost[1] == assigned[1], "all of them"
    assert (old.drains, old.commit_requests) == (0, 0)
    assert old.leases_at_losses == [INFINITELY_LONG_AGO]


def lost_while_its_share_goes_to_another(rig: Rig) -> None:
    with replaced_in_a_join(rig) as (old, new, group, end_join):
        end_join()
        eventually(lambda: (old.poll(0.05), new.poll(0.05), len(old.events) > 1)[-1], within=20, every=0)
        assert_lost(old)
        assert set(rig.committed(group).values()) == {10}, "a committed offset never goes back"


def lost_while_its_share_comes_back(rig: Rig) -> None:
    with replaced_in_a_join(rig) as (old, new, group, end_join):
        new.source.close(5)
        end_join()
        eventually(lambda: old.poll(0.05) or len(old.events) >= 3, within=20, every=0)
        assert_lost(old)
        assert [event for event, _ in old.events] == ["assigned", "lost", "assigned"]
        assert set(old.positions.values()) == {10}
        ((topic, _), _) = old.positions
        fill(rig, topic, 1, first=10)
        old.read(12)
        assert old.offsets[10:] == [10, 10], "nothing between the old position and the committed offset is read"
        assert set(rig.committed(group).values()) == {10}


def test_a_member_replaced_during_its_join_loses_what_goes_to_another(rig: Rig) -> None:
    lost_while_its_share_goes_to_another(rig)


def test_a_member_replaced_during_its_join_gets_a_share_again_at_the_committed_offset(rig: Rig) -> None:
    with replaced_in_a_join(rig) as (old, new, _, end_join):
        end_join()
        old.joined(new)
        assert_lost(old)
        assert old.positions[next(iter(old.source.assignment()))] == 10


def test_a_member_replaced_during_its_join_begins_again_what_comes_back(rig: Rig) -> None:
    lost_while_its_share_comes_back(rig)


CASES = (lost_while_its_share_goes_to_another, lost_while_its_share_comes_back)


@pytest.mark.servers
@pytest.mark.parametrize("case", CASES)
def test_the_client_announces_a_loss_during_a_join(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch, case: Callable[[Rig], None]
) -> None:
    monkeypatch.setattr(GroupListener, "outlived", False)
    with closing(RealRig(kafka_bootstrap)) as rig:
        case(rig)


@pytest.mark.servers
@pytest.mark.parametrize("case", CASES)
def test_a_loss_that_the_client_does_not_announce_is_noticed_by_the_member_id(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch, case: Callable[[Rig], None]
) -> None:
    monkeypatch.setattr(internals._Coordinator, "reset_generation", ConsumerCoordinator.reset_generation)
    with closing(RealRig(kafka_bootstrap)) as rig:
        case(rig)


def test_a_reread_begins_at_the_committed_offset_and_commits_nothing(rig: Rig) -> None:
    topic, group = rig.topic(2), "group_" + rig.topic()
    fill(rig, topic, 10)
    source = rig.source(rig.settings(topic, group=group))
    with closed_later(source):
        reader = Member(source)
        records = list(reader.read(20))
        reader.finish([record for record in records if record.position.offset < 4])
        assert reader.commit()
        reader.finish(records)
        source.reread()
        both = ((topic, 0), (topic, 1))
        assert reader.events == [("assigned", both), ("assigned", both)]
        assert reader.positions == {(topic, 0): 4, (topic, 1): 4}
        assert rig.committed(group) == {(topic, 0): 4, (topic, 1): 4}
        reader.read(32)
        again = [(record.position.partition, record.position.offset) for record in reader.records[20:]]
        assert sorted(again) == [(partition, offset) for partition in range(2) for offset in range(4, 10)]
        assert reader.tracker.committable() == {}, "it was finished before it was read again"


def test_a_reread_while_paused_reads_nothing_until_it_is_resumed(rig: Rig) -> None:
    topic = rig.topic()
    fill(rig, topic, 3, partitions=1)
    source = rig.source(rig.settings(topic))
    with closed_later(source):
        reader = Member(source)
        reader.read(3)
        source.pause()
        source.reread()
        assert [reader.poll(0.05) for _ in range(5)] == [[]] * 5
        source.resume()
        reader.read(6)
        assert reader.offsets == [0, 1, 2] * 2


class Shifted(LeaseClock):
    """A lease clock that a test moves on."""

    def __init__(self) -> None:
        self.suspended_s = 0.0
        self.wall_moved_s = 0.0
        super().__init__(lambda: suspend_clock() + self.suspended_s, lambda: time.time() + self._wall_ahead())

    def _wall_ahead(self) -> float:
        return self.suspended_s + self.wall_moved_s


@pytest.fixture
def real_rig(kafka_bootstrap: str) -> Iterator[RealRig]:
    with closing(RealRig(kafka_bootstrap)) as rig:
        yield rig


def heartbeats_again(reader: Member, after: float) -> None:
    eventually(lambda: reader.poll(0.05) or reader.source.last_heartbeat() > after, every=0)


@pytest.mark.servers
def test_the_lease_ends_while_the_machine_is_suspended_and_begins_with_the_next_heartbeat(real_rig: RealRig) -> None:
    clock = Shifted()
    source = KafkaSource(real_rig.settings(real_rig.topic()), clock=clock)
    with closed_later(source):
        reader = Member(source)
        reader.joined()
        before = clock.now()
        assert before - source.last_heartbeat() < 3, "its session"
        clock.suspended_s = 60
        assert clock.now() - source.last_heartbeat() > 50
        heartbeats_again(reader, before + 60)


@pytest.mark.servers
@pytest.mark.parametrize("moved_s", [30.0, -30.0])
def test_a_jump_of_the_wall_clock_ends_the_lease_until_the_next_heartbeat(real_rig: RealRig, moved_s: float) -> None:
    clock = Shifted()
    settings = real_rig.settings(real_rig.topic(), session_timeout_ms=30_000, options={"heartbeat_interval_ms": 1_000})
    source = KafkaSource(settings, clock=clock)
    with closed_later(source):
        reader = Member(source)
        reader.joined()
        heartbeats_again(reader, clock.now())
        clock.wall_moved_s = moved_s
        assert source.last_heartbeat() == INFINITELY_LONG_AGO
        heartbeats_again(reader, INFINITELY_LONG_AGO)


FAST = 100
"""How much faster than time a clock goes on which the wait of a static member is short."""


def fast_clock() -> LeaseClock:
    return LeaseClock(lambda: suspend_clock() * FAST, lambda: time.time() + suspend_clock() * (FAST - 1))


def static(rig: RealRig) -> KafkaSettings:
    return rig.settings(rig.topic(), session_timeout_ms=20_000, options={"group_instance_id": "worker-0"})


@pytest.mark.servers
def test_a_static_member_takes_over_when_the_lease_of_the_one_it_replaces_is_over(real_rig: RealRig) -> None:
    settings, clock = static(real_rig), Shifted()
    assert settings.lease_s == STATIC_LEASE_S
    first, second = KafkaSource(settings, clock=fast_clock()), KafkaSource(settings, clock=clock)
    with closed_later(first, second):
        old = Member(first)
        old.joined()
        new = Member(second)
        polling = threading.Thread(target=lambda: eventually(lambda: new.poll() or new.events, within=40), daemon=True)
        polling.start()
        eventually(second.assignment, within=10, what="the assignment of the broker")
        assert new.events == [], "the old one may still write"
        with pytest.raises(MembershipLost, match="group_instance_id"):
            eventually(lambda: old.poll(0.05) is None, within=5, every=0)
        assert first.last_heartbeat() == INFINITELY_LONG_AGO
        assert new.events == []
        clock.suspended_s = STATIC_LEASE_S
        polling.join(10)
        assert [event for event, _ in new.events] == ["assigned"]


@pytest.mark.servers
def test_the_commit_of_a_replaced_static_member_is_an_error_and_ends_its_lease(real_rig: RealRig) -> None:
    settings = static(real_rig)
    fill(real_rig, settings.topics[0], 3, partitions=1)
    first, second = (KafkaSource(settings, clock=fast_clock()) for _ in range(2))
    with closed_later(first, second):
        old = Member(first)
        old.finish(old.read(3))
        new = Member(second)
        eventually(lambda: new.poll() or new.events)
        with pytest.raises(MembershipLost, match="group_instance_id"):
            old.commit()
        assert first.last_heartbeat() == INFINITELY_LONG_AGO
        with pytest.raises(MembershipLost):
            old.poll()
