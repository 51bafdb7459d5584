"""The rows of a document: ids, columns and hashes. Pure.

An id is a digest, never the raw key: a Kafka key may be any text, and ids are used in filter expressions.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import orjson

from pipeline.records import (
    MAX_DOC_ID_BYTES,
    MAX_INT64,
    MIN_INT64,
    TENANT_FIELD,
    VECTOR_FIELD,
    Document,
    EmbeddedPut,
    Position,
)
from pipeline.store.milvus.api import Row
from pipeline.store.writing.llama_nodes import node_maker

_ID_BYTES = 20
_HASH_BYTES = 16
# A row has some 200 bytes beside text, vector and metadata: the ids, names and numbers.
_ROW_OVERHEAD_BYTES = 512


def row_id(tenant: str | None, doc_id: str, chunk: int, milvus_partition: str) -> str:
    """The primary key of one chunk's row, 40 hex digits.

    The Milvus partition is part of it: a document that moves gets new ids, and no id is ever in two of them.
    """
    return row_ids(tenant, doc_id, milvus_partition, (chunk,))[0]


def row_ids(tenant: str | None, doc_id: str, milvus_partition: str, chunks: Iterable[int]) -> list[str]:
    """`row_id` of several chunks of one document."""
    return _numbered(b"row" + _encoded(tenant) + _encoded(doc_id) + _encoded(milvus_partition), chunks)


def append_row_id(position: Position, topic_id: str | None, chunk: int) -> str:
    """The primary key of one chunk's row in append mode, 40 hex digits; the same whenever the record is written.

    `topic_id`: Kafka's id of the topic, so that the records of a recreated topic have other ids. "" where the broker
    has none (before 2.8): then they have the same, and replace what is stored. None in a collection of a former
    version, whose ids have no such part.
    """
    return append_row_ids(position, topic_id, (chunk,))[0]


def append_row_ids(position: Position, topic_id: str | None, chunks: Iterable[int]) -> list[str]:
    """`append_row_id` of several chunks of one record."""
    kind = b"append" if topic_id is None else b"append-of" + _encoded(topic_id)
    return _numbered(kind + _encoded(position.topic) + b"%d/%d/" % (position.partition, position.offset), chunks)


def ledger_id(tenant: str | None, doc_id: str) -> str:
    """The primary key of a document's ledger row."""
    return blake2b(b"ledger" + _encoded(tenant) + _encoded(doc_id), digest_size=_ID_BYTES).hexdigest()


def check_storable(key: tuple[str | None, str], version: int | None) -> None:
    """Raise ValueError where a ledger row cannot hold tenant, doc_id or version.

    If only Milvus refused it, after the rows were written, the worker would stop. The decoder rejects such records
    before, with better messages.
    """
    tenant, doc_id = key
    if len(doc_id.encode()) > MAX_DOC_ID_BYTES or len((tenant or "").encode()) > MAX_DOC_ID_BYTES:
        raise ValueError(f"tenant or doc_id has more than {MAX_DOC_ID_BYTES} bytes")
    if version is not None and not MIN_INT64 <= version <= MAX_INT64:
        raise ValueError("the version is beyond a 64-bit integer")


def content_hash(text: str) -> str:
    """A digest of the text. Raises ValueError for text that is not UTF-8 (a lone surrogate)."""
    return blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()


def row_hash(document: Document) -> str:
    """A digest of a document's rows apart from text, vector and Kafka position.

    Raises ValueError where the metadata cannot be stored as JSON: an integer beyond 64 bits, a lone surrogate.
    """
    try:
        content = orjson.dumps(
            [document.event_time, document.tenant, document.metadata],
            option=orjson.OPT_SORT_KEYS,
        )
    except TypeError as error:
        raise ValueError(f"metadata cannot be stored as JSON: {error}") from error
    return blake2b(content, digest_size=_HASH_BYTES).hexdigest()


def document_rows(embedded: EmbeddedPut, milvus_partition: str, *, nodes: bool = False) -> list[Row]:
    """The rows, one a chunk, of a document that replaces its earlier versions; `nodes`: with LlamaIndex's fields."""
    document = embedded.put.document
    ids = row_ids(document.tenant, document.doc_id, milvus_partition, range(len(embedded.chunks)))
    return _rows(embedded, ids, nodes=nodes)


def append_rows(embedded: EmbeddedPut, topic_id: str | None, *, nodes: bool = False) -> list[Row]:
    """The rows, one a chunk, of a record that is a separate document; `topic_id` as in `append_row_id`."""
    ids = append_row_ids(embedded.put.position, topic_id, range(len(embedded.chunks)))
    return _rows(embedded, ids, nodes=nodes)


def row_sizes(embedded: EmbeddedPut, *, nodes: bool = False) -> list[int]:
    """Bytes of each row of the document in a request; an upper estimate."""
    fixed = _ROW_OVERHEAD_BYTES + 4 * embedded.vectors.shape[1] + len(embedded.put.document.doc_id.encode())
    fixed += len(orjson.dumps(embedded.put.document.metadata))
    if nodes and (make := node_maker(embedded.put.document)):
        fixed += len(orjson.dumps(make("")))
    return [
        fixed + (len(chunk.text) if chunk.text.isascii() else len(chunk.text.encode())) for chunk in embedded.chunks
    ]


def _rows(embedded: EmbeddedPut, ids: list[str], *, nodes: bool) -> list[Row]:
    put = embedded.put
    shared: dict[str, Any] = dict(put.document.metadata)
    if put.document.tenant is not None:
        shared[TENANT_FIELD] = put.document.tenant
    shared["doc_id"] = put.document.doc_id
    shared["event_time"] = put.document.event_time
    shared["kafka_topic"], shared["kafka_partition"], shared["kafka_offset"] = put.position
    make = node_maker(put.document) if nodes else None
    return [
        {
            **shared,
            **(make(identifier) if make else {}),
            "id": identifier,
            "chunk": number,
            "text": chunk.text,
            VECTOR_FIELD: vector,
        }
        for number, (identifier, chunk, vector) in enumerate(zip(ids, embedded.chunks, embedded.vectors, strict=True))
    ]


def _numbered(prefix: bytes, numbers: Iterable[int]) -> list[str]:
    return [blake2b(b"%b%d" % (prefix, number), digest_size=_ID_BYTES).hexdigest() for number in numbers]


def _encoded(part: str | None) -> bytes:
    """The part behind its length: different sequences of parts differ in bytes, and None is not the empty string."""
    if part is None:
        return b"-"
    data = part.encode()
    return b"%d:%b" % (len(data), data)
