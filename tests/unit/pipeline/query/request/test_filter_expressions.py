"""Filters as Milvus expressions, and what does not fit a collection."""

import pytest

from pipeline.query import InvalidRequest
from pipeline.query.request.filter_expressions import FilterableFields, balanced, compile_filter
from pipeline.store import literal
from tests.support.rigs.search import leaf, parse_filter

FIELDS = FilterableFields(
    {"id": "string", "doc_id": "string", "chunk": "integer", "event_time": "integer", "vector": "other"}
)


def compiled(node: object) -> str:
    return compile_filter(parse_filter(node), FIELDS)


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
        (leaf("eq", "vector", 1), "/filter/key"),
        (leaf("eq", "chunk", "1"), "/filter/value"),
        (leaf("eq", "chunk", True), "/filter/value"),
        (leaf("gt", "chunk", 0.5), "/filter/value"),
        (leaf("eq", "chunk", 1e30), "/filter/value"),
        (leaf("eq", "doc_id", 7), "/filter/value"),
        (leaf("prefix", "chunk", "1"), "/filter/value"),
    ],
)
def test_what_does_not_fit_a_declared_field(node: object, at: str) -> None:
    for depth in range(2):
        nested = {"type": "or", "filters": [leaf("eq", "a", 1), node]} if depth else node
        with pytest.raises(InvalidRequest) as caught:
            compiled(nested)
        assert caught.value.at == at.replace("/filter", "/filter/filters/1" if depth else "/filter")
        assert caught.value.detail


def test_without_a_dynamic_field_an_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="chunk, doc_id"):
        compile_filter(parse_filter(leaf("eq", "lang", "en")), FilterableFields({**FIELDS.declared}, dynamic=False))


def test_a_tree_of_many_terms_is_shallow() -> None:
    expression = balanced(["t"] * 1000, "or")
    depth = deepest = 0
    for character in expression:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    assert deepest == 10
    assert expression.count("t") == 1000
