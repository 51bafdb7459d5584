"""A consumer group seen from outside, on real Apache Kafka."""

from contextlib import closing

import pytest

from consumers.kafka import GroupMember, GroupWatch
from tests.support.rigs.kafka import Member, RealRig
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers


def test_the_members_and_their_kafka_partitions_are_seen(kafka_bootstrap: str) -> None:
    with closing(RealRig(kafka_bootstrap)) as rig:
        topic = rig.topic(2)
        settings = rig.settings(topic)
        with closing(GroupWatch(settings)) as watch:
            assert (watch.members(), watch.active()) == ([], False), "nobody has used the group"
            rig.produce(topic, b"value", partition=0)
            rig.flush()
            source = rig.source(settings)
            member = Member(source)
            member.read(1)
            wanted = [GroupMember("milvus-stream", "127.0.0.1", ((topic, 0), (topic, 1)))]
            eventually(lambda: watch.members() == wanted, what=f"the member, not {watch.members()}")
            source.close(5)
            eventually(lambda: not watch.active(), what="the end of the member")
            assert watch.members() == []
