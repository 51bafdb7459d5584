"""Search requests: defaults, bounds, times."""

import pytest

from pipeline.query import InvalidRequest, MalformedRequest
from pipeline.query.request.body import decode_json
from pipeline.query.request.filters import Equality
from pipeline.query.request.request import SearchRequest, TimeRange, parse_request, request_model

NOW = 1_800_000_000_000
HOUR = 3_600_000


def parsed(**body: object) -> SearchRequest:
    return parse_request({"query": "q", **body})


def test_defaults() -> None:
    request = parsed()
    assert (request.queries, request.limit, request.timeout_ms, request.group_by) == (("q",), 10, 5_000, "doc_id")
    assert (request.time_range(NOW), request.filter, request.fields, request.many) == (None, None, None, False)


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
    assert (request.queries, request.many) == (("a", "b"), True)
    assert (request.limit, request.group_by, request.timeout_ms) == (3, None, 100)
    assert request.time_range(NOW) == TimeRange(1_795_305_600_000, 1_795_341_600_250)
    assert request.filter == Equality(type="eq", key="lang", value="en")
    assert request.fields == ["title", "url"]


def test_a_list_of_one_is_a_list() -> None:
    assert parsed(query=["a"]).many
    assert not parsed(query="a").many


def test_null_is_as_if_left_out() -> None:
    assert parsed(time=None, filter=None, fields=None).model_dump() == parsed().model_dump()
    times = parsed(time={"from": None, "to": "1970-01-01"}).time_range(NOW)
    assert times == TimeRange(None, 0)


def test_last_counts_back_and_has_no_upper_end() -> None:
    assert parsed(time={"last": "24h"}).time_range(NOW) == TimeRange(NOW - 24 * HOUR, None)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1ms", 1),
        ("90m", 90 * 60_000),
        ("7d", 168 * HOUR),
        ("2w", 336 * HOUR),
        ("1h30m", 90 * 60_000),
        ("1.5h", 90 * 60_000),
        ("24 h", 24 * HOUR),
        ("36600d", 36_600 * 24 * HOUR),
    ],
)
def test_duration(text: str, ms: int) -> None:
    assert parsed(time={"last": text}).time_range(NOW) == TimeRange(NOW - ms, None)


@pytest.mark.parametrize(
    "text", ["", "h", "24", "-1h", "0h", "0.4ms", "1y", "9999999999999h", "36601d", "9" * 400 + "d", "٣h", 5, None]
)
def test_no_duration(text: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^/time/last: must be a number above 0 with a unit"):
        parsed(time={"last": text})


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
    assert parsed(time={"from": text}).time_range(NOW) == TimeRange(ms, None)


@pytest.mark.parametrize(
    "text",
    ["", "now", "20261122", "2026-W47-1", "2026-13-01", "2026-02-30", "2026-11-22T24:00:01",
     "2026-11-22T08", "0000-01-01", "2026-11-22Z", "2026-11-22T08:30+25:00", "２026-11-22", 1_800_000_000, True,
     ["2026-11-22"]],
)  # fmt: skip
def test_no_time(text: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^/time/from: must be an RFC 3339 time"):
        parsed(time={"from": text})


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
        ({"qurey": "q"}, "/qurey"),
        ({"query": "q", "a/b~": 1}, "/a~1b~0"),
        ({"query": "q", "\ud800": 1}, ""),
        ({"query": "q", "x" * 257: 1}, ""),
        ({"query": {"text": "q"}}, "/query"),
        ({"query": ["q", 3]}, "/query/1"),
        ({"query": ["q", ["q"]]}, "/query/1"),
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
        ({"query": "q", "time": {"last": None}}, "/time/last"),
        ({"query": "q", "time": {"from": None}}, "/time"),
        ({"query": "q", "time": {"from": "soon"}}, "/time/from"),
        ({"query": "q", "time": {"from": "2026-01-02", "to": "2026-01-02"}}, "/time"),
        ({"query": "q", "time": {"since": "2026-01-02"}}, "/time/since"),
        ({"query": "q", "filter": {"type": "eq"}}, "/filter/value"),
        ({"query": "q", "group_size": 0}, "/group_size"),
        ({"query": "q", "group_size": 11}, "/group_size"),
        ({"query": "q", "group_size": 2, "group_by": None}, "/group_size"),
        ({"query": "q", "group_size": 10, "limit": 101}, "/limit"),
        ({"query": "q", "explain": 1}, "/explain"),
        ({"query": "q", "count": None}, "/count"),
        ({"query": "q", "params": []}, "/params"),
        ({"query": "q", "params": {"ef": 1.5}}, "/params/ef"),
        ({"query": "q", "params": {"ef": None}}, "/params/ef"),
        ({"query": "q", "params": {"ef": {}}}, "/params/ef"),
        ({"query": "q", "params": {"a/b": 1}}, "/params"),
        ({"query": "q", "params": {"\ud800": 1}}, "/params"),
        ({"query": "q", "params": {"": 1}}, "/params"),
        ({"query": "q", "params": {f"p{number}": 1 for number in range(17)}}, "/params"),
        ({"query": "q", "mode": "keyword", "params": {}}, "/params"),
    ],
)
def test_refused_where(body: object, at: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body)
    assert caught.value.at == at
    assert caught.value.detail


def test_the_longest_allowed() -> None:
    assert parsed(query=["x" * 8192] * 32, limit=31, timeout_ms=60_000).limit == 31
    assert parsed(query=["x"], limit=1000).limit == 1000
    assert parse_request({"query": "q"}, 5).limit == 5


@pytest.mark.parametrize(("texts", "limit", "advice"), [(4, 1000, "lower it to 250"), (32, 32, "lower it to 31")])
def test_results_of_all_texts_together_are_bounded(texts: int, limit: int, advice: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^/limit: .* at most 1,000: {advice}$"):
        parsed(query=["x"] * texts, limit=limit)
    with pytest.raises(InvalidRequest, match=r"send fewer texts$"):
        parse_request({"query": ["q"] * 6}, 5)
    with pytest.raises(InvalidRequest, match=r"2 texts with 4 chunks each means 2,000 results; .*: lower it to 125$"):
        parsed(query=["x"] * 2, limit=250, group_size=4)
    with pytest.raises(InvalidRequest, match=r"send fewer texts, or lower group_size$"):
        parse_request({"query": "q", "group_size": 6}, 5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], 'the body must be a JSON object such as {"query": "refund failed"}'),
        ({}, "/query: is missing: a text, or a list of texts; or a vector in its place"),
        ({"query": None}, "/query: must be a text, or a list of texts"),
        ({"query": []}, "/query: must be a list of at least one text"),
        ({"query": ["q"] * 33}, "/query: holds 33 texts; at most 32 are allowed"),
        ({"query": "x" * 8193}, "/query: has 8,193 characters; at most 8,192 are allowed"),
        ({"query": " "}, "/query: is blank"),
        ({"query": "\ud800"}, "/query: contains half a surrogate pair, which is not text"),
        (
            {"query": "q", "limt": 1},
            "/limt: is not a known key; known are query, vector, mode, fusion, params, limit, time, filter, fields, "
            "group_by, group_size, min_score, recency, timeout_ms, highlights, facets, freshness, explain, rerank, "
            "count",
        ),
        ({"query": "q", "limit": "10"}, "/limit: must be a whole number from 1 to 1,000"),
        ({"query": "q", "timeout_ms": 9.5}, "/timeout_ms: must be a whole number from 10 to 60,000"),
        ({"query": "q", "group_by": "lang"}, '/group_by: must be "doc_id" or null'),
        ({"query": "q", "fields": "title"}, "/fields: must be a list of field names"),
        (
            {"query": "q", "fields": ["$meta"]},
            "/fields/0: must be a field name: not empty, no control characters, not starting with $",
        ),
        ({"query": "q", "time": {"since": "x"}}, "/time/since: is not a known key; known are last, from, to"),
        ({"query": "q", "time": {"last": "1h", "to": None}}, "/time: takes either last, or from and to"),
        ({"query": "q", "time": {}}, "/time: needs last, from or to"),
    ],
)
def test_a_refusal_says_what_is_right(body: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body)
    assert str(caught.value) == message


def test_a_configured_bound_is_in_the_schema_too() -> None:
    limit = request_model(5).model_json_schema()["properties"]["limit"]
    assert (limit["maximum"], limit["default"]) == (5, 5)
    assert request_model(1_000).model_json_schema() == SearchRequest.model_json_schema()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "the syntax is wrong at character 1"),
        (b'"\xff"', "it is not UTF-8"),
        (b"[" * 60_000, "it is nested too deep"),
        (b"[NaN]", "NaN and Infinity are not JSON"),
        (b'{"a": 1, "a": 1}', "a key is given twice in one object"),
    ],
)
def test_bytes_that_are_not_json(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        decode_json(body)
    assert str(caught.value) == reason
