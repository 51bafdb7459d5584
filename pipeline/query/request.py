"""A search request: from decoded JSON to checked values. The HTTP route and the command line use the same parser."""

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.query.filters import Filter, check_name, parse_filter
from pipeline.query.limits import InvalidRequest, Limits, check_keys, check_text, pointer
from pipeline.timestamps import rfc3339_microseconds

REQUEST_KEYS = ("query", "limit", "time", "filter", "fields", "group_by", "timeout_ms")
DEFAULT_LIMIT = 10

_DURATION = re.compile(r"(\d{1,12})(ms|s|m|h|d|w)", re.ASCII)
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_LONGEST_MS = 100 * 366 * 86_400_000


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Event times in [from_ms, to_ms), epoch milliseconds; None is open."""

    from_ms: int | None
    to_ms: int | None


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is searched for; every value is within the limits."""

    queries: tuple[str, ...]
    limit: int = DEFAULT_LIMIT
    """Most results for each query."""
    time: TimeRange | None = None
    filter: Filter | None = None
    fields: tuple[str, ...] | None = None
    """Names of the metadata wanted in the results; None: all of it."""
    group_by: Literal["doc_id"] | None = "doc_id"
    """One result a document (its best chunk), or every chunk that matches."""
    timeout_ms: int = 5_000
    many: bool = False
    """The queries came as a list, so the answer is a list."""


def parse_request(body: object, limits: Limits, now_ms: int) -> SearchRequest:
    """Check a decoded JSON body; `now_ms` (epoch milliseconds) is what `time.last` counts back from.

    Raises InvalidRequest naming the place by JSON pointer.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("", 'the body must be a JSON object such as {"query": "refund failed"}')
    check_keys("", body, REQUEST_KEYS)
    queries, many = _queries(body.get("query"), limits)
    group_by = body.get("group_by", "doc_id")
    if group_by not in ("doc_id", None):
        raise InvalidRequest("/group_by", 'must be "doc_id" or null')
    given_filter, given_time = body.get("filter"), body.get("time")
    return SearchRequest(
        queries=queries,
        limit=_limit(body.get("limit", min(DEFAULT_LIMIT, limits.max_limit)), len(queries), limits),
        time=None if given_time is None else parse_time_range(given_time, now_ms),
        filter=None if given_filter is None else parse_filter(given_filter, limits),
        fields=_fields(body.get("fields"), limits),
        group_by="doc_id" if group_by == "doc_id" else None,
        timeout_ms=_integer(
            "/timeout_ms",
            body.get("timeout_ms", limits.default_timeout_ms),
            limits.min_timeout_ms,
            limits.max_timeout_ms,
        ),
        many=many,
    )


def parse_time_range(value: object, now_ms: int, at: str = "/time") -> TimeRange:
    """`{"last": "24h"}` or `{"from": …, "to": …}` (either end may be missing), half open.

    `last` has no upper end: producers' clocks may run ahead of ours by the allowed skew.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(at, 'must be an object such as {"last": "24h"} or {"from": "2026-11-22", "to": …}')
    check_keys(at, value, ("last", "from", "to"))
    if "last" in value:
        if len(value) > 1:
            raise InvalidRequest(at, "takes either last, or from and to")
        return TimeRange(now_ms - parse_duration(value["last"], pointer(at, "last")), None)
    start, end = value.get("from"), value.get("to")
    if start is None and end is None:
        raise InvalidRequest(at, "needs last, from or to")
    from_ms = None if start is None else parse_time(start, pointer(at, "from"))
    to_ms = None if end is None else parse_time(end, pointer(at, "to"))
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise InvalidRequest(at, "is empty: from must be before to (to itself is not included)")
    return TimeRange(from_ms, to_ms)


def parse_duration(value: object, at: str = "/time/last") -> int:
    """`90m`, `24h`, `7d` … as milliseconds; units ms, s, m, h, d, w. Raises InvalidRequest."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    milliseconds = int(match[1]) * _UNIT_MS[match[2]] if match else 0
    if not 0 < milliseconds <= _LONGEST_MS:
        raise InvalidRequest(at, "must be a number above 0 with a unit, such as 90m, 24h or 7d (at most 100 years)")
    return milliseconds


def parse_time(value: object, at: str = "/time") -> int:
    """An RFC 3339 time as epoch milliseconds; without an offset it is UTC, a date alone is its midnight.

    Raises InvalidRequest.
    """
    problem = "must be an RFC 3339 time such as 2026-11-22T08:30:00Z, or a date"
    if not isinstance(value, str):
        raise InvalidRequest(at, problem)
    try:
        return rfc3339_microseconds(value) // 1_000
    except ValueError:
        raise InvalidRequest(at, problem) from None


def _queries(value: object, limits: Limits) -> tuple[tuple[str, ...], bool]:
    if isinstance(value, list):
        if not value:
            raise InvalidRequest("/query", "must hold at least one text")
        if len(value) > limits.max_queries:
            raise InvalidRequest("/query", f"holds {len(value):,} texts; at most {limits.max_queries} are allowed")
        return tuple(_query(pointer("/query", index), text, limits) for index, text in enumerate(value)), True
    if value is None:
        raise InvalidRequest("/query", "is missing: a text, or a list of texts")
    return (_query("/query", value, limits),), False


def _query(at: str, value: object, limits: Limits) -> str:
    text = check_text(at, value, limits.max_query_chars)
    if not text.strip():
        raise InvalidRequest(at, "is blank")
    return text


def _limit(value: object, queries: int, limits: Limits) -> int:
    limit = _integer("/limit", value, 1, limits.max_limit)
    if limit * queries > limits.max_limit:
        each = limits.max_limit // queries
        advice = f"lower it to {each:,}" if each else "send fewer texts"
        raise InvalidRequest(
            "/limit", f"for {queries} texts means {limit * queries:,} results; at most {limits.max_limit:,}: {advice}"
        )
    return limit


def _integer(at: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidRequest(at, f"must be a whole number from {low:,} to {high:,}")
    return value


def _fields(value: object, limits: Limits) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > limits.max_fields:
        raise InvalidRequest("/fields", f"must be a list of at most {limits.max_fields} names of metadata fields")
    return tuple(dict.fromkeys(check_name(pointer("/fields", index), name) for index, name in enumerate(value)))
