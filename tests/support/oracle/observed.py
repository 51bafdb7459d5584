"""What Kafka and Milvus hold, seen from outside with clients of our own."""

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from pymilvus import MilvusClient, MilvusException

from tests.support.oracle.contract import name_of

Row = dict[str, Any]
Log = tuple[str, int]
"""Topic and Kafka partition."""
Place = tuple[str, int, int]
"""Topic, Kafka partition and offset of a record."""

CONNECT = "__connect.errors."
_COORDINATOR_LOADS = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}
_ANSWER_ROWS = 4_000
_READS = 30
_HEX = "0123456789abcdef"


# --- Kafka --------------------------------------------------------------------------------------------------------


def read_all(bootstrap: str, topic: str) -> list[Message]:
    """Every record of a topic, each Kafka partition in its order; none if there is no such topic."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"oracle-{random.random()}", "enable.auto.commit": False}
    )
    try:
        ends = {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20)
            for number in consumer.list_topics(topic, timeout=20).topics[topic].partitions
        }
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in ends.items()])
        wanted = sum(high - low for low, high in ends.values())
        records: list[Message] = []
        while len(records) < wanted:
            batch = consumer.consume(min(1000, wanted - len(records)), timeout=20)  # it waits until it has so many
            assert batch, f"only {len(records)} of {wanted} records of {topic} could be read"
            assert not [message.error() for message in batch if message.error()]
            records += batch
        return records
    finally:
        consumer.close()


def committed_and_end(bootstrap: str, group: str, topic: str) -> dict[int, tuple[int, int]]:
    """Committed offset (-1001: none) and end offset by Kafka partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        numbers = list(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
        found = _committed(consumer, [TopicPartition(topic, number) for number in numbers])
        return {
            each.partition: (
                each.offset,
                consumer.get_watermark_offsets(TopicPartition(topic, each.partition), timeout=20)[1],
            )
            for each in found
        }
    finally:
        consumer.close()


def _committed(consumer: Consumer, partitions: list[TopicPartition], within: float = 20.0) -> list[TopicPartition]:
    """What the group has committed; a broker that has just started first loads what it coordinates."""
    deadline = time.monotonic() + within
    while True:
        try:
            return consumer.committed(partitions, timeout=within)
        except KafkaException as error:
            if error.args[0].code() not in _COORDINATOR_LOADS or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def headers_of(message: Message) -> dict[str, bytes]:
    """A record's headers; none has a name twice, or no value."""
    headers: Any = message.headers() or []
    return dict(headers)


def dead_letter_origins(letters: Sequence[Message]) -> dict[Place, Message]:
    """Dead letters by where the record is; a redo may have sent one twice."""
    found = {}
    for letter in letters:
        headers = headers_of(letter)
        topic = headers[f"{CONNECT}topic"].decode()
        found[topic, int(headers[f"{CONNECT}partition"]), int(headers[f"{CONNECT}offset"])] = letter
    return found


@dataclass(frozen=True, slots=True)
class Observation:
    """Committed offsets at one moment; Kafka partitions without one are left out."""

    at: float
    """time.monotonic()"""
    offsets: dict[Log, int]


class OffsetWatch:
    """Reads the committed offsets of a group from outside, five times a second, for the length of a block."""

    def __init__(self, bootstrap: str, topics: Sequence[str], group: str, *, every_s: float = 0.2) -> None:
        self._settings: dict[str, Any] = {"bootstrap.servers": bootstrap, "group.id": group, "log_level": 2}
        self._topics = topics
        self._every_s = every_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.observations: list[Observation] = []

    def __enter__(self) -> "OffsetWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)

    def check(self) -> list[str]:
        """Every time that a committed offset went back, or was gone."""
        problems, last = [], dict[Log, int]()
        for seen in self.observations:
            problems += [
                f"{log[0]}/{log[1]}: {offset} was committed, then {seen.offsets.get(log)}"
                for log, offset in last.items()
                if seen.offsets.get(log, -1) < offset
            ]
            last = seen.offsets
        return problems

    def _watch(self) -> None:
        consumer = Consumer({**self._settings, "enable.auto.commit": False})
        try:
            while not self._ending.wait(self._every_s):
                with suppress(KafkaException):  # the broker is away: look again
                    self._observe(consumer)
        finally:
            consumer.close()

    def _observe(self, consumer: Consumer) -> None:
        topics = consumer.list_topics(timeout=2).topics
        logs = [TopicPartition(topic, number) for topic in self._topics for number in topics[topic].partitions]
        found = consumer.committed(logs, timeout=2)
        offsets = {(each.topic, each.partition): each.offset for each in found if not each.error and each.offset >= 0}
        if len(found) == len(logs) and not any(each.error for each in found):
            self.observations.append(Observation(time.monotonic(), offsets))


# --- Milvus --------------------------------------------------------------------------------------------------------


@dataclass
class Stored:
    """The rows of a collection as the server shows them."""

    documents: dict[str, list[tuple[str, Row]]] = field(default_factory=lambda: defaultdict(list))
    """By the document's name: Milvus partition and row."""
    counted: int = 0
    """Rows by the server's own count, which shows copies that a query hides."""

    @property
    def rows(self) -> int:
        """Rows read."""
        return sum(len(rows) for rows in self.documents.values())


def stored_documents(client: MilvusClient, collection: str, *, append: bool = False) -> Stored:
    """Every row, read Milvus partition by Milvus partition; nothing if there is no such collection."""
    stored = Stored()
    if client.has_collection(collection):
        for partition in client.list_partitions(collection):
            for row in _partition(client, collection, partition):
                place = f"{row['kafka_topic']}/{row['kafka_partition']}/{row['kafka_offset']}"
                name = place if append else name_of(row.get("tenant"), row["doc_id"])
                stored.documents[name].append((partition, row))
        answer = client.query(collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=60)
        stored.counted = answer[0]["count(*)"]
    return stored


def _partition(client: MilvusClient, collection: str, partition: str) -> list[Row]:
    """The rows of a Milvus partition. A server that was set back does not find one for some seconds that it lists.

    One that was set back into the middle of its creation is listed, and never found: nothing is in it.
    """
    for _ in range(_READS):
        try:
            return list(_rows(client, collection, ["*"], partition))
        except MilvusException as error:
            if "not found" not in str(error):
                raise
            time.sleep(1.0)
    return []


def stored_ledger(client: MilvusClient, collection: str) -> dict[str, Row]:
    """The ledger's rows by the document's name."""
    name = f"{collection}__ledger"
    if not client.has_collection(name):
        return {}
    wanted = ["id", "doc_id", "tenant", "topic", "kafka_partition", "kafka_offset", "state", "footprint", "pending"]
    found: dict[str, Row] = {}
    for row in _rows(client, name, wanted, None):
        name = name_of(row["tenant"] or None, row["doc_id"])
        assert name not in found, f"two ledger rows of {name}"
        # Negative numbers are no places of rows, but where rows were deleted, and which record wrote the rows.
        places = {place: chunks for place, chunks in json.loads(row["footprint"]).items() if chunks >= 0}
        found[name] = {**row, "footprint": places}
    return found


def place_of(row: Row) -> Place:
    """Where the record of a row is."""
    return row["topic"], row["kafka_partition"], row["kafka_offset"]


def _rows(
    client: MilvusClient, collection: str, output: list[str], partition: str | None, prefix: str = ""
) -> Iterator[Row]:
    """The rows whose id begins with `prefix`; an answer that is full is asked for again in sixteen parts."""
    rows = client.query(
        collection,
        filter=f'id >= "{prefix}" and id < "{prefix}g"',
        output_fields=output,
        partition_names=None if partition is None else [partition],
        limit=_ANSWER_ROWS,
        consistency_level="Strong",
        timeout=60,
    )
    if len(rows) < _ANSWER_ROWS:
        yield from rows
    else:
        for digit in _HEX:
            yield from _rows(client, collection, output, partition, prefix + digit)
