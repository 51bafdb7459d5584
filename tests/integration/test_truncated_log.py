"""A broker that lost the end of a log with its power, and has filled it again."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from consumers.kafka import KafkaSettings, KafkaSource
from consumers.kafka.groups.commits import group_commits
from pipeline.errors import OffsetsLost
from tests.chaos.servers import Killable, make_kafka
from tests.support.rigs.kafka import Member
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

TOPIC = "documents"


class Broker(Killable):
    """A Kafka whose log can be cut."""

    def __init__(self, directory: Path) -> None:
        self._kafka = make_kafka(directory, 0)
        super().__init__(self._kafka)
        self.address = self._kafka.start()

    def cut(self) -> None:
        """The whole log of the topic is lost, and its offsets begin again at 0."""
        self.kill()
        folder = self._kafka.directory / "data" / f"{TOPIC}-0"
        for file in folder.iterdir():
            if file.name != "partition.metadata":
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        self.launch()
        self.await_ready()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "kafka")
    try:
        yield broker
    finally:
        broker._kafka.stop()


def produce(address: str, count: int) -> None:
    with closing(KafkaProducer(bootstrap_servers=address)) as producer:
        for number in range(count):
            producer.send(TOPIC, b"%d" % number).get(60)


@pytest.mark.timeout(180)
def test_a_log_that_was_cut_and_filled_again_is_noticed_by_the_leader_epoch(broker: Broker) -> None:
    settings = KafkaSettings(broker.address, (TOPIC,), "group", session_timeout_ms=6_000)
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        admin.create_topics({TOPIC: {"num_partitions": 1, "replication_factor": 1}})
    produce(broker.address, 20)
    source = KafkaSource(settings)
    try:
        reader = Member(source)
        reader.finish(reader.read(20))
        assert reader.commit()
    finally:
        source.close(5)
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        commit = group_commits(admin, "group")[TOPIC, 0]
    assert commit.leader_epoch >= 0
    broker.cut()
    produce(broker.address, 30)
    source = KafkaSource(settings)
    try:
        reader = Member(source)
        with pytest.raises(OffsetsLost, match=f"{TOPIC}/0: records up to offset 20 were read, but the log was cut"):
            eventually(reader.poll, within=30)
        assert reader.records == []
    finally:
        source.close(5)
