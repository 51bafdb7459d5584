"""Records of Confluent's serializers end as documents of a real Milvus, over an outage of their registry."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer
from pymilvus import MilvusClient

from tests.support.oracle.observed import committed_and_end, headers_of, read_all
from tests.support.processes import Running, running
from tests.support.rigs import registered
from tests.support.rigs.registered import KEY, proto_classes
from tests.support.rigs.schema_registry import FakeSchemaRegistry, schema_registry
from tests.support.rigs.site import write_config
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

MOMENT = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEYS = '{"type": "record", "name": "TicketKey", "fields": [{"name": "id", "type": "string"}]}'


@pytest.fixture
def registry() -> Iterator[FakeSchemaRegistry]:
    with schema_registry() as served:
        yield served


def stored(milvus: str, collection: str) -> dict[str, str]:
    with closing(MilvusClient(milvus)) as client:
        rows = client.query(collection, filter="chunk >= 0", output_fields=["doc_id", "text"], limit=100)
    return {row["doc_id"]: row["text"] for row in rows}


def produce(bootstrap: str, topic: str, records: list[tuple[bytes | None, bytes | None]]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for key, value in records:
        producer.produce(topic, value, key, partition=0)
    assert producer.flush(30) == 0


def all_committed(bootstrap: str, topic: str, count: int) -> bool:
    return {offset for offset, _ in committed_and_end(bootstrap, topic, topic).values()} == {count}


def first_records(address: str) -> list[tuple[bytes | None, bytes | None]]:
    """Two documents of each format."""
    avro, as_json = registered.avro(address), registered.json_schema(address)
    ticket = proto_classes()["Ticket"]
    proto = registered.protobuf(address, ticket)
    key = registered.avro(address, KEYS)
    return [
        *(
            (key({"id": f"avro-{n}"}, KEY), avro({"id": f"avro-{n}", "text": "Avro", "event_time": MOMENT}))
            for n in (1, 2)
        ),
        *((b"json-%d" % n, as_json({"id": f"json-{n}", "text": "JSON Schema"})) for n in (1, 2)),
        *((b"proto-%d" % n, proto(ticket(id=f"proto-{n}", text="Protobuf"), topic="protobuf")) for n in (1, 2)),
    ]


def test_records_of_all_three_formats_are_stored_deleted_and_dead_lettered(
    kafka_bootstrap: str,
    milvus_lite_uri: str,
    make_topic: Callable[..., str],
    registry: FakeSchemaRegistry,
    tmp_path: Path,
) -> None:
    topic = make_topic(1, prefix="registry")
    address = registry.address
    produce(kafka_bootstrap, topic, first_records(address))
    sections = {"registry": {"url": address}, "record": {"delete_field": "deleted"}}
    config = write_config(tmp_path / "config.json", topic, kafka_bootstrap, milvus_lite_uri, sections)
    with running(["-m", "consumers.cli", "ingest", "-c", str(config)], tmp_path / "worker.log") as worker:
        eventually(lambda: all_committed(kafka_bootstrap, topic, 6), within=90, what="the first records")
        later = over_an_outage(kafka_bootstrap, topic, registry, worker)
        eventually(lambda: all_committed(kafka_bootstrap, topic, 6 + later), within=90, what="the later records")
        assert worker.end(signal.SIGTERM, within=60) == 0
        assert worker.errors().count("registry.unavailable") == 1
    assert stored(milvus_lite_uri, topic.replace("-", "_")) == {
        "avro-2": "Avro",
        "avro-3": "A new schema",
        "json-2": "JSON Schema",
        "proto-2": "Protobuf",
    }
    (dead,) = read_all(kafka_bootstrap, f"{topic}.dlq")
    assert headers_of(dead)["__connect.errors.exception.message"].decode().startswith("the schema registry has no")


def over_an_outage(bootstrap: str, topic: str, registry: FakeSchemaRegistry, worker: Running) -> int:
    """Publish deletes and a schema that is new, and let the registry be away when it is needed; how many records."""
    address = registry.address
    ticket = proto_classes()["Ticket"]
    changed = json.loads(registered.AVRO_SCHEMA)
    changed["fields"].append({"name": "lang", "type": "string", "default": "en"})
    new = registered.avro(address, json.dumps(changed))
    records: list[tuple[bytes | None, bytes | None]] = [
        (None, new({"id": "avro-3", "text": "A new schema", "event_time": MOMENT, "lang": "de"})),
        (registered.avro(address, KEYS)({"id": "avro-1"}, KEY), None),
        (b"json-1", registered.json_schema(address)({"id": "json-1", "deleted": True})),
        (None, registered.protobuf(address, ticket)(ticket(id="proto-1", deleted=True), topic="protobuf")),
        (b"k", b"\x00\x00\x0f\x42\x40broken"),
    ]
    registry.away = True
    produce(bootstrap, topic, records)
    eventually(lambda: "registry.unavailable" in worker.errors(), within=60, what="the outage in the log")
    assert all_committed(bootstrap, topic, 6)
    registry.away = False
    return len(records)
