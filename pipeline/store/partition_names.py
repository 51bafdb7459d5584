"""The names of time partitions: the Milvus partition of an event time, and the interval of a Milvus partition. Pure.

The name alone determines the interval: `h2026112213`, `d20261122`, `w2026W47` (ISO year and week), `m202611`, `y2026`,
all in UTC. Within a granularity names sort by time. They start with a letter, which newer servers require.
"""

import re
from calendar import isleap, monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from pipeline.records import Put
from pipeline.store.milvus.api import DEFAULT_PARTITION

Granularity = Literal["hour", "day", "week", "month", "year", "none"]

MIN_EVENT_TIME_MS = -62_135_596_800_000
"""0001-01-01T00:00:00Z: a name has four digits for the year."""
MAX_EVENT_TIME_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z"""
NEAR_MS = 60 * 86_400_000
"""Event times within 60 days of their record are near it, where no tier says otherwise."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_HOUR_MS = 3_600_000
_COARSENESS: tuple[Granularity, ...] = ("hour", "day", "week", "month", "year", "none")
_NAME: dict[str, re.Pattern[str]] = {
    "hour": re.compile(r"h([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})"),
    "day": re.compile(r"d([0-9]{4})([0-9]{2})([0-9]{2})"),
    "week": re.compile(r"w([0-9]{4})W([0-9]{2})"),
    "month": re.compile(r"m([0-9]{4})([0-9]{2})"),
    "year": re.compile(r"y([0-9]{4})"),
}


@dataclass(frozen=True, slots=True)
class Tier:
    """A granularity for event times that lie far before their record."""

    older_than_ms: int
    """Least distance from the event time to the record's Kafka timestamp, in milliseconds."""
    by: Granularity


@dataclass(frozen=True, slots=True)
class Partitioning:
    """The rule by which a document gets its Milvus partition.

    Tiers keep a wrong or very old date from costing a Milvus partition of its own. A tier is chosen by the distance
    between two times of the record, never by the clock, so a redo makes the same choice. The last tier that a record is
    old enough for counts; one that is not coarser than what is before it has no effect.
    """

    by: Granularity
    tiers: tuple[Tier, ...] = ()
    """In rising order of `older_than_ms`."""

    def place(self, event_time_ms: int, record_time_ms: int) -> str:
        """The Milvus partition of an event time (epoch milliseconds) in a record with this Kafka timestamp.

        Raises ValueError outside the years 1 to 9999.
        """
        by = self.by
        for tier in self.tiers:
            if record_time_ms - event_time_ms < tier.older_than_ms:
                break
            by = max(by, tier.by, key=_COARSENESS.index)
        return partition_name(by, event_time_ms)

    def near(self, event_time_ms: int, record_time_ms: int) -> bool:
        """Whether the event time is so close to the record's Kafka timestamp that it is hardly a mistake."""
        limit = self.tiers[0].older_than_ms if self.tiers else NEAR_MS
        return abs(record_time_ms - event_time_ms) < limit

    def needed(self, puts: Iterable[Put]) -> dict[str, bool]:
        """The Milvus partitions of these documents, each with whether one of them is near its record."""
        needed: dict[str, bool] = {}
        for put in puts:
            times = put.document.event_time, put.timestamp_ms
            place = self.place(*times)
            needed[place] = needed.get(place, False) or self.near(*times)
        return needed

    @property
    def granularities(self) -> frozenset[Granularity]:
        """Those that new documents get."""
        return frozenset({self.by, *(max(self.by, tier.by, key=_COARSENESS.index) for tier in self.tiers)})


def partition_name(by: Granularity, event_time_ms: int) -> str:
    """The Milvus partition of an event time in epoch milliseconds; for `none` always `_default`.

    Raises ValueError outside the years 1 to 9999; the decoder rejects such records before.
    """
    if by == "none":
        return DEFAULT_PARTITION
    if not MIN_EVENT_TIME_MS <= event_time_ms <= MAX_EVENT_TIME_MS:
        raise ValueError(f"event time {event_time_ms} ms is outside the years 1 to 9999")
    return _of_hour(by, event_time_ms // _HOUR_MS)


@lru_cache(maxsize=10_000)
def _of_hour(by: Literal["hour", "day", "week", "month", "year"], hour: int) -> str:
    """The name for an hour since 1970. Cached, because a batch has few different hours."""
    time = _EPOCH + timedelta(hours=hour)
    match by:
        case "hour":
            return f"h{time.year:04}{time.month:02}{time.day:02}{time.hour:02}"
        case "day":
            return f"d{time.year:04}{time.month:02}{time.day:02}"
        case "week":
            year, week, _ = time.isocalendar()
            return f"w{year:04}W{week:02}"
        case "month":
            return f"m{time.year:04}{time.month:02}"
        case "year":
            return f"y{time.year:04}"


def interval(name: str) -> tuple[int, int] | None:
    """The half-open interval [from, to) of a Milvus partition, in epoch milliseconds.

    None for a name that `partition_name` does not give, and for `_default`: such a partition may hold any time.
    """
    for by, pattern in _NAME.items():
        match = pattern.fullmatch(name)
        if match is not None:
            try:
                start = _start(by, [int(part) for part in match.groups()])
            except ValueError:
                return None
            return start, start + _length_ms(by, start)
    return None


def _start(by: str, parts: list[int]) -> int:
    if by == "week":
        time = datetime.fromisocalendar(parts[0], parts[1], 1).replace(tzinfo=UTC)
    elif by in {"month", "year"}:
        time = datetime(parts[0], parts[1] if by == "month" else 1, 1, tzinfo=UTC)
    else:
        time = datetime(*parts[:3], *parts[3:], tzinfo=UTC)  # type: ignore[misc, arg-type]
    return (time - _EPOCH) // _MILLISECOND


def _length_ms(by: str, start_ms: int) -> int:
    start = _EPOCH + timedelta(milliseconds=start_ms)
    match by:
        case "hour":
            return _HOUR_MS
        case "month":  # what follows December 9999 has no datetime, so days are counted
            days = monthrange(start.year, start.month)[1]
        case "year":
            days = 366 if isleap(start.year) else 365
        case _:
            days = {"day": 1, "week": 7}[by]
    return days * 24 * _HOUR_MS


def granularity(name: str) -> Granularity | None:
    """The granularity of a name; `none` for `_default`, None for a foreign name."""
    if name == DEFAULT_PARTITION:
        return "none"
    by: Granularity
    for by in ("hour", "day", "week", "month", "year"):
        if _NAME[by].fullmatch(name) and interval(name) is not None:
            return by
    return None


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted by their interval, the earliest first; those without one at the end."""

    def key(name: str) -> tuple[bool, tuple[int, int], str]:
        times = interval(name)
        return times is None, times or (0, 0), name

    return sorted(names, key=key)
