"""Search requests: defaults, bounds, times."""

import pytest

from pipeline.query.filters import Comparison
from pipeline.query.limits import InvalidRequest, Limits
from pipeline.query.request import SearchRequest, TimeRange, parse_duration, parse_request, parse_time

NOW = 1_800_000_000_000
HOUR = 3_600_000


def parsed(**body: object) -> SearchRequest:
    return parse_request({"query": "q", **body}, Limits(), NOW)


def test_defaults() -> None:
    assert parsed() == SearchRequest(queries=("q",), limit=10, timeout_ms=5_000)


def test_everything() -> None:
    request = parsed(
        query=["a", "b"],
        limit=3,
        time={"from": "2026-11-22", "to": "2026-11-22T12:00:00.250+02:00"},
        filter={"type": "eq", "key": "lang", "value": "en"},
        fields=["title", "title", "url"],
        group_by=None,
        timeout_ms=100,
    )
    assert request == SearchRequest(
        queries=("a", "b"),
        limit=3,
        time=TimeRange(1_795_305_600_000, 1_795_341_600_250),
        filter=Comparison("eq", "lang", ("en",), "/filter"),
        fields=("title", "url"),
        group_by=None,
        timeout_ms=100,
        many=True,
    )


def test_a_list_of_one_is_a_list() -> None:
    assert parsed(query=["a"]).many
    assert not parsed(query="a").many


def test_null_is_as_if_left_out() -> None:
    assert parsed(time=None, filter=None, fields=None) == parsed()


def test_last_counts_back_and_has_no_upper_end() -> None:
    assert parsed(time={"last": "24h"}).time == TimeRange(NOW - 24 * HOUR, None)


@pytest.mark.parametrize(("text", "ms"), [("1ms", 1), ("90m", 90 * 60_000), ("7d", 168 * HOUR), ("2w", 336 * HOUR)])
def test_duration(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text", ["", "h", "24", "24 h", "-1h", "0h", "1.5h", "1y", "9999999999999h", "٣h", "1h30m", 5, None]
)
def test_no_duration(text: object) -> None:
    with pytest.raises(InvalidRequest):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01 00:00:01", 1_000),
        ("1970-01-01t01:00:00+01:00", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1970-01-01T00:00:00.1239Z", 123),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("2026-11-22T08:30Z", 1_795_336_200_000),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
        ("0001-01-01", -62_135_596_800_000),
    ],
)
def test_time(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize(
    "text",
    ["", "now", "20261122", "2026-W47-1", "2026-13-01", "2026-02-30", "2026-11-22T24:00:01",
     "2026-11-22T08", "0000-01-01", "2026-11-22Z", "2026-11-22T08:30+25:00", "２026-11-22", 1_800_000_000, None],
)  # fmt: skip
def test_no_time(text: object) -> None:
    with pytest.raises(InvalidRequest):
        parse_time(text)


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ([], ""),
        ({}, "/query"),
        ({"query": None}, "/query"),
        ({"query": 3}, "/query"),
        ({"query": " \n"}, "/query"),
        ({"query": "x" * 8193}, "/query"),
        ({"query": "\ud800"}, "/query"),
        ({"query": []}, "/query"),
        ({"query": ["q"] * 33}, "/query"),
        ({"query": ["q", ""]}, "/query/1"),
        ({"query": "q", "qurey": 1}, "/qurey"),
        ({"query": "q", "limit": 0}, "/limit"),
        ({"query": "q", "limit": 1001}, "/limit"),
        ({"query": "q", "limit": True}, "/limit"),
        ({"query": "q", "limit": 1.0}, "/limit"),
        ({"query": "q", "limit": None}, "/limit"),
        ({"query": "q", "timeout_ms": 9}, "/timeout_ms"),
        ({"query": "q", "timeout_ms": 60_001}, "/timeout_ms"),
        ({"query": "q", "group_by": "lang"}, "/group_by"),
        ({"query": "q", "group_by": ["doc_id"]}, "/group_by"),
        ({"query": "q", "fields": "title"}, "/fields"),
        ({"query": "q", "fields": ["a"] * 65}, "/fields"),
        ({"query": "q", "fields": ["a", 3]}, "/fields/1"),
        ({"query": "q", "time": "24h"}, "/time"),
        ({"query": "q", "time": {}}, "/time"),
        ({"query": "q", "time": {"last": "24h", "to": "2026-01-01"}}, "/time"),
        ({"query": "q", "time": {"last": "soon"}}, "/time/last"),
        ({"query": "q", "time": {"from": "soon"}}, "/time/from"),
        ({"query": "q", "time": {"from": "2026-01-02", "to": "2026-01-02"}}, "/time"),
        ({"query": "q", "time": {"since": "2026-01-02"}}, "/time/since"),
        ({"query": "q", "filter": {"type": "eq"}}, "/filter/value"),
    ],
)
def test_refused_where(body: object, at: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body, Limits(), NOW)
    assert caught.value.at == at


def test_the_longest_allowed() -> None:
    assert parsed(query=["x" * 8192] * 32, limit=31, timeout_ms=60_000).limit == 31
    assert parsed(query=["x"], limit=1000).limit == 1000
    assert parse_request({"query": "q"}, Limits(max_limit=5), NOW).limit == 5


@pytest.mark.parametrize(("texts", "limit", "advice"), [(4, 1000, "lower it to 250"), (32, 32, "lower it to 31")])
def test_results_of_all_texts_together_are_bounded(texts: int, limit: int, advice: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^/limit: .* at most 1,000: {advice}$"):
        parsed(query=["x"] * texts, limit=limit)
    with pytest.raises(InvalidRequest, match="send fewer texts"):
        parse_request({"query": ["q"] * 6}, Limits(max_limit=5), NOW)
