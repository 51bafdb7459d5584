"""The rows that the facets of a search count, read from Milvus within bounds."""

from collections.abc import Sequence
from typing import Any

import orjson
import structlog

from pipeline.errors import MilvusStreamError
from pipeline.query.canary_rows import except_canaries
from pipeline.query.candidates import CandidateSearch
from pipeline.query.facet_counts import Facets, count_values
from pipeline.query.request.filter_expressions import FilterableFields
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.row_count import count_rows
from pipeline.query.tenancy import check_tenant
from pipeline.records import METADATA_FIELD, NODE_FIELDS, TENANT_FIELD

MAX_ROWS = 10_000
FIRST_ROWS = 100
MAX_BYTES = 8 * 1024 * 1024
"""About so much is read at most, by the size of the first rows: a row may have 64 KiB of metadata."""
_NOT_COUNTED = "the facets were not counted: Milvus did not answer that read in the time of the search"

_log = structlog.get_logger(__name__)


def check_facets(names: Sequence[str], fields: FilterableFields) -> None:
    """Raise InvalidRequest where one of the names is no field that can be counted."""
    for index, name in enumerate(names):
        if name == "text" or name in NODE_FIELDS or fields.declared.get(name) == "other":
            raise InvalidRequest(f"/facets/{index}", "names a field that is not counted: name metadata")
        if name not in fields.declared and not fields.dynamic:
            raise InvalidRequest(f"/facets/{index}", "names no field of the collection")


def read_facets(search: CandidateSearch, fields: FilterableFields) -> tuple[Facets | None, tuple[str, ...]]:
    """Count the values of the request's facets over rows that match the plan; at most half of the time left.

    Raises nothing of Milvus but ForeignRow: without an answer there are no facets, and a warning.
    """
    names = search.request.facets
    if not names or len(search.returned):  # they are on the first page
        return None, ()
    deadline = search.clock() + (search.deadline - search.clock()) / 2
    declared = {name for name in (*names, TENANT_FIELD) if name in fields.declared}
    columns = sorted({*declared, "doc_id", *((TENANT_FIELD, METADATA_FIELD) if fields.dynamic else ())})
    try:
        rows, sampled = _read(search, columns, deadline)
    except MilvusStreamError as error:
        _log.warning("query.facets_not_counted", error=type(error).__name__)  # its text may hold the filter
        return None, (_NOT_COUNTED,)
    total: int | None = len(rows)
    if sampled:
        left_s = search.deadline - search.clock()
        total, _ = count_rows(search.api, search.collection.name, search.plan, left_s, search.consistency)
    for row in rows:
        check_tenant(row, search.tenant)
    counts = count_values(rows, names, group_by=search.request.group_by)
    return Facets(counts, sampled and total != len(rows), len(rows), total), ()


def _read(search: CandidateSearch, columns: Sequence[str], deadline: float) -> tuple[list[dict[str, Any]], bool]:
    """(rows that match, whether there may be others). The first of them show how many fit into `MAX_BYTES`."""
    first = _query(search, columns, FIRST_ROWS, deadline)
    if len(first) < FIRST_ROWS:
        return first, False
    row_bytes = max(len(orjson.dumps(first, default=str)) // FIRST_ROWS, 1)
    most = min(MAX_ROWS, MAX_BYTES // row_bytes)
    if most <= FIRST_ROWS:
        return first, True
    try:
        rows = _query(search, columns, most, deadline)
    except MilvusStreamError:  # too large for one answer, or too slow: the first rows are a sample
        return first, True
    return rows, len(rows) >= most


def _query(search: CandidateSearch, columns: Sequence[str], limit: int, deadline: float) -> list[dict[str, Any]]:
    return search.api.query(
        search.collection.name,
        except_canaries(search.plan.expression),
        columns,
        partitions=search.plan.partitions,
        limit=limit,
        timeout=max(deadline - search.clock(), 0.001),
        **search.consistency,
    )
