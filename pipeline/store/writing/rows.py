"""From a document with vectors to the rows Milvus stores: ids, columns, hashes. Pure.

An id is a digest, never the raw key: a Kafka key is anybody's text, and it would stand in delete expressions.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import orjson

from pipeline.records import MAX_DOC_ID_BYTES, Document, EmbeddedPut, Position
from pipeline.store.milvus.api import Row

_ID_BYTES = 20
_HASH_BYTES = 16
_INT64 = 2**63
# Milvus keeps some 200 bytes of every row beside text, vector and metadata: the ids, names and numbers.
_ROW_OVERHEAD_BYTES = 512


def row_id(tenant: str | None, doc_id: str, chunk: int, milvus_partition: str) -> str:
    """The primary key of one chunk's row, 40 hex digits.

    The Milvus partition is part of it, so that a document that moves gets new ids and no id ever stands in two of them.
    """
    return row_ids(tenant, doc_id, milvus_partition, (chunk,))[0]


def row_ids(tenant: str | None, doc_id: str, milvus_partition: str, chunks: Iterable[int]) -> list[str]:
    """`row_id` of several chunks of one document."""
    return _numbered(b"row" + _encoded(tenant) + _encoded(doc_id) + _encoded(milvus_partition), chunks)


def append_row_id(position: Position, chunk: int) -> str:
    """The primary key of one chunk's row in append mode: a redo of the record writes the same rows."""
    return append_row_ids(position, (chunk,))[0]


def append_row_ids(position: Position, chunks: Iterable[int]) -> list[str]:
    """`append_row_id` of several chunks of one record."""
    return _numbered(b"append" + _encoded(position.topic) + b"%d/%d/" % (position.partition, position.offset), chunks)


def ledger_id(tenant: str | None, doc_id: str) -> str:
    """The primary key of a document's ledger row."""
    return blake2b(b"ledger" + _encoded(tenant) + _encoded(doc_id), digest_size=_ID_BYTES).hexdigest()


def check_storable(key: tuple[str | None, str], version: int | None) -> None:
    """Raise ValueError where a ledger row cannot hold tenant, doc_id or version.

    Found only by Milvus, after the rows were written, it would stop the worker. What reads records rejects these
    earlier and in better words.
    """
    tenant, doc_id = key
    if len(doc_id.encode()) > MAX_DOC_ID_BYTES or len((tenant or "").encode()) > MAX_DOC_ID_BYTES:
        raise ValueError(f"tenant or doc_id has more than {MAX_DOC_ID_BYTES} bytes")
    if version is not None and not -_INT64 <= version < _INT64:
        raise ValueError("the version is beyond a 64-bit integer")


def content_hash(text: str) -> str:
    """Equal for equal texts. Raises ValueError for text that is no UTF-8 (a lone surrogate)."""
    return blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()


def row_hash(document: Document) -> str:
    """Equal for documents whose rows differ in nothing but text, vector and Kafka position.

    Raises ValueError where the metadata cannot be stored as JSON: an integer beyond 64 bits, a lone surrogate.
    """
    try:
        told = orjson.dumps(
            [document.event_time, document.tenant, document.metadata],
            option=orjson.OPT_SORT_KEYS,
        )
    except TypeError as error:
        raise ValueError(f"metadata cannot be stored as JSON: {error}") from error
    return blake2b(told, digest_size=_HASH_BYTES).hexdigest()


def document_rows(item: EmbeddedPut, milvus_partition: str) -> list[Row]:
    """One row a chunk, for a document that replaces its earlier versions."""
    document = item.put.document
    return _rows(item, row_ids(document.tenant, document.doc_id, milvus_partition, range(len(item.chunks))))


def append_rows(item: EmbeddedPut) -> list[Row]:
    """One row a chunk, for a record that is a document of its own."""
    return _rows(item, append_row_ids(item.put.position, range(len(item.chunks))))


def row_sizes(item: EmbeddedPut) -> list[int]:
    """Bytes that each row of the document takes in a request, rather more than less."""
    fixed = _ROW_OVERHEAD_BYTES + 4 * item.vectors.shape[1] + len(item.put.document.doc_id.encode())
    fixed += len(orjson.dumps(item.put.document.metadata))
    return [fixed + (len(chunk.text) if chunk.text.isascii() else len(chunk.text.encode())) for chunk in item.chunks]


def _rows(item: EmbeddedPut, ids: list[str]) -> list[Row]:
    put = item.put
    shared: dict[str, Any] = dict(put.document.metadata)
    if put.document.tenant is not None:
        shared["tenant"] = put.document.tenant
    shared["doc_id"] = put.document.doc_id
    shared["event_time"] = put.document.event_time
    shared["kafka_topic"], shared["kafka_partition"], shared["kafka_offset"] = put.position
    return [
        {**shared, "id": identifier, "chunk": number, "text": chunk.text, "vector": vector}
        for number, (identifier, chunk, vector) in enumerate(zip(ids, item.chunks, item.vectors, strict=True))
    ]


def _numbered(prefix: bytes, numbers: Iterable[int]) -> list[str]:
    return [blake2b(b"%b%d" % (prefix, number), digest_size=_ID_BYTES).hexdigest() for number in numbers]


def _encoded(part: str | None) -> bytes:
    """Length first, so that no two sequences of parts give the same bytes; None is not the empty string."""
    if part is None:
        return b"-"
    data = part.encode()
    return b"%d:%b" % (len(data), data)
