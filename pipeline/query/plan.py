"""The plan of a search: the Milvus partitions it must read, and its filter expression. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.query.answer import Skipped, SkipReason
from pipeline.query.request.filter_expressions import FilterableFields, compile_filter
from pipeline.query.request.filters import Filter
from pipeline.query.request.request import TimeRange
from pipeline.store import DEFAULT_PARTITION, interval


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
    """Empty: every row."""


def plan_search(
    time: TimeRange | None,
    rows: Filter | None,
    existing: Sequence[str],
    released: Collection[str],
    fields: FilterableFields,
) -> SearchPlan:
    """Leave out the Milvus partitions that cannot hold a matching row, and those that are not loaded.

    1. The partition's interval, which its name gives, does not meet the time range: skipped, `outside_time_range`.
    2. The partition is in `released`: skipped, `not_loaded`; a search that names it would fail.
    3. Any other, also one whose name gives no interval: searched.

    The expression checks the `event_time` of each row as well, because an interval is wider than the range. Raises
    InvalidRequest where the filter does not fit the collection.
    """
    terms = [] if time is None else _time_terms(time)
    if rows is not None:
        terms.append(f"({compile_filter(rows, fields)})")
    expression = " and ".join(terms)
    skipped = [Skipped(name, reason) for name in existing if (reason := _skip(name, time, released)) is not None]
    if not skipped:
        return SearchPlan(None, tuple(existing) or (DEFAULT_PARTITION,), (), expression)
    skipped_names = {partition.name for partition in skipped}
    searched = tuple(name for name in existing if name not in skipped_names)
    return SearchPlan((DEFAULT_PARTITION, *searched), searched or (DEFAULT_PARTITION,), tuple(skipped), expression)


def _skip(name: str, time: TimeRange | None, released: Collection[str]) -> SkipReason | None:
    if time is not None and not _meets(name, time):
        return "outside_time_range"
    return "not_loaded" if name in released else None


def _time_terms(time: TimeRange) -> list[str]:
    terms = []
    if time.from_ms is not None:
        terms.append(f"event_time >= {time.from_ms}")
    if time.to_ms is not None:
        terms.append(f"event_time < {time.to_ms}")
    return terms


def _meets(name: str, time: TimeRange) -> bool:
    span = interval(name)
    if span is None:
        return True
    start, end = span
    return (time.to_ms is None or start < time.to_ms) and (time.from_ms is None or end > time.from_ms)
