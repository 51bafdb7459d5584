"""The plan of a search: the Milvus partitions it must read, and its filter expression. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.query.answer import Skipped, SkipReason
from pipeline.query.partition_index import PartitionIndex
from pipeline.query.request.filter_expressions import FilterableFields, compile_filter
from pipeline.query.request.filters import Filter
from pipeline.query.request.request import TimeRange
from pipeline.query.tenancy import tenant_term, within_tenant
from pipeline.store import DEFAULT_PARTITION


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Where to search, and for which rows."""

    partitions: tuple[str, ...] | None
    """Names to search, None for the whole collection: then a Milvus partition made a moment ago is covered too."""
    covered: tuple[str, ...]
    """The same for people. `_default`, which holds rows only without time partitions, is always searched, and named
    only if nothing else is.
    """
    skipped: tuple[Skipped, ...]
    expression: str
    """Empty: every row. Holds `tenant_term`."""
    tenant_term: str = ""
    """What every row of the caller's tenant matches, for further lookups of the same search."""


def plan_search(
    time: TimeRange | None,
    rows: Filter | None,
    existing: PartitionIndex,
    released: Collection[str],
    fields: FilterableFields,
    *,
    tenant: str | None = None,
) -> SearchPlan:
    """Leave out the Milvus partitions that cannot hold a matching row, and those that are not loaded.

    1. The partition's interval, which its name gives, does not meet the time range: skipped, `outside_time_range`.
    2. The partition is in `released`: skipped, `not_loaded`; a search that names it would fail.
    3. Any other, also one whose name gives no interval: searched.

    The expression checks the `event_time` of each row as well, because an interval is wider than the range. With a
    tenant it matches rows of this tenant only. Raises InvalidRequest where the filter does not fit the collection.
    """
    terms = [] if time is None else _time_terms(time)
    if rows is not None:
        terms.append(f"({compile_filter(rows, fields)})")
    term = tenant_term(tenant, fields)
    expression = within_tenant(term, " and ".join(terms))
    reasons: dict[str, SkipReason] = {}
    if time is not None:
        reasons = dict.fromkeys(existing.outside(time), "outside_time_range")
    for name in released:
        reasons.setdefault(name, "not_loaded")
    skipped = tuple(Skipped(name, reasons[name]) for name in existing.names if name in reasons)
    if not skipped:
        return SearchPlan(None, existing.names or (DEFAULT_PARTITION,), (), expression, term)
    searched = tuple(name for name in existing.names if name not in reasons)
    return SearchPlan((DEFAULT_PARTITION, *searched), searched or (DEFAULT_PARTITION,), skipped, expression, term)


def _time_terms(time: TimeRange) -> list[str]:
    terms = []
    if time.from_ms is not None:
        terms.append(f"event_time >= {time.from_ms}")
    if time.to_ms is not None:
        terms.append(f"event_time < {time.to_ms}")
    return terms
