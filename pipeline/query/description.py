"""The description of the collection for a client that does not know it: fields, metadata names, modes, time."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.query.answer import Mode
from pipeline.query.canary_rows import except_canaries
from pipeline.query.request.filter_expressions import FieldType, FilterableFields, filterable_fields
from pipeline.query.retrievers import has_keyword_index
from pipeline.query.tenancy import check_tenant, tenant_term, within_tenant
from pipeline.records import METADATA_FIELD, NOT_METADATA, TENANT_FIELD, VECTOR_FIELD
from pipeline.store import MAX_EVENT_TIME_MS, CollectionInfo, MilvusServerApi, interval
from pipeline.timestamps import format_time

_SAMPLE = 64
"""Rows read for the metadata names."""
_MOST_NAMES = 64
_LONGEST_NAME = 256
_TIMEOUT_S = 5.0

ValueType = Literal["string", "number", "boolean", "list", "object", "null"]


@dataclass(frozen=True, slots=True)
class DescribedField:
    """A field of every row that a filter can name."""

    name: str
    type: FieldType


@dataclass(frozen=True, slots=True)
class DescribedName:
    """A metadata name that some rows carry."""

    name: str
    types: tuple[ValueType, ...]
    """Of the values seen."""


@dataclass(frozen=True, slots=True)
class CollectionDescription:
    """A collection as a client needs to know it to search it."""

    collection: str
    metric: str
    """Of the vectors: COSINE, IP or L2."""
    modes: tuple[Mode, ...]
    """Those a search can have; the last one is used where a search names none."""
    fields: tuple[DescribedField, ...]
    metadata: tuple[DescribedName, ...]
    """Of some rows: others may carry further names."""
    from_time: str | None
    """Begin of the oldest time partition, RFC 3339; null without time partitions."""
    to_time: str | None
    """End of the newest one, not included."""


def describe_collection(
    api: MilvusServerApi, info: CollectionInfo, *, tenant: str | None = None
) -> CollectionDescription:
    """Read the description; blocks for some seconds at most. `tenant`: only its documents are read for names.

    Raises Unavailable, NotFound.
    """
    fields = filterable_fields(info, api.server.capabilities)
    spans = [span for name in api.partitions(info.name) if (span := interval(name)) is not None]
    return CollectionDescription(
        collection=info.name,
        metric=info.indexes[VECTOR_FIELD].metric,
        modes=("dense", "keyword", "hybrid") if has_keyword_index(api, info) else ("dense",),
        fields=tuple(
            DescribedField(name, field_type) for name, field_type in fields.declared.items() if field_type != "other"
        ),
        metadata=_metadata(_sample(api, info, fields, tenant), fields.declared) if fields.dynamic else (),
        from_time=format_time(min(start for start, _ in spans)) if spans else None,
        to_time=format_time(min(max(end for _, end in spans), MAX_EVENT_TIME_MS)) if spans else None,
    )


def _sample(
    api: MilvusServerApi, info: CollectionInfo, fields: FilterableFields, tenant: str | None
) -> list[dict[str, Any]]:
    expression = within_tenant(tenant_term(tenant, fields), except_canaries("chunk == 0"))
    rows = api.query(info.name, expression, [METADATA_FIELD], limit=_SAMPLE, timeout=_TIMEOUT_S)
    for row in rows:
        check_tenant(row, tenant)
    return rows


def _metadata(rows: list[dict[str, Any]], declared: Mapping[str, FieldType]) -> tuple[DescribedName, ...]:
    hidden = {*declared, *NOT_METADATA, TENANT_FIELD}
    types: dict[str, set[ValueType]] = defaultdict(set)
    for row in rows:
        for name in row.keys() - hidden:
            types[name].add(_type_of(row[name]))
    known = sorted(name for name in types if len(name) <= _LONGEST_NAME)
    return tuple(DescribedName(name, tuple(sorted(types[name]))) for name in known[:_MOST_NAMES])


def _type_of(value: object) -> ValueType:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "list"
        case _:
            return "object"
