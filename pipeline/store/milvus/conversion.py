"""Conversions between pymilvus's values and the ones of `api.py`. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, DataType, FieldSchema, Function, FunctionType

from pipeline.records import METADATA_FIELD, SPARSE_FIELD, VECTOR_FIELD
from pipeline.store.milvus.api import CollectionInfo, CollectionSpec, FieldInfo, Hit, IndexInfo, Row, ServerInfo
from pipeline.store.milvus.capabilities import UNKNOWN

DESCRIPTION_PROPERTY = "milvus_stream.description"
"""Milvus Lite drops the description of a collection but keeps its properties, so it is written to both."""

_VERSION = re.compile(r"(?P<lite>milvus[_-]lite-)?v?(\d+)\.(\d+)(?:\.(\d+))?", re.IGNORECASE)
_NOT_PARAMETERS = {
    "index_type",
    "metric_type",
    "params",
    "field_name",
    "index_name",
    "total_rows",
    "indexed_rows",
    "pending_index_rows",
    "state",
}


def server_info(version: str) -> ServerInfo:
    """Parse the answer of `get_server_version`: `v2.3.5-lite` (a full server!), `milvus_lite-3.2.2`, `2.6-2025…`."""
    match = _VERSION.match(version)
    if match is None:
        return ServerInfo(version, UNKNOWN, lite=False)
    major, minor, patch = (int(part or 0) for part in match.groups()[1:])
    return ServerInfo(version, (major, minor, patch), lite=match["lite"] is not None)


def sdk_schema(spec: CollectionSpec) -> CollectionSchema:
    """The collection's schema in pymilvus's types."""
    fields = [_sdk_field(field, spec.text_options if field.name == "text" else {}) for field in spec.fields]
    functions = []
    if spec.bm25:
        functions.append(
            Function(
                name="bm25",
                function_type=FunctionType.BM25,
                input_field_names=["text"],
                output_field_names=[SPARSE_FIELD],
            )
        )
    return CollectionSchema(
        fields, description=spec.description, enable_dynamic_field=spec.dynamic, functions=functions
    )


def _sdk_field(field: FieldInfo, more: Mapping[str, Any]) -> FieldSchema:
    options = dict(more)
    if field.dimension is not None:
        options["dim"] = field.dimension
    if field.max_length is not None:
        options["max_length"] = field.max_length
    return FieldSchema(field.name, DataType[field.type], is_primary=field.primary, **options)


def collection_info(raw: Mapping[str, Any], indexes: Mapping[str, Mapping[str, Any]]) -> CollectionInfo:
    """The answers of `describe_collection` and, by field, of `describe_index`, as one value."""
    return CollectionInfo(
        name=str(raw["collection_name"]),
        description=str(raw.get("description") or (raw.get("properties") or {}).get(DESCRIPTION_PROPERTY, "")),
        fields=tuple(_field_info(field) for field in raw["fields"]),
        dynamic=bool(raw.get("enable_dynamic_field")),
        indexes={name: _index_info(index) for name, index in indexes.items()},
    )


def _field_info(raw: Mapping[str, Any]) -> FieldInfo:
    params = raw.get("params") or {}
    return FieldInfo(
        name=str(raw["name"]),
        type=DataType(raw["type"]).name,
        primary=bool(raw.get("is_primary")),
        dimension=int(params["dim"]) if "dim" in params else None,
        max_length=int(params["max_length"]) if "max_length" in params else None,
        nullable=bool(raw.get("nullable")),
    )


def _index_info(raw: Mapping[str, Any]) -> IndexInfo:
    params = {name: value for name, value in raw.items() if name not in _NOT_PARAMETERS} | dict(raw.get("params") or {})
    return IndexInfo(
        type=str(raw.get("index_type", "")),
        metric=str(raw.get("metric_type", "")),
        params={name: _plain(value) for name, value in params.items()},
    )


def _plain(value: Any) -> Any:
    """A parameter as a number where it is one: servers answer every parameter as text, `"16"` for 16."""
    if not isinstance(value, str):
        return value
    try:
        number = json.loads(value)
    except json.JSONDecodeError:
        return value
    return number if isinstance(number, int | float) and not isinstance(number, bool) else value


def sdk_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as pymilvus takes them. Raises ValueError for a repeated id, which Milvus 2.3 would store twice."""
    if len({row["id"] for row in rows}) != len(rows):
        raise ValueError("an id occurs twice in one upsert; fold the rows first")
    return [dict(row) for row in rows]


def plain_row(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A queried row, its vector as float32 of shape (dimension,)."""
    row = dict(raw)
    if VECTOR_FIELD in row:
        row[VECTOR_FIELD] = np.asarray(row[VECTOR_FIELD], dtype=np.float32)
    return row


def hits(raw: Sequence[Sequence[Mapping[str, Any]]], fields: Sequence[str]) -> list[list[Hit]]:
    """The answer of a search, with those of `fields` that the rows have; `*`: every field, `$meta`: all metadata."""
    # For `$meta` the server answers the metadata by name, and no declared field that was not named.
    every = "*" in fields or METADATA_FIELD in fields
    return [
        [
            Hit(
                str(hit["id"]),
                float(hit["distance"]),
                {name: value for name, value in plain_row(hit["entity"]).items() if every or name in fields},
            )
            for hit in hits_of_query
        ]
        for hits_of_query in raw
    ]
