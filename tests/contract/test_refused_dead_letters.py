"""Dead letters that their topic refuses unchanged, on real Apache Kafka."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from consumers.dead_letters import decode_dead_letter, ensure_dead_letter_topic
from pipeline.ingest import DeadLetterChannel
from pipeline.records import Position, Receipt, Rejected, SourceRecord
from tests.support.names import unique
from tests.support.rigs.kafka import RealRig, delivering, now_ms
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
YEAR_2100 = 4_102_444_800_000


@pytest.fixture
def rig(kafka_bootstrap: str) -> Iterator[RealRig]:
    with closing(RealRig(kafka_bootstrap)) as real:
        yield real


def outbox(
    rig: RealRig, topic: str, receipts: list[Receipt], *waiting: Rejected
) -> AbstractContextManager[DeadLetterChannel]:
    """Sends what waits in one window."""
    channel = rig.dead_letters(topic, receipts.append)
    for item in waiting:
        channel.send(item)
    return delivering(channel)


def rejected(offset: int, timestamp_ms: int | None = None, key: bytes | None = b"key") -> Rejected:
    at = now_ms() if timestamp_ms is None else timestamp_ms
    return Rejected(SourceRecord(Position("documents", 3, offset), at, key, b"value"), "decode", "bad_time", "m")


def confirmed(receipts: list[Receipt]) -> set[int]:
    return {position.offset for receipt in receipts for position in receipt.positions}


def configure(rig: RealRig, topic: str, **configs: str) -> None:
    named = {name.replace("_", "."): value for name, value in configs.items()}
    rig._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, named)])


@pytest.mark.parametrize("count", [1, 2, 40])
def test_dead_letters_of_times_that_the_topic_refuses_get_there_with_their_own_time_in_a_header(
    rig: RealRig, count: int
) -> None:
    topic, receipts = rig.topic(), list[Receipt]()
    configure(rig, topic, message_timestamp_after_max_ms="3600000")
    good = rejected(1_000)
    with outbox(rig, topic, receipts, *(rejected(n, YEAR_2100 + n) for n in range(count)), good) as channel:
        eventually(lambda: len(confirmed(receipts)) == count + 1, within=20)
        eventually(lambda: channel.problem is None)
    found = {decode_dead_letter(record).offset: record for record in rig.read(topic)}
    assert len(found) == count + 1
    for n in range(count):
        assert decode_dead_letter(found[n]).timestamp_ms == YEAR_2100 + n
        assert found[n].timestamp_ms < now_ms() + 60_000
    assert found[1_000].timestamp_ms == good.record.timestamp_ms


def test_a_dead_letter_that_is_refused_for_good_is_named_and_holds_up_no_other_of_its_window(rig: RealRig) -> None:
    topic, receipts = rig.topic(), list[Receipt]()
    configure(rig, topic, cleanup_policy="compact")  # such a topic takes no record without a key
    waiting = [rejected(0), rejected(1, key=None), rejected(2), rejected(3, key=None), rejected(4)]
    with outbox(rig, topic, receipts, *waiting) as channel:
        eventually(lambda: confirmed(receipts) == {0, 2, 4}, within=20)
        problem = eventually(lambda: channel.problem)
        assert "refuses the dead letter of documents/3/" in problem
        assert "cleanup.policy" in problem
        configure(rig, topic, cleanup_policy="delete")
        eventually(lambda: confirmed(receipts) == {0, 1, 2, 3, 4} and channel.problem is None, within=30)
    times = {decode_dead_letter(record).offset: decode_dead_letter(record).timestamp_ms for record in rig.read(topic)}
    assert times == {item.position.offset: item.record.timestamp_ms for item in waiting}


def test_the_topic_that_a_worker_creates_takes_every_time(rig: RealRig) -> None:
    topic, receipts = unique("dlq"), list[Receipt]()
    ensure_dead_letter_topic(rig.settings(), topic, create=True)
    rig._topics.add(topic)
    times = [1_000, YEAR_2100, YEAR_2100 + 10**9]
    with outbox(rig, topic, receipts, *(rejected(n, at) for n, at in enumerate(times))) as channel:
        eventually(lambda: len(confirmed(receipts)) == 3, within=20)
        assert channel.problem is None
    assert [record.timestamp_ms for record in rig.read(topic)] == times


def test_a_dead_letter_without_a_time_is_sent_once(rig: RealRig) -> None:
    topic, receipts = rig.topic(), list[Receipt]()
    item = rejected(0)
    timeless = replace(item, record=replace(item.record, timestamp_ms=-1))
    with outbox(rig, topic, receipts, timeless):
        eventually(lambda: receipts, within=20)
    assert len(rig.read(topic)) == 1
