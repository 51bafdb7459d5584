"""Filters: what is accepted, what is refused and where."""

import math
from typing import Any

import pytest

from pipeline.query import InvalidRequest
from pipeline.query.request.filters import Equality, comparisons, values_of
from tests.support.rigs.search import leaf, parse_filter


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = leaf("eq", "a", 1)
    for _ in range(depth - 1):
        node = {"type": "and", "filters": [node]}
    return node


def negated(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = leaf("eq", "a", 1)
    for _ in range(depth - 1):
        node = {"type": "not", "filter": node}
    return node


@pytest.mark.parametrize(
    ("node", "at"),
    [
        ("lang == 'en'", "/filter"),
        ({"type": "and", "filters": [None]}, "/filter/filters/0"),
        ([], "/filter"),
        ({}, "/filter/type"),
        (leaf("like", "a", "b"), "/filter/type"),
        (leaf("EQ", "a", "b"), "/filter/type"),
        ({"type": ["eq"], "key": "a", "value": 1}, "/filter/type"),
        ({"type": "eq", "key": "a"}, "/filter/value"),
        ({"type": "eq", "value": 1}, "/filter/key"),
        ({**leaf("eq", "a", 1), "extra": 1}, "/filter/extra"),
        ({"type": "and", "filters": [], "a/b~": 1}, "/filter/a~1b~0"),
        (leaf("eq", "", 1), "/filter/key"),
        (leaf("eq", "$meta", 1), "/filter/key"),
        (leaf("eq", "a\nb", 1), "/filter/key"),
        (leaf("eq", "a" * 257, 1), "/filter/key"),
        (leaf("eq", "a\ud800", 1), "/filter/key"),
        (leaf("eq", "a", None), "/filter/value"),
        (leaf("eq", "a", [1]), "/filter/value"),
        (leaf("eq", "a", {"b": 1}), "/filter/value"),
        (leaf("eq", "a", math.nan), "/filter/value"),
        (leaf("eq", "a", math.inf), "/filter/value"),
        (leaf("eq", "a", 2**63), "/filter/value"),
        (leaf("in", "a", [1, 2**63]), "/filter/value/1"),
        (leaf("gt", "a", 2**63), "/filter/value"),
        (leaf("eq", "a", 1) | {"eq": 1}, "/filter/eq"),
        (leaf("eq", "a][b", 1), "/filter/key"),
        (nested(2_000), "/filter" + "/filters/0" * 8),
        (leaf("eq", "a", -(2**63)), "/filter/value"),
        (leaf("eq", "a", "\udfff"), "/filter/value"),
        (leaf("eq", "a", "x" * 8193), "/filter/value"),
        (leaf("gt", "a", True), "/filter/value"),
        (leaf("prefix", "a", 1), "/filter/value"),
        (leaf("prefix", "a", ""), "/filter/value"),
        (leaf("in", "a", 1), "/filter/value"),
        (leaf("in", "a", []), "/filter/value"),
        (leaf("in", "a", [1, None]), "/filter/value/1"),
        (leaf("in", "a", [0] * 1001), "/filter/value"),
        ({"type": "and"}, "/filter/filters"),
        ({"type": "and", "filters": []}, "/filter/filters"),
        ({"type": "or", "filters": [leaf("eq", "a", 1), 3]}, "/filter/filters/1"),
        ({"type": "and", "filters": [leaf("in", "a", [0] * 500)] * 3}, "/filter"),
        (nested(9), "/filter" + "/filters/0" * 8),
        (leaf("eq", [], 1), "/filter/key"),
        (leaf("eq", ["a"] * 9, 1), "/filter/key"),
        (leaf("eq", ["a", ""], 1), "/filter/key/1"),
        (leaf("eq", ["a" * 128, "b" * 129], 1), "/filter/key"),
        (leaf("eq", ["a", 1], 1), "/filter/key/1"),
        (leaf("eq", ["a", "0"], 1), "/filter/key/1"),
        (leaf("eq", ["a", "b][c"], 1), "/filter/key/1"),
        (leaf("eq", ["a", "$meta"], 1), "/filter/key/1"),
        (leaf("eq", {"a": 1}, 1), "/filter/key"),
        (leaf("contains", "a", [1]), "/filter/value"),
        (leaf("contains", "a", None), "/filter/value"),
        (leaf("contains_any", "a", 1), "/filter/value"),
        (leaf("contains_all", "a", []), "/filter/value"),
        (leaf("contains_all", "a", [1, {}]), "/filter/value/1"),
        (leaf("exists", "a", 1), "/filter/value"),
        ({"type": "exists"}, "/filter/key"),
        ({"type": "match", "value": "?!"}, "/filter/value"),
        ({"type": "match", "value": ""}, "/filter/value"),
        ({"type": "match", "value": "a", "words": "some"}, "/filter/words"),
        ({"type": "match", "value": "a", "key": "text"}, "/filter/key"),
        ({"type": "not"}, "/filter/filter"),
        ({"type": "not", "filter": 1}, "/filter/filter"),
        ({"type": "not", "filter": leaf("eq", ["a", 1], 1)}, "/filter/filter/key/1"),
        (
            {"type": "or", "filters": [{"type": "not", "filter": leaf("eq", "a", None)}]},
            "/filter/filters/0/filter/value",
        ),
        (negated(2_000), "/filter" + "/filter" * 8),
        ({"type": "match", "value": " ".join(map(str, range(1_001)))}, "/filter"),
    ],
)
def test_refused_where(node: object, at: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(node)
    assert caught.value.at == at
    assert caught.value.detail


def test_the_deepest_and_the_largest_allowed() -> None:
    (deepest,) = comparisons(parse_filter(nested(8)))
    assert deepest == Equality(type="eq", key="a", value=1)
    largest = {"type": "and", "filters": [leaf("in", "a", list(range(500)))] * 2}
    assert sum(len(values_of(part)) for part in comparisons(parse_filter(largest))) == 1000


@pytest.mark.parametrize(
    "node", [leaf("eq", "secret\0key", 1), "secret text", leaf("secret", "a", 1), leaf("in", "a", "secret")]
)
def test_messages_do_not_repeat_values(node: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(node)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("x", '/filter: must be an object such as {"type": "eq", "key": "lang", "value": "en"}'),
        (
            {},
            "/filter/type: must be one of eq, ne, gt, gte, lt, lte, in, nin, prefix, contains, contains_any, "
            "contains_all, exists, match, and, or, not",
        ),
        (leaf("eq", "a", 1) | {"keys": 1}, "/filter/keys: is not a known key; known are type, key, value"),
        ({"type": "eq", "key": "a"}, "/filter/value: is missing"),
        (leaf("eq", "a", [1]), "/filter/value: must be a string, a number or a boolean"),
        (leaf("eq", "a", 2**63), f"/filter/value: is beyond the integers Milvus stores (plus or minus {2**63 - 1})"),
        (leaf("eq", "a", math.inf), "/filter/value: must be a finite number"),
        (leaf("gt", "a", True), "/filter/value: must be a number or a string for gt, gte, lt and lte"),
        (leaf("prefix", "a", ""), "/filter/value: must have at least one character"),
        (leaf("in", "a", 1), "/filter/value: must be a list of values"),
        (leaf("in", "a", []), "/filter/value: must be a list of at least one value"),
        (leaf("in", "a", [0] * 1001), "/filter/value: holds 1,001 values; at most 1,000 are allowed"),
        (
            leaf("eq", "][", 1),
            "/filter/key: contains ][, where Milvus would cut it; rows cannot be filtered by such a name",
        ),
        (nested(9), "/filter" + "/filters/0" * 8 + ": is nested deeper than 8 levels"),
        ({"type": "or", "filters": [leaf("in", "a", [0] * 501)] * 2}, "/filter: holds more than 1,000 values"),
        (
            {"type": "or", "filters": [{"type": "and", "filters": [1] * 990}] * 3},
            "/filter: holds more than 2,000 parts",
        ),
        ({"type": "or", "filters": [leaf("in", "a", [{}] * 990)] * 3}, "/filter: holds more than 2,000 parts"),
        (
            leaf("eq", 1, 1),
            '/filter/key: must be a field name, or for a nested field a list of names such as ["customer", "city"]',
        ),
        (leaf("eq", ["a"] * 9, 1), "/filter/key: holds 9 field names; at most 8 are allowed"),
        (leaf("exists", "a", "yes"), "/filter/value: must be true or false"),
        ({"type": "match", "value": "a", "words": "some"}, "/filter/words: must be 'all' or 'any'"),
        ({"type": "match", "value": "?!"}, "/filter/value: holds no word"),
        (
            leaf("eq", ["a", "0"], 1),
            "/filter/key/1: is digits alone, which Milvus takes for a place in a list; rows cannot be filtered by such "
            "a path",
        ),
    ],
)
def test_a_refusal_says_what_is_right(node: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(node)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [True, 1, 1.0, "1"])
def test_a_value_keeps_its_type(value: object) -> None:
    for node in (leaf("eq", "a", value), leaf("in", "a", [value])):
        (parsed,) = values_of(next(comparisons(parse_filter(node))))
        assert (type(parsed), parsed) == (type(value), value)
