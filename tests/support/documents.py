"""Documents, records and chunks for tests of the store, small and deterministic."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from pipeline.records import Chunk, Delete, Document, EmbeddedPut, JsonValue, Position, Put, SourceRecord

DAY_MS = 86_400_000
NOON_MS = 1_795_348_800_000
"""2026-11-22T12:00:00Z"""
DIMENSION = 8


def source_record(
    value: bytes | None,
    key: bytes | None = b"key",
    *,
    at: tuple[str, int, int] = ("documents", 0, 0),
    timestamp_ms: int = NOON_MS,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> SourceRecord:
    """A record as Kafka gives it; `at` is topic, Kafka partition and offset."""
    return SourceRecord(Position(*at), timestamp_ms, key, value, tuple(headers))


def put(
    doc_id: str,
    text: str,
    offset: int,
    *,
    day: int = 0,
    version: int | None = None,
    metadata: Mapping[str, JsonValue] | None = None,
    tenant: str | None = None,
    topic: str = "documents",
    partition: int = 0,
    topic_id: str = "",
) -> Put:
    """A put record; `day` counts from 2026-11-22."""
    document = Document(doc_id, text, NOON_MS + day * DAY_MS, metadata or {}, tenant)
    return Put(Position(topic, partition, offset), NOON_MS + offset, document, version, topic_id)


def delete(
    doc_id: str, offset: int, *, version: int | None = None, tenant: str | None = None, partition: int = 0
) -> Delete:
    """A delete record."""
    return Delete(Position("documents", partition, offset), NOON_MS + offset, doc_id, tenant, version)


def embedded(record: Put, dimension: int = DIMENSION) -> EmbeddedPut:
    """The document with one chunk a word; each vector is a function of the word."""
    words = record.document.text.split()
    chunks = []
    start = 0
    for index, word in enumerate(words):
        start = record.document.text.index(word, start)
        chunks.append(Chunk(index, start, start + len(word), word, np.arange(1, 3, dtype=np.int32)))
        start += len(word)
    vectors = np.array([_vector(word, dimension) for word in words], dtype=np.float32).reshape(-1, dimension)
    return EmbeddedPut(record, chunks, vectors)


def embed_all(records: Sequence[Put], dimension: int = DIMENSION) -> list[EmbeddedPut]:
    """`embedded` of each."""
    return [embedded(record, dimension) for record in records]


def _vector(word: str, dimension: int) -> list[float]:
    seed = int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(dimension).tolist()  # type: ignore[no-any-return]


def cut(record: Put, size: int, overlap: int, dimension: int = DIMENSION) -> EmbeddedPut:
    """The document with chunks of `size` characters, each with `overlap` of the one before it."""
    text = record.document.text
    starts = range(0, max(len(text) - overlap, 1), size - overlap)
    ids = np.arange(1, 3, dtype=np.int32)
    chunks = [
        Chunk(index, start, min(start + size, len(text)), text[start : start + size], ids)
        for index, start in enumerate(starts)
    ]
    vectors = np.array([_vector(chunk.text, dimension) for chunk in chunks], dtype=np.float32)
    return EmbeddedPut(record, chunks, vectors)
