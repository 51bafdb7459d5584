"""Servers of our own, topics, proxies and places for workers."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from pymilvus import MilvusClient

from pipeline.embedding import HashEmbedder
from tests.chaos.proxy import FaultProxy
from tests.chaos.report import say
from tests.chaos.servers import Killable, make_kafka, make_milvus
from tests.chaos.workers import Slot, Workers

TOPIC, LETTERS, GROUP, COLLECTION = "documents", "documents.dlq", "chaos", "chaos"
KAFKA_PARTITIONS = 6
SLOTS, WORKERS = 4, 3
SESSION_S = 10.0
MODEL = "hash:32"


@dataclass(frozen=True)
class Stage:
    """What a run plays on."""

    folder: Path
    bootstrap: str
    """Of the broker itself, past the proxies."""
    uri: str
    broker: Killable
    milvus: Killable
    workers: Workers

    @contextmanager
    def client(self) -> Iterator[MilvusClient]:
        """Of the server itself, past the proxies."""
        with closing(MilvusClient(self.uri, dedicated=True)) as client:
            yield client

    def refuse_letters(self, *, yes: bool) -> bool:
        """One broker cannot give two in-sync replicas, so it refuses what must be confirmed by all.

        False if the broker could not be told; it may be down at this moment.
        """
        entry = ConfigEntry("min.insync.replicas", "2" if yes else "1", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, LETTERS, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})
        try:
            for each in admin.incremental_alter_configs([resource], request_timeout=5).values():
                each.result(10)
        except (KafkaException, TimeoutError):
            return False
        return True


@contextmanager
def set_stage(folder: Path, seed: int) -> Iterator[Stage]:
    """Kafka and Milvus up, no worker yet; at the end nothing of it runs any more."""
    with ExitStack() as stack:
        say("starting Apache Kafka and Milvus")
        broker, milvus = make_kafka(folder / "kafka", SLOTS), make_milvus(folder / "milvus")
        kafka_proxies = [FaultProxy(port, seed + n) for n, port in enumerate(broker.listeners)]
        broker.advertise([proxy.port for proxy in kafka_proxies])
        for server in (broker, milvus):
            stack.callback(server.stop)
            server.launch()
        bootstrap, uri = broker.await_ready(), milvus.await_ready()
        milvus_port = int(uri.rpartition(":")[2])
        slots = [
            Slot(number, proxy, FaultProxy(milvus_port, seed + 100 + number))
            for number, proxy in enumerate(kafka_proxies)
        ]
        workers = Workers(slots, folder, _settings(), folder / "refuse-flushes")
        stack.callback(workers.end)
        _create_topics(bootstrap)
        yield Stage(folder, bootstrap, uri, Killable(broker), Killable(milvus), workers)


def _create_topics(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})  # it must outlive its answers
    made = admin.create_topics([NewTopic(TOPIC, KAFKA_PARTITIONS, 1), NewTopic(LETTERS, 2, 1)])
    for each in made.values():
        each.result(30)


def _settings() -> dict[str, Any]:
    return {
        "kafka": {
            "topics": [TOPIC],
            "group_id": GROUP,
            "dead_letter_topic": LETTERS,
            "session_timeout": f"{SESSION_S:.0f}s",
        },
        "milvus": {"collection": COLLECTION, "timeout": "2s"},
        "embedding": {"model": MODEL},
        "chunking": {"max_tokens": 24, "overlap": 4},
        "batch": {"max_records": 200, "max_wait": "200ms"},
        "telemetry": {"port": 0, "log_format": "json"},
    }


def vector_of(text: str) -> Any:
    """What the workers must store beside a text."""
    return HashEmbedder(MODEL).embed_queries([text])[0]
