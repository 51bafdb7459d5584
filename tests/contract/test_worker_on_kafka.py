"""A whole worker on real Apache Kafka, Milvus in memory: unusual records, and what readiness says of the broker."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from consumers.kafka import KafkaSettings, KafkaSource, Source
from consumers.local.kafka import LocalKafka
from pipeline.embedding import HashEmbedder
from pipeline.records import Chunk
from tests.support.fakes.milvus import FakeMilvus
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
        self.member = KafkaSource(self.settings, memory=self.memory)
        return self.member


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


class Held(HashEmbedder):
    """Embeds the texts that begin with "two" only when it is let go."""

    def __init__(self) -> None:
        super().__init__("hash:8")
        self.entered, self.released = threading.Event(), threading.Event()

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        if any(chunk.text.startswith("two") for chunk in chunks):
            self.entered.set()
            self.released.wait(60)
        return super().embed(chunks)


@pytest.mark.timeout(120)
def test_what_was_in_flight_when_a_member_was_replaced_during_its_join_is_never_written(kafka_bootstrap: str) -> None:
    with closing(RealRig(kafka_bootstrap)) as kafka:
        topic = kafka.topic()
        settings, model, milvus = kafka.settings(topic), Held(), FakeMilvus()

        def publish(text: str) -> None:
            kafka.produce(topic, document("d", text), key=b"d")
            kafka.flush()

        def committed() -> int:
            return kafka.committed(settings.group_id).get((topic, 0), 0)

        old = KafkaRig(milvus=milvus, embedder=model, settings=settings, session_s=3.0)
        with running(old):
            publish("one")
            eventually(lambda: committed() == 1, within=20)
            publish("two")
            assert model.entered.wait(20)
            end_join = kafka.hold_join(old.member)
            new = KafkaRig(milvus=milvus, settings=settings, session_s=3.0)
            with running(new):
                eventually(new.member.assignment, within=20, what="the new owner")
                publish("three")
                eventually(lambda: committed() == 3, within=30)
                assert new.texts() == {"d": ["three"]}
                model.released.set()  # what was in flight waits to be written from now on
                soon(lambda: "another worker may own" in str(old.flow.waiting_reasons))
                end_join()
                eventually(lambda: old.flow.idle, within=20)
                assert new.texts() == {"d": ["three"]}
                assert committed() == 3
        assert old.metrics.registry.get_sample_value("ingest_rebalances_total", {"event": "lost"}) == 1


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
