"""A mixed load, and an oracle that says what must be stored after it. Shares no code with the product."""

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from pymilvus import MilvusClient

POISON: tuple[bytes, ...] = (
    b'{"id": "broken", "text": ',
    b"\xff\xfe not utf-8 {",
    b'{"id": "no-text"}',
    b'{"id": "", "text": "empty id"}',
    b'{"id": "nan", "text": "x", "n": NaN}',
    b'{"id": "half", "text": "\\ud83d"}',
    b'{"id": "future", "text": "x", "event_time": "2099-01-01T00:00:00Z"}',
    b'{"id": "blank", "text": "  \\n "}',
    b'{"id": ["list"], "text": "x"}',
    b'{"id": "deep", "text": "x", "a": ' + b"[" * 60 + b"]" * 60 + b"}",
)
_WORDS = ("harbour", "lantern", "copper", "violet", "ridge", "meadow", "signal", "anchor", "ember", "quartz")


@dataclass(frozen=True)
class Sent:
    """One record as it was produced."""

    key: bytes | None
    value: bytes | None
    poison: bool = False


@dataclass
class Expected:
    """What must be there once everything has been processed."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    poison: list[tuple[bytes | None, bytes | None]] = field(default_factory=list)


def mixed_records(count: int, seed: int) -> list[Sent]:
    """New documents, updates (some move to another day, some shrink or grow), deletes, and 5 % poison."""
    rng = random.Random(seed)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=5)
    ids: list[str] = []
    records = []
    for number in range(count):
        kind = rng.random()
        if kind < 0.05:
            records.append(Sent(f"poison-{number}".encode(), rng.choice(POISON), poison=True))
        elif kind < 0.12 and ids:
            records.append(Sent(rng.choice(ids).encode(), None))
        else:
            update = kind < 0.35 and ids
            doc_id = rng.choice(ids) if update else f"doc-{number} 'é\""
            ids.append(doc_id)
            words = rng.choice((3, 8, 20, 90, 200))
            text = f"{doc_id} revision {number}. " + " ".join(rng.choice(_WORDS) for _ in range(words)) + "."
            moment = start + timedelta(seconds=rng.randrange(4 * 86_400))
            body = {
                "id": doc_id,
                "text": text,
                "event_time": moment.isoformat(),
                "number": number,
                "even": number % 2 == 0,
            }
            records.append(Sent(doc_id.encode(), json.dumps(body).encode()))
    return records


def produce(bootstrap: str, topic: str, records: Sequence[Sent]) -> None:
    """Send everything and wait until all of it is confirmed."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    failures: list[Any] = []
    for record in records:
        producer.produce(
            topic,
            key=record.key,
            value=record.value,
            headers=[("trace", b"\x00\x01")],
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failures


def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Every record of a topic, each Kafka partition in its order."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"oracle-{random.random()}", "enable.auto.commit": False}
    )
    try:
        partitions = list(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
        ends = {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20) for number in partitions
        }
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in ends.items()])
        wanted = sum(high - low for low, high in ends.values())
        records: list[Any] = []
        while len(records) < wanted:
            batch = consumer.consume(min(1000, wanted - len(records)), timeout=20)  # it waits until it has so many
            assert batch, f"only {len(records)} of {wanted} records of {topic} could be read"
            assert not [message.error() for message in batch if message.error()]
            records += batch
        return records
    finally:
        consumer.close()


def committed_and_end(bootstrap: str, group: str, topic: str) -> dict[int, tuple[int, int]]:
    """Committed offset (-1001: none) and end offset by Kafka partition, seen from outside."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        numbers = list(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
        found = consumer.committed([TopicPartition(topic, number) for number in numbers], timeout=20)
        return {
            each.partition: (
                each.offset,
                consumer.get_watermark_offsets(TopicPartition(topic, each.partition), timeout=20)[1],
            )
            for each in found
        }
    finally:
        consumer.close()


def expected(records: Sequence[Any], sent: Sequence[Sent]) -> Expected:
    """Recompute from the raw topic: last write per key wins, poison is named by how it was produced."""
    bad = {(record.key, record.value) for record in sent if record.poison}
    result = Expected()
    for message in records:
        key, value = message.key(), message.value()
        if (key, value) in bad:
            result.poison.append((key, value))
        elif value is None:
            result.documents.pop(key.decode(), None)
        else:
            body = json.loads(value)
            result.documents[body["id"]] = body
    return result


def stored_documents(client: MilvusClient, collection: str) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Rows by doc_id, read Milvus partition by Milvus partition, and what is wrong with where they are."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    problems = []
    for partition in client.list_partitions(collection):
        for row in _rows(client, collection, partition):
            rows[row["doc_id"]].append(row)
            day = datetime.fromtimestamp(row["event_time"] / 1000, UTC).strftime("d%Y%m%d")
            if day != partition:
                problems.append(f"{row['doc_id']} of {day} is in {partition}")
    return rows, problems


def _rows(client: MilvusClient, collection: str, partition: str) -> Iterator[dict[str, Any]]:
    fields = ["id", "doc_id", "chunk", "text", "event_time", "number", "kafka_topic", "kafka_partition", "kafka_offset"]
    for modulus in range(4):  # in parts, as one answer is bounded
        yield from client.query(
            collection,
            filter=f"chunk >= 0 and kafka_partition == {modulus}",
            output_fields=fields,
            partition_names=[partition],
            consistency_level="Strong",
            timeout=60,
        )


def differences(stored: dict[str, list[dict[str, Any]]], wanted: Expected) -> list[str]:
    """Every way in which what is stored is not exactly what is wanted."""
    problems = [f"missing: {doc_id}" for doc_id in wanted.documents.keys() - stored.keys()]
    problems += [f"should not be there: {doc_id}" for doc_id in stored.keys() - wanted.documents.keys()]
    for doc_id in stored.keys() & wanted.documents.keys():
        rows, body = sorted(stored[doc_id], key=lambda row: row["chunk"]), wanted.documents[doc_id]
        if [row["chunk"] for row in rows] != list(range(len(rows))):
            problems.append(f"{doc_id}: chunks {[row['chunk'] for row in rows]}")
        if {row["number"] for row in rows} != {body["number"]}:
            problems.append(f"{doc_id}: versions {[row['number'] for row in rows]}, wanted {body['number']}")
        elif uncovered := _uncovered(body["text"], [row["text"] for row in rows]):
            problems.append(f"{doc_id}: the chunks do not cover {uncovered!r}")
    return problems


def _uncovered(text: str, chunks: Sequence[str]) -> str:
    """The first stretch of the text that no chunk holds; chunks may overlap and touch."""
    at = 0
    for chunk in chunks:
        start = text.find(chunk)
        if start < 0 or start > at:
            return text[at : at + 40]
        at = max(at, start + len(chunk))
    return text[at:]
