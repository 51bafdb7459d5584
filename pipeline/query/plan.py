"""Which Milvus partitions a search must read, and its filter expression. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.query.answer import Skipped, SkipReason
from pipeline.query.filters import Filter, FilterableFields, compile_filter
from pipeline.query.request import TimeRange
from pipeline.store import DEFAULT_PARTITION, interval


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How to search."""

    partitions: tuple[str, ...] | None
    """Names to search, None for the whole collection: then a Milvus partition made a moment ago is covered too."""
    covered: tuple[str, ...]
    """The same for people. `_default`, where rows are only without time partitions, is always searched, and named
    only where it stands alone.
    """
    skipped: tuple[Skipped, ...]
    expression: str
    """Empty: every row."""


def plan(
    time: TimeRange | None,
    wanted: Filter | None,
    existing: Sequence[str],
    released: Collection[str],
    catalogue: FilterableFields,
) -> SearchPlan:
    """Leave out every Milvus partition whose interval, given by its name, does not meet the time range.

    Of the others those in `released` are not loaded: left out and said so, as naming one would fail the search.
    A name without an interval is always searched. The expression checks `event_time` of each row as well: an interval
    is wider than the range. Raises InvalidRequest where the filter does not fit the collection.
    """
    parts = [] if time is None else _time_terms(time)
    if wanted is not None:
        parts.append(f"({compile_filter(wanted, catalogue)})")
    expression = " and ".join(parts)
    skipped = [Skipped(name, reason) for name in existing if (reason := _skip(name, time, released)) is not None]
    if not skipped:
        return SearchPlan(None, tuple(existing) or (DEFAULT_PARTITION,), (), expression)
    left_out = {skip.name for skip in skipped}
    kept = tuple(name for name in existing if name not in left_out)
    return SearchPlan((DEFAULT_PARTITION, *kept), kept or (DEFAULT_PARTITION,), tuple(skipped), expression)


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
