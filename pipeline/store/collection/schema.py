"""What the collections look like, and whether one that exists fits."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UsageError
from pipeline.records import MAX_DOC_ID_BYTES, MAX_TEXT_BYTES
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.milvus.api import CollectionInfo, CollectionSpec, FieldInfo, IndexInfo

VECTOR_FIELD = "vector"
SPARSE_FIELD = "sparse"
LEDGER_SUFFIX = "__ledger"
LEDGER_DIMENSION = 2
"""Milvus wants a vector in every collection; the ledger's is constant and never searched."""
STAMP_FORMAT = 1

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_NAME = 255 - len(LEDGER_SUFFIX)
_ID = FieldInfo("id", "VARCHAR", primary=True, max_length=64)


def check_collection_name(name: str) -> str:
    """The name, or UsageError: Lite makes a folder of whatever it is given."""
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise UsageError(
            f"milvus.collection is {name!r}: write letters, digits and underscores, at most {_MAX_NAME}, "
            "not beginning with a digit"
        )
    return name


def ledger_name(collection: str) -> str:
    """The collection that holds one row per document of `collection`."""
    return collection + LEDGER_SUFFIX


def documents_spec(
    name: str, *, dimension: int, index: IndexSettings, stamp: Mapping[str, Any], bm25: bool
) -> CollectionSpec:
    """The collection of documents: a row per chunk, other metadata in the dynamic field.

    `bm25` adds the field `sparse`, filled by the server from `text`. Never on a server before 2.5: Milvus 2.3 aborts
    when a collection with such a field is created.
    """
    fields = [
        _ID,
        FieldInfo("doc_id", "VARCHAR", max_length=MAX_DOC_ID_BYTES),
        FieldInfo("chunk", "INT64"),
        FieldInfo("text", "VARCHAR", max_length=MAX_TEXT_BYTES),
        FieldInfo(VECTOR_FIELD, "FLOAT_VECTOR", dimension=dimension),
        FieldInfo("event_time", "INT64"),
        FieldInfo("kafka_topic", "VARCHAR", max_length=249),
        FieldInfo("kafka_partition", "INT64"),
        FieldInfo("kafka_offset", "INT64"),
    ]
    indexes = {VECTOR_FIELD: index.info()}
    if bm25:
        fields.append(FieldInfo(SPARSE_FIELD, "SPARSE_FLOAT_VECTOR"))
        indexes[SPARSE_FIELD] = IndexInfo("SPARSE_INVERTED_INDEX", "BM25", {})
    return CollectionSpec(
        check_collection_name(name), write_stamp(stamp), tuple(fields), dynamic=True, indexes=indexes, bm25=bm25
    )


def ledger_spec(name: str) -> CollectionSpec:
    """The ledger of the collection `name`: what is stored of each document, and where rows of it may be."""
    fields = (
        _ID,
        FieldInfo("doc_id", "VARCHAR", max_length=MAX_DOC_ID_BYTES),
        FieldInfo("tenant", "VARCHAR", max_length=1024),
        FieldInfo("topic", "VARCHAR", max_length=249),
        FieldInfo("kafka_partition", "INT64"),
        FieldInfo("kafka_offset", "INT64"),
        FieldInfo("record_time", "INT64"),
        FieldInfo("version", "INT64"),
        FieldInfo("versioned", "BOOL"),
        FieldInfo("state", "VARCHAR", max_length=8),
        FieldInfo("footprint", "VARCHAR", max_length=65_535),
        FieldInfo("content_hash", "VARCHAR", max_length=128),
        FieldInfo("row_hash", "VARCHAR", max_length=128),
        FieldInfo("fingerprint", "VARCHAR", max_length=255),
        FieldInfo("topic_id", "VARCHAR", max_length=64),
        FieldInfo("pending", "BOOL"),
        FieldInfo(VECTOR_FIELD, "FLOAT_VECTOR", dimension=LEDGER_DIMENSION),
    )
    description = json.dumps({"milvus_stream": STAMP_FORMAT, "ledger_of": check_collection_name(name)})
    indexes = {VECTOR_FIELD: IndexInfo("FLAT", "L2", {})}
    return CollectionSpec(ledger_name(name), description, fields, dynamic=False, indexes=indexes)


def write_stamp(stamp: Mapping[str, Any]) -> str:
    """A collection's description that says which model its vectors are of."""
    return json.dumps({"milvus_stream": STAMP_FORMAT, "model": dict(stamp)}, sort_keys=True)


def read_stamp(info: CollectionInfo) -> dict[str, Any] | None:
    """The model a collection's vectors are of, as `write_stamp` wrote it; None if it does not say."""
    try:
        told = json.loads(info.description)
    except json.JSONDecodeError:
        return None
    model = told.get("model") if isinstance(told, dict) and "milvus_stream" in told else None
    return model if isinstance(model, dict) else None


def read_ledger_of(info: CollectionInfo) -> str | None:
    """The collection whose ledger this is, as `ledger_spec` wrote it; None for anything but a ledger of ours."""
    try:
        told = json.loads(info.description)
    except json.JSONDecodeError:
        return None
    name = told.get("ledger_of") if isinstance(told, dict) and "milvus_stream" in told else None
    return name if isinstance(name, str) else None


def schema_problems(wanted: CollectionSpec, found: CollectionInfo) -> list[str]:
    """What keeps `found` from holding the rows of `wanted`, a clause each; empty: it fits.

    A missing `sparse` is none: the collection was made on a server without BM25 and works, without keyword search.
    """
    problems = []
    there = {field.name: field for field in found.fields}
    for field in wanted.fields:
        if field.name == SPARSE_FIELD and field.name not in there:
            continue
        problems += _field_problems(field, there.get(field.name))
    ours = {field.name for field in wanted.fields} | {SPARSE_FIELD}
    problems += [f"field {name!r} is there, which nothing fills" for name in there if name not in ours]
    if wanted.dynamic and not found.dynamic:
        problems.append("the dynamic field is off, so metadata has no place")
    return problems


def _field_problems(wanted: FieldInfo, found: FieldInfo | None) -> list[str]:
    if found is None:
        return [f"field {wanted.name!r} ({wanted.type}) is missing"]
    name = wanted.name
    if found.type != wanted.type:
        return [f"field {name!r} is {found.type}, not {wanted.type}"]
    problems = []
    if found.primary != wanted.primary:
        problems.append(f"field {name!r} is {'' if found.primary else 'not '}the primary key")
    if found.dimension != wanted.dimension:
        problems.append(f"field {name!r} has dimension {found.dimension}, not {wanted.dimension}")
    if wanted.max_length is not None and found.max_length is not None and found.max_length < wanted.max_length:
        problems.append(f"field {name!r} holds {found.max_length} bytes, not {wanted.max_length}")
    return problems
