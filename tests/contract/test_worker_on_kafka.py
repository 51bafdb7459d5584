"""A whole worker on real Apache Kafka, Milvus in memory: unusual records, and what readiness says of the broker."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from consumers.kafka import KafkaSettings, KafkaSource, Source
from consumers.local.kafka import LocalKafka
from tests.support.rigs.kafka import RealRig
from tests.support.rigs.raw_headers import produce_around
from tests.support.rigs.worker import DEAD_LETTERS, Rig, document, running, soon
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers


@dataclass
class KafkaRig(Rig):
    """A worker of a group on a real broker; its dead letters go to the fake."""

    settings: KafkaSettings | None = None

    def __post_init__(self) -> None:
        assert self.settings is not None
        super().__post_init__()
        self.broker.create_topic(DEAD_LETTERS)

    def _member(self) -> Source:
        assert self.settings is not None
        return KafkaSource(self.settings, memory=self.memory)


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_of_a_batch_with_one_bad_header_name_everything_else_is_stored(kafka_bootstrap: str, codec: str | None) -> None:
    with closing(RealRig(kafka_bootstrap)) as kafka:
        topic = kafka.topic()
        settings = kafka.settings(topic)
        produce_around(kafka_bootstrap, topic, b"caf\xe9", [document(f"d{n}") for n in range(9)], codec)
        with running(KafkaRig(settings=settings)) as rig:
            eventually(lambda: kafka.committed(settings.group_id).get((topic, 0)) == 9, within=20)
            assert sorted(rig.texts()) == [f"d{n}" for n in range(9) if n != 4]
            (letter,) = rig.broker.read(DEAD_LETTERS)
            assert letter.value == document("d4")
            assert (r"caf\xe9", b"\x00\xff") in letter.headers


class _Kafka(LocalKafka):
    """A broker that can be made silent: connections stay open, nothing answers."""

    @contextmanager
    def silent(self) -> Iterator[None]:
        assert self._process is not None
        (broker,) = psutil.Process(self._process.pid).children()
        broker.suspend()
        try:
            yield
        finally:
            broker.resume()


@pytest.mark.timeout(180)
def test_readiness_follows_a_broker_that_answers_no_more_and_returns(tmp_path: Path) -> None:
    server = _Kafka(tmp_path / "kafka")
    with server as bootstrap, closing(RealRig(bootstrap)) as kafka:
        topic = kafka.topic()
        with running(KafkaRig(settings=kafka.settings(topic), session_s=3.0)) as rig:
            soon(lambda: rig.worker.ready() == {})
            with server.silent():
                said = eventually(lambda: rig.worker.ready().get("kafka"), within=20)
                assert "no heartbeat answered for" in said
                assert rig.worker.alive() == {}
            eventually(lambda: rig.worker.ready() == {}, within=30)
            kafka.produce(topic, document("after"))
            kafka.flush()
            soon(lambda: list(rig.texts()) == ["after"])
