"""Events of Debezium and CloudEvents in one topic end as documents of a real Milvus."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cloudevents.http import CloudEvent
from cloudevents.kafka import to_binary, to_structured
from confluent_kafka import Producer
from pymilvus import MilvusClient

from tests.support.oracle.observed import headers_of, read_all
from tests.support.rigs.site import write_config

pytestmark = pytest.mark.servers

SOURCE = {"connector": "postgresql", "db": "shop", "table": "tickets"}


def change(op: str, before: object, after: object) -> bytes:
    return json.dumps({"op": op, "before": before, "after": after, "source": SOURCE, "ts_ms": 1}).encode()


def row_key(number: int) -> bytes:
    schema = {"type": "struct", "fields": [{"type": "int64", "field": "id"}], "name": "shop.tickets.Key"}
    return json.dumps({"schema": schema, "payload": {"id": number}}).encode()


def row(number: int, text: str) -> dict[str, Any]:
    return {"id": number, "text": text}


def cloud_event(doc_id: str, text: str) -> CloudEvent:
    attributes = {"type": "ticket.changed", "source": "/desk", "datacontenttype": "application/json"}
    return CloudEvent(attributes, {"id": doc_id, "text": text})


def test_rows_and_events_are_stored_changed_and_deleted(
    kafka_bootstrap: str, milvus_lite_uri: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = make_topic(1, prefix="changes")
    producer = Producer({"bootstrap.servers": kafka_bootstrap})

    def send(key: bytes, value: bytes | str | None, headers: Any = None) -> None:
        producer.produce(topic, value, key, partition=0, headers=headers)

    send(row_key(1), change("r", None, row(1, "read by the snapshot")))
    send(row_key(1), change("u", None, row(1, "updated")))
    for number in (2, 3, 4):
        send(row_key(number), change("c", None, row(number, "to be deleted")))
    send(row_key(2), change("d", row(2, "to be deleted"), None))
    send(row_key(2), None)
    send(row_key(3), change("d", None, None))
    send(row_key(4), None)
    send(b"1", change("t", None, None))
    binary, enclosed = to_binary(cloud_event("b", "binary")), to_structured(cloud_event("s", "structured"))
    send(b"b", binary.value, dict(binary.headers))
    send(b"s", enclosed.value, dict(enclosed.headers))
    send(b"gone", binary.value, dict(binary.headers))
    assert producer.flush(30) == 0

    config = write_config(tmp_path / "config.json", topic, kafka_bootstrap, milvus_lite_uri, {})
    command = [sys.executable, "-m", "consumers.cli", "ingest", "-c", str(config), "--until-caught-up"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stderr.count("format.recognized") == 2, "once for each kind"
    with closing(MilvusClient(milvus_lite_uri)) as client:
        fields = ["doc_id", "text", "ce_type"]
        rows = client.query(topic.replace("-", "_"), filter="chunk >= 0", output_fields=fields, limit=100)
    found = {each["doc_id"]: (each["text"], each.get("ce_type")) for each in rows}
    assert found == {
        "1": ("updated", None),
        "b": ("binary", "ticket.changed"),
        "s": ("structured", "ticket.changed"),
    }
    (dead,) = read_all(kafka_bootstrap, f"{topic}.dlq")
    assert b"the table was emptied" in headers_of(dead)["__connect.errors.exception.message"]
