"""What must be stored, recomputed from the raw topic, and whether rows are exactly that."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from confluent_kafka import Message
from numpy.typing import ArrayLike

from tests.support.oracle.observed import Row, headers_of
from tests.support.rigs.load import POISON_HEADER

VectorOf = Callable[[str], ArrayLike]

_OWN = {"id", "doc_id", "chunk", "text", "vector", "sparse", "event_time"}
_OWN |= {"kafka_topic", "kafka_partition", "kafka_offset"}
_RESERVED = _OWN | {"tenant", "$meta"}
_PARTITION_NAMES = {"h": "h%Y%m%d%H", "d": "d%Y%m%d", "w": "w%GW%V", "m": "m%Y%m"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One document as a record describes it, with what its rows must say."""

    doc_id: str
    text: str
    event_time: int
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """What one accepted record made of its document; None: deleted."""

    partition: int
    offset: int
    document: Wanted | None


@dataclass
class Expected:
    """What must be there once everything has been processed."""

    documents: dict[str, Wanted] = field(default_factory=dict)
    versions: dict[str, list[Version]] = field(default_factory=lambda: defaultdict(list))
    """Every accepted record by doc_id, oldest first."""
    poison: dict[tuple[int, int], Message] = field(default_factory=dict)
    """By Kafka partition and offset."""


def expected(records: Sequence[Message]) -> Expected:
    """Recompute from the raw topic: the last write of a document wins. All records of one must be in one Kafka
    partition."""
    result = Expected()
    for message in records:
        position = (message.partition() or 0, message.offset() or 0)
        if POISON_HEADER in headers_of(message):
            result.poison[position] = message
            continue
        doc_id, document = _read(message)
        versions = result.versions[doc_id]
        assert all(each.partition == position[0] for each in versions[-1:]), f"{doc_id} is in two Kafka partitions"
        versions.append(Version(*position, document))
        if document is None:
            result.documents.pop(doc_id, None)
        else:
            result.documents[doc_id] = document
    return result


def _read(message: Message) -> tuple[str, Wanted | None]:
    key, value = message.key() or b"", message.value()
    if value is None:
        return key.decode(), None
    body = json.loads(value)
    doc_id = str(body.pop("id"))
    text, time = body.pop("text"), body.pop("event_time", None)
    event_time = message.timestamp()[1] if time is None else int(datetime.fromisoformat(time).timestamp() * 1000)
    metadata = {f"meta_{name}" if name in _RESERVED else name: value for name, value in body.items()}
    return doc_id, Wanted(doc_id, text, event_time, metadata)


def mismatch(document: Wanted, rows: Sequence[Row], vector_of: VectorOf | None = None) -> str:
    """In what the rows are not exactly this version of the document; empty if in nothing."""
    rows = sorted(rows, key=lambda row: row["chunk"])
    if [row["chunk"] for row in rows] != list(range(len(rows))) or not rows:
        return f"chunks {[row['chunk'] for row in rows]}"
    for row in rows:
        metadata = {name: value for name, value in row.items() if name not in _OWN}
        if metadata != document.metadata:
            names = sorted(metadata.keys() | document.metadata.keys())
            there = {name: metadata.get(name) for name in names if metadata.get(name) != document.metadata.get(name)}
            return f"chunk {row['chunk']} (of {row['kafka_offset']}) has {there}"
        if row["event_time"] != document.event_time:
            return f"event time of chunk {row['chunk']}: {row['event_time']}, not {document.event_time}"
    if left := uncovered(document.text, [row["text"] for row in rows]):
        return f"the chunks do not cover {left!r}"
    for row in rows:
        if vector_of is not None and not np.allclose(row["vector"], vector_of(row["text"]), atol=1e-3):
            return f"the vector of chunk {row['chunk']} is not that of its text"
    return ""


def uncovered(text: str, chunks: Sequence[str]) -> str:
    """The beginning of what no chunk holds, empty if all is held; chunks may overlap and touch."""
    at = 0
    for chunk in chunks:
        start = text.rfind(chunk, 0, at + len(chunk))
        if start < 0:
            return text[at : at + 40] or f"and hold {chunk[:40]!r} too"
        at = max(at, start + len(chunk))
    return text[at : at + 40]


def belongs(partition: str, event_time: int) -> bool:
    if partition == "_default":
        return True  # partitioning.by: none; otherwise nothing is ever stored there
    name = _PARTITION_NAMES[partition[0]]
    return datetime.fromtimestamp(event_time / 1000, UTC).strftime(name) == partition
