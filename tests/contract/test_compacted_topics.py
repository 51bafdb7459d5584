"""A member of a group that is too far behind on a compacted topic, on real Apache Kafka."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from consumers.kafka import KafkaSettings, KafkaSource, create_topic
from pipeline.errors import OffsetsLost
from tests.support.names import unique
from tests.support.rigs.kafka import Member, RealRig
from tests.support.waiting import eventually

RETENTION_MS = 3_000
DAY_MS = 86_400_000


@pytest.fixture
def rig(kafka_bootstrap: str) -> Iterator[RealRig]:
    rig = RealRig(kafka_bootstrap)
    yield rig
    rig.close()


def compacted(rig: RealRig, retention_ms: int = RETENTION_MS) -> tuple[str, KafkaSettings]:
    topic = unique("topic")
    settings = rig.settings(topic)
    configs = {"cleanup.policy": "compact", "delete.retention.ms": str(retention_ms)}
    create_topic(settings, topic, configs=configs)
    return topic, settings


@contextmanager
def member(settings: KafkaSettings, *, accept_gap: bool = False) -> Iterator[tuple[Member, KafkaSource]]:
    source = KafkaSource(settings, accept_gap=accept_gap)
    try:
        yield Member(source), source
    finally:
        source.close(5)


def fill(rig: RealRig, topic: str, count: int) -> None:
    for number in range(count):
        rig.produce(topic, None, key=b"%d" % number)
    rig.flush()


def test_a_paused_member_stops_when_deletes_may_be_gone(rig: RealRig) -> None:
    topic, settings = compacted(rig)
    fill(rig, topic, 2)
    with member(settings) as (reader, source):
        reader.read(2)
        assert source.lag()[topic, 0].end == 2
        assert source.commit({(topic, 0): 2})
        source.pause()
        fill(rig, topic, 1)

        def stopped() -> OffsetsLost | None:
            source.lag()
            try:
                source.poll(0.1)
            except OffsetsLost as error:
                return error
            return None

        error = eventually(stopped, within=30)
    assert re.search(rf"{topic}/0: the topic is compacted.*--accept-gap", str(error))


def test_a_group_that_was_away_too_long_stops_until_the_gap_is_accepted(rig: RealRig) -> None:
    topic, settings = compacted(rig)
    fill(rig, topic, 2)
    with member(settings) as (reader, source):
        reader.read(2)
        eventually(lambda: source.lag()[topic, 0].end == 2 and source.commit({(topic, 0): 2}))
    fill(rig, topic, 1)

    def refused() -> OffsetsLost | None:
        try:
            with member(settings) as (reader, _):
                reader.poll(1.0)
        except OffsetsLost as error:
            return error
        return None

    assert f"{topic}/0: the topic is compacted" in str(eventually(refused, within=30))
    assert rig.committed(settings.group_id) == {(topic, 0): 2}, "nothing is skipped"
    with member(settings, accept_gap=True) as (reader, _):
        (record,) = reader.read(1)
        assert (record.position.offset, record.value) == (2, None)


def test_the_moment_survives_a_restart_and_a_topic_that_keeps_deletes_for_long_stops_nobody(rig: RealRig) -> None:
    topic, settings = compacted(rig, DAY_MS)
    fill(rig, topic, 3)
    with member(settings) as (reader, source):
        reader.read(2)
        assert source.commit({(topic, 0): 1})
    fill(rig, topic, 2)
    with member(settings) as (reader, source):
        assert [record.position.offset for record in reader.read(4)] == [1, 2, 3, 4]
        source.lag()
        assert source.commit({(topic, 0): 5})
