"""The schemas of documents, ledger and marks, and the comparison of an existing collection with its schema."""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.errors import UsageError
from pipeline.records import MAX_DOC_ID_BYTES, MAX_TEXT_BYTES, ROW_FIELDS, SPARSE_FIELD, VECTOR_FIELD
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.keywords import DEFAULT_KEYWORDS, KeywordSettings
from pipeline.store.collection.stamp import STAMP_FORMAT, CollectionStamp, read_description, stamp_fields
from pipeline.store.milvus.api import CollectionInfo, CollectionSpec, FieldInfo, IndexInfo

LEDGER_SUFFIX = "__ledger"
MARKS_SUFFIX = "__marks"
UNUSED_DIMENSION = 2
"""Milvus requires a vector in every collection; that of the ledger and of the marks is constant and never searched."""

KEYWORD_INDEX = IndexInfo("SPARSE_INVERTED_INDEX", "BM25", {})
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_NAME = 255 - max(len(LEDGER_SUFFIX), len(MARKS_SUFFIX))
_ID = FieldInfo("id", "VARCHAR", primary=True, max_length=64)
_COLUMNS = {
    field.name: field
    for field in (
        _ID,
        FieldInfo("doc_id", "VARCHAR", max_length=MAX_DOC_ID_BYTES),
        FieldInfo("chunk", "INT64"),
        FieldInfo("text", "VARCHAR", max_length=MAX_TEXT_BYTES),
        FieldInfo("event_time", "INT64"),
        FieldInfo("kafka_topic", "VARCHAR", max_length=249),
        FieldInfo("kafka_partition", "INT64"),
        FieldInfo("kafka_offset", "INT64"),
    )
}


def check_collection_name(name: str) -> str:
    """The name, if it is valid. Raises UsageError; Lite itself would create a folder of any name."""
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise UsageError(
            f"milvus.collection is {name!r}: write letters, digits and underscores, at most {_MAX_NAME}, "
            "not beginning with a digit"
        )
    return name


def ledger_name(collection: str) -> str:
    """The collection that holds one row per document of `collection`."""
    return collection + LEDGER_SUFFIX


def marks_name(collection: str) -> str:
    """The collection by which the workers that fill `collection` agree: flushes, positions, stamps."""
    return collection + MARKS_SUFFIX


def documents_spec(
    name: str,
    *,
    dimension: int,
    index: IndexSettings,
    stamp: Mapping[str, Any],
    bm25: bool,
    keywords: KeywordSettings = DEFAULT_KEYWORDS,
    more: Mapping[str, Any] = _NOTHING,
) -> CollectionSpec:
    """The collection of documents: one row a chunk, metadata in the dynamic field.

    `stamp` is the model, `more` what the description says beside it and `keywords`.
    `bm25` adds the field `sparse`, which the server fills from `text`, unless `keywords` turn it off. Only for a server
    with that capability: Milvus 2.3 crashes when such a collection is created.
    """
    fields = [_COLUMNS[column] for column in ROW_FIELDS]
    fields.insert(ROW_FIELDS.index("text") + 1, FieldInfo(VECTOR_FIELD, "FLOAT_VECTOR", dimension=dimension))
    indexes = {VECTOR_FIELD: index.info()}
    bm25 = bm25 and keywords.sparse == "auto"
    if bm25:
        fields.append(FieldInfo(SPARSE_FIELD, "SPARSE_FLOAT_VECTOR"))
        indexes[SPARSE_FIELD] = KEYWORD_INDEX
    return CollectionSpec(
        check_collection_name(name),
        write_stamp(stamp, {**more, **keywords.described()}),
        tuple(fields),
        dynamic=True,
        indexes=indexes,
        bm25=bm25,
        text_options=keywords.text_options(bm25=bm25),
    )


def ledger_spec(name: str) -> CollectionSpec:
    """The ledger of the collection `name`: one row a document, with its stored version and the places of its rows."""
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
        FieldInfo(VECTOR_FIELD, "FLOAT_VECTOR", dimension=UNUSED_DIMENSION),
    )
    return _companion_spec(name, ledger_name(name), "ledger_of", fields)


def marks_spec(name: str, stamp: CollectionStamp | None = None) -> CollectionSpec:
    """The marks of the collection `name`: some hundred rows, each a value of a name that is never changed.

    They carry its stamp, too: a collection that a former version made has none, and its description cannot be changed.
    """
    fields = (
        _ID,
        FieldInfo("kind", "VARCHAR", max_length=16),
        FieldInfo("name", "VARCHAR", max_length=512),
        FieldInfo("writer", "VARCHAR", max_length=64),
        FieldInfo("count", "INT64"),
        FieldInfo("payload", "VARCHAR", max_length=65_535),
        FieldInfo("written_ms", "INT64"),
        FieldInfo(VECTOR_FIELD, "FLOAT_VECTOR", dimension=UNUSED_DIMENSION),
    )
    return _companion_spec(name, marks_name(name), "marks_of", fields, {} if stamp is None else stamp_fields(stamp))


def _companion_spec(
    collection: str, name: str, role: str, fields: tuple[FieldInfo, ...], more: Mapping[str, Any] = _NOTHING
) -> CollectionSpec:
    """A collection that belongs to another one, which its description names under `role`."""
    description = json.dumps({"milvus_stream": STAMP_FORMAT, role: check_collection_name(collection), **more})
    return CollectionSpec(name, description, fields, dynamic=False, indexes={VECTOR_FIELD: IndexInfo("FLAT", "L2", {})})


def write_stamp(model: Mapping[str, Any], more: Mapping[str, Any] = _NOTHING) -> str:
    """A collection's description that names the model of its vectors, and `more`."""
    return json.dumps({"milvus_stream": STAMP_FORMAT, "model": dict(model), **more}, sort_keys=True)


def read_ledger_of(info: CollectionInfo) -> str | None:
    """The collection that this ledger belongs to, as `ledger_spec` wrote it; None if it is no ledger."""
    return _owner(info, "ledger_of")


def read_marks_of(info: CollectionInfo) -> str | None:
    """The collection that these marks belong to, as `marks_spec` wrote it; None if these are no marks."""
    return _owner(info, "marks_of")


def _owner(info: CollectionInfo, role: str) -> str | None:
    name = read_description(info).get(role)
    return name if isinstance(name, str) else None


def schema_problems(wanted: CollectionSpec, existing: CollectionInfo) -> list[str]:
    """The reasons why `existing` cannot hold the rows of `wanted`, one clause each; empty if it can.

    A missing `sparse` is no reason: a collection created on a server without BM25 works, without keyword search.
    Nor is a field more that may be null: rows leave it out.
    """
    problems = []
    existing_fields = {field.name: field for field in existing.fields}
    for field in wanted.fields:
        if field.name == SPARSE_FIELD and field.name not in existing_fields:
            continue
        problems += _field_problems(field, existing_fields.get(field.name))
    known = {field.name for field in wanted.fields} | {SPARSE_FIELD}
    problems += [
        f"field {field.name!r} is there, which nothing fills and which may not be null"
        for field in existing.fields
        if field.name not in known and not field.nullable
    ]
    if wanted.dynamic and not existing.dynamic:
        problems.append("the dynamic field is off, so metadata has no place")
    return problems


def _field_problems(wanted: FieldInfo, existing: FieldInfo | None) -> list[str]:
    if existing is None:
        return [f"field {wanted.name!r} ({wanted.type}) is missing"]
    name = wanted.name
    if existing.type != wanted.type:
        return [f"field {name!r} is {existing.type}, not {wanted.type}"]
    problems = []
    if existing.primary != wanted.primary:
        problems.append(f"field {name!r} is {'' if existing.primary else 'not '}the primary key")
    if existing.dimension != wanted.dimension:
        problems.append(f"field {name!r} has dimension {existing.dimension}, not {wanted.dimension}")
    if wanted.max_length is not None and existing.max_length is not None and existing.max_length < wanted.max_length:
        problems.append(f"field {name!r} holds {existing.max_length} bytes, not {wanted.max_length}")
    return problems
