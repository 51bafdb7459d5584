"""Filters: what is accepted, what is refused and where, and the expressions."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.query.filters import FilterableFields, balanced, comparisons, compile_filter, parse_filter
from pipeline.query.limits import InvalidRequest, Limits
from pipeline.store import literal

LIMITS = Limits()
CATALOGUE = FilterableFields(
    {"id": "string", "doc_id": "string", "chunk": "integer", "event_time": "integer", "vector": "other"}
)


def compiled(node: object) -> str:
    return compile_filter(parse_filter(node, LIMITS), CATALOGUE)


def leaf(kind: str, key: str, value: object) -> dict[str, object]:
    return {"type": kind, "key": key, "value": value}


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = leaf("eq", "a", 1)
    for _ in range(depth - 1):
        node = {"type": "and", "filters": [node]}
    return node


@pytest.mark.parametrize(
    ("node", "expression"),
    [
        (leaf("eq", "doc_id", "a"), 'doc_id == "a"'),
        (leaf("ne", "chunk", 3), "chunk != 3"),
        (leaf("gte", "chunk", 3.0), "chunk >= 3"),
        (leaf("in", "chunk", [1, 2.0]), "(chunk in [1, 2])"),
        (leaf("nin", "doc_id", ["a"]), 'not (doc_id in ["a"])'),
        (leaf("eq", "content-type", True), '$meta["content-type"] == true'),
        (leaf("lt", "price", 1.5), '$meta["price"] < 1.5'),
        (leaf("ne", "lang", "en"), '((not (exists $meta["lang"])) or $meta["lang"] != "en")'),
        (leaf("in", "lang", ["en", "de"]), '($meta["lang"] == "en" or $meta["lang"] == "de")'),
        (
            leaf("nin", "lang", ["en", 1]),
            '((not (exists $meta["lang"])) or ($meta["lang"] != "en" and $meta["lang"] != 1))',
        ),
        (leaf("prefix", "doc_id", "ab"), '(doc_id >= "ab" and doc_id < "ac")'),
        (leaf("prefix", "x", "a\ud7ff"), '($meta["x"] >= "a\ud7ff" and $meta["x"] < "a\ue000")'),
        (leaf("prefix", "x", "a\U0010ffff"), '($meta["x"] >= "a\U0010ffff" and $meta["x"] < "b")'),
        (leaf("prefix", "x", "\U0010ffff"), '$meta["x"] >= "\U0010ffff"'),
        (
            {"type": "or", "filters": [leaf("eq", "a", 1), leaf("eq", "b", 2), leaf("eq", "c", 3)]},
            '($meta["a"] == 1 or ($meta["b"] == 2 or $meta["c"] == 3))',
        ),
    ],
)
def test_expression(node: object, expression: str) -> None:
    assert compiled(node) == expression


def test_a_value_stays_one_literal() -> None:
    assert literal('x" or id != "\n\\\0') == '"x\\" or id != \\"\\n\\\\\0"'
    assert compiled(leaf("eq", 'k"] == 1 or $meta["z', "v")) == '$meta["k\\"] == 1 or $meta[\\"z"] == "v"'


@pytest.mark.parametrize(
    ("node", "at"),
    [
        ("lang == 'en'", "/filter"),
        (None, "/filter"),
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
        (leaf("eq", "vector", 1), "/filter/key"),
        (leaf("eq", "chunk", "1"), "/filter/value"),
        (leaf("eq", "chunk", True), "/filter/value"),
        (leaf("gt", "chunk", 0.5), "/filter/value"),
        (leaf("eq", "chunk", 1e30), "/filter/value"),
        (leaf("eq", "doc_id", 7), "/filter/value"),
        (leaf("prefix", "chunk", "1"), "/filter/value"),
    ],
)
def test_refused_where(node: object, at: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiled(node)
    assert caught.value.at == at
    assert caught.value.detail


def test_the_deepest_and_the_largest_allowed() -> None:
    assert compiled(nested(8)) == '$meta["a"] == 1'
    largest = {"type": "and", "filters": [leaf("in", "a", list(range(500)))] * 2}
    assert sum(len(part.values) for part in comparisons(parse_filter(largest, LIMITS))) == 1000


@pytest.mark.parametrize("refusal", [lambda: compiled(leaf("eq", "secret\0key", 1)), lambda: compiled("secret text")])
def test_messages_do_not_repeat_values(refusal: Callable[[], str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        refusal()
    assert "secret" not in str(caught.value)


def test_without_a_dynamic_field_an_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="chunk, doc_id"):
        compile_filter(
            parse_filter(leaf("eq", "lang", "en"), LIMITS), FilterableFields({**CATALOGUE.declared}, dynamic=False)
        )


def test_a_tree_of_many_terms_is_shallow() -> None:
    expression = balanced(["t"] * 1000, "or")
    depth = deepest = 0
    for character in expression:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    assert deepest == 10
    assert expression.count("t") == 1000
