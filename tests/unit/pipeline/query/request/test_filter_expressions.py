"""Filters as Milvus expressions, and what does not fit a collection."""

import re
from dataclasses import replace

import pytest

from pipeline.query import InvalidRequest
from pipeline.query.request.filter_expressions import FilterableFields, compile_filter
from pipeline.query.request.metadata_expressions import balanced
from pipeline.store import capabilities_of, literal
from tests.support.rigs.search import leaf, parse_filter

FIELDS = FilterableFields(
    {"id": "string", "doc_id": "string", "chunk": "integer", "event_time": "integer", "vector": "other"}
)


def compiled(node: object, fields: FilterableFields = FIELDS) -> str:
    return compile_filter(parse_filter(node), fields)


def no(node: object) -> dict[str, object]:
    return {"type": "not", "filter": node}


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
        (leaf("eq", ["a.b", "c"], 1), '$meta["a.b"]["c"] == 1'),
        (leaf("exists", "a", True), '(exists $meta["a"])'),
        (leaf("exists", ["a", "b"], False), '(not (exists $meta["a"]["b"]))'),
        (leaf("exists", "chunk", True), 'id != ""'),
        (leaf("contains", "tags", "x"), 'json_contains_any($meta["tags"], ["x"])'),
        (
            leaf("contains", "tags", 2),
            '(json_contains_any($meta["tags"], [2]) or json_contains_any($meta["tags"], [2.0]))',
        ),
        (
            leaf("contains_any", "tags", ["x", True, "y"]),
            '(json_contains_any($meta["tags"], ["x", "y"]) or json_contains_any($meta["tags"], [true]))',
        ),
        (
            leaf("contains_all", "tags", ["x", "y"]),
            '(json_contains_any($meta["tags"], ["x"]) and json_contains_any($meta["tags"], ["y"]))',
        ),
        (no(leaf("gt", "a", 1)), '((not (exists $meta["a"])) or (not ($meta["a"] > 1)))'),
        (no(no(leaf("gt", "a", 1))), '$meta["a"] > 1'),
        (no(leaf("ne", "a", 1)), '$meta["a"] == 1'),
        (no(leaf("eq", "chunk", 1)), "chunk != 1"),
        (no(leaf("gte", "chunk", 1)), "not (chunk >= 1)"),
        (no(leaf("nin", "chunk", [1])), "(chunk in [1])"),
        (no(leaf("prefix", "doc_id", "\U0010ffff")), 'not (doc_id >= "\U0010ffff")'),
        (
            no({"type": "and", "filters": [leaf("eq", "chunk", 1), no(leaf("eq", "chunk", 2))]}),
            "(chunk != 1 or chunk == 2)",
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
        (leaf("contains", "doc_id", "a"), "/filter/key"),
        (leaf("eq", ["doc_id", "a"], "a"), "/filter/key/1"),
        (leaf("exists", "vector", True), "/filter/key"),
        ({"type": "match", "value": "a"}, "/filter/type"),
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


LITE = replace(FIELDS, server=capabilities_of((3, 2, 2), lite=True))


@pytest.mark.parametrize(
    "key", ["content-type", "a b", "größe", "Null", "exists", "1st", "_seq", 'x"], 1)', ["or", "tags"], ["a.b", "c"]]
)
def test_lite_looks_into_lists_of_plain_names_only(key: object) -> None:
    with pytest.raises(InvalidRequest, match="Milvus Lite cannot look into") as caught:
        compiled(no({"type": "or", "filters": [leaf("contains", key, "a")]}), LITE)
    assert caught.value.at == "/filter/filter/filters/0/key"
    assert compiled(leaf("contains", key, "a")).startswith("json_contains_any($meta[")


def test_on_lite_texts_that_are_json_stay_texts() -> None:
    assert compiled(leaf("contains", "tags", "a"), LITE) == (
        '(json_contains_any(tags, ["a"]) and not ($meta["tags"] like "%"))'
    )
    assert compiled(leaf("eq", ["a", "b"], 1), LITE) == '($meta["a"]["b"] == 1 and not ($meta["a"] like "%"))'


def test_a_field_that_may_be_null_is_not_in_every_row() -> None:
    fields = replace(FIELDS, nullable=frozenset(["chunk"]))
    assert compiled(leaf("ne", "chunk", 1), fields) == "(chunk is null or chunk != 1)"
    assert compiled(no(leaf("gt", "chunk", 1)), fields) == "(chunk is null or not (chunk > 1))"
    assert compiled(leaf("exists", "chunk", False), fields) == "chunk is null"


def test_words_are_matched_where_the_collection_can() -> None:
    fields = replace(FIELDS, words=re.compile(r"\w+"), server=capabilities_of((2, 5, 0), lite=False))
    node = {"type": "match", "value": 'refund "failed", refund'}
    assert compiled(node, fields) == '(text_match(text, "refund") and text_match(text, "failed"))'
    assert compiled({**node, "words": "any"}, fields) == 'text_match(text, "refund failed")'
    assert compiled(no({**node, "words": "any"}), fields) == 'not (text_match(text, "refund failed"))'
    with pytest.raises(InvalidRequest, match=r"created with milvus.enable_match: true, and this one was not"):
        compiled(node, replace(fields, words=None))
    with pytest.raises(InvalidRequest, match=r"needs Milvus 2\.5 or newer"):
        compiled(node)
