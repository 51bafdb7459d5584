"""Filters for any JSON: nothing of a value or name escapes its literal, and the published schema is the parser's."""

import json
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.query import InvalidRequest, parse_request, request_model
from pipeline.query.request.filter_expressions import FilterableFields, compile_filter
from pipeline.query.request.metadata_expressions import metadata_reference
from tests.support.rigs.search import leaf, parse_filter

FIELDS = FilterableFields({"doc_id": "string", "chunk": "integer", "vector": "other"})

HOSTILE = ['" or 1==1 or "', "\\", '\\"', '"]', '$meta["', "{x}", "%s", "\n", "\0", "😀", "'", "\\u0041", "or", ""]

scalars = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=20),
    st.booleans(),
    st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
names = st.one_of(
    st.sampled_from(["lang", "doc_id", "chunk", "a b", 'q"uo', "back\\slash", "ключ", '"] == 1 or $meta["x']),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
        lambda name: not name.startswith("$") and "][" not in name
    ),
)

inner_names = names.filter(lambda name: not name.isdigit())

leaves = st.one_of(
    st.builds(leaf, st.sampled_from(["eq", "ne"]), names, scalars),
    st.builds(leaf, st.sampled_from(["gt", "gte", "lt", "lte"]), names, scalars.filter(lambda v: type(v) is not bool)),
    st.builds(leaf, st.just("prefix"), names, st.text(min_size=1, max_size=8)),
    st.builds(leaf, st.sampled_from(["in", "nin"]), names, st.lists(scalars, min_size=1, max_size=5)),
    st.builds(leaf, st.sampled_from(["eq", "contains"]), st.lists(inner_names, min_size=1, max_size=8), scalars),
    st.builds(
        leaf, st.sampled_from(["contains_any", "contains_all"]), names, st.lists(scalars, min_size=1, max_size=5)
    ),
    st.builds(leaf, st.just("exists"), names, st.booleans()),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1, max_size=3)}
        ),
        st.fixed_dictionaries({"type": st.just("not"), "filter": inner}),
    ),
    max_leaves=8,
)

# A lexer of Milvus expressions that shares nothing with the compiler.
TOKENS = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\["\\nrt])*")|(?P<number>-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)'
    r"|(?P<word>\$meta|doc_id|chunk|exists|not|and|or|in|true|false|json_contains_any|id)|(?P<mark>==|!=|>=|<=|>|<|\(|\)|\[|\]|,))"
)


def tokens(expression: str) -> list[tuple[str, str]]:
    found, position = [], 0
    while position < len(expression):
        match = TOKENS.match(expression, position)
        assert match, f"no token at {expression[position:]!r}"
        assert match.lastgroup is not None
        found.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


def strings_of(node: Any) -> set[str]:
    if node["type"] in ("and", "or"):
        return set().union(*(strings_of(part) for part in node["filters"]))
    if node["type"] == "not":
        return strings_of(node["filter"])
    values = node["value"] if isinstance(node["value"], list) else [node["value"]]
    keys = node["key"] if isinstance(node["key"], list) else [node["key"]]
    return {*keys, *(value for value in values if isinstance(value, str))}


@given(filters)
@example(leaf("eq", '"] == 1 or $meta["x', '" or 1==1 or "'))
def test_only_literals_carry_what_the_user_wrote(node: dict[str, Any]) -> None:
    parsed = parse_filter(node)
    try:
        expression = compile_filter(parsed, FIELDS)
    except InvalidRequest:  # a value of another type for doc_id or chunk
        return
    found = tokens(expression)
    literals = {
        re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r", "t": "\t"}.get(m[1], m[1]), text[1:-1])
        for kind, text in found
        if kind == "string"
    }
    given_strings = strings_of(node)
    ends = literals - given_strings - {""}  # the upper ends of prefix ranges; "" is in `id != ""`
    assert len(ends) <= json.dumps(node).count('"prefix"')
    depth = 0
    for _, text in found:
        depth += {"(": 1, ")": -1, "[": 1, "]": -1}.get(text, 0)
        assert depth >= 0
    assert depth == 0


def path_of_milvus(reference: str) -> list[str]:
    """The keys that Milvus finds in `$meta[...]`, as its parser cuts them: at `][`, with no regard to quotes."""
    keys = []
    for part in reference.removeprefix("$meta").split("]["):
        quoted = part.strip("[]")
        assert len(quoted) > 2, "Milvus slices a lone quote, which ends the server"
        assert quoted[0] == quoted[-1] == '"'
        keys.append(json.loads(quoted))
    return keys


@given(st.one_of(st.text(']["\\a', min_size=1, max_size=12), names))
@example("][")
@example('a"][')
@example("]a[")
def test_milvus_reads_a_name_as_that_name_or_never_gets_it(name: str) -> None:
    if "][" in name:
        with pytest.raises(InvalidRequest, match=r"^/filter/key"):
            parse_filter(leaf("eq", name, "x"))
        with pytest.raises(ValueError, match="inside"):
            metadata_reference(name)
        return
    parsed = parse_filter(leaf("eq", name, "x"))
    assert path_of_milvus(metadata_reference(name)) == [name]
    sent = [text for kind, text in tokens(compile_filter(parsed, FilterableFields({}))) if kind == "string"]
    assert not any("][" in text for text in sent)


@given(st.lists(st.one_of(st.text(']["\\a', min_size=1, max_size=12), inner_names), min_size=1, max_size=8))
@example(["a]", "[b"])
def test_milvus_reads_a_path_as_that_path_or_never_gets_it(path: list[str]) -> None:
    if any("][" in name for name in path):
        with pytest.raises(InvalidRequest, match=r"^/filter/key/\d"):
            parse_filter(leaf("eq", path, "x"))
        return
    parse_filter(leaf("eq", path, "x"))
    assert path_of_milvus(metadata_reference(*path)) == path


anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), scalars, st.just(2**63), st.just("\ud800")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["type", "key", "value", "filters", "filter", "eq", "x"]), inner, max_size=4),
    ),
    max_leaves=12,
)
nodes = st.one_of(
    filters,
    anything,
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["eq", "gt", "in", "and", "like", "prefix", "not", "contains", "contains_any", "exists", "match"]
            ),
        },
        optional={
            "key": st.one_of(names, st.lists(names, max_size=3), st.just("a][b"), st.just(["a", "1"]), anything),
            "value": st.one_of(st.sampled_from(["a b", "?!", True]), anything),
            "words": st.sampled_from(["all", "any", "none"]),
            "filter": st.one_of(leaves, anything),
            "filters": st.lists(st.one_of(leaves, anything), max_size=2),
        },
    ),
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "query": st.one_of(st.just("q"), st.lists(st.just("q"), max_size=3), anything),
        "limit": st.one_of(st.integers(-1, 1002), anything),
        "time": st.one_of(st.just({"last": "24h"}), st.just({"from": "2026-01-01"}), st.just({}), st.just({"last": 3})),
        "filter": nodes,
        "fields": st.one_of(st.lists(names, max_size=3), anything),
        "group_by": st.sampled_from(["doc_id", None, "lang"]),
        "timeout_ms": st.integers(0, 70_000),
        "other": st.just(1),
    },
)


SCHEMA = jsonschema.Draft202012Validator(json.loads(json.dumps(request_model(1_000).model_json_schema())))


@given(bodies)
@example({"query": "q", "filter": leaf("eq", "a", 1.0)})
@example({"query": "q", "limit": True})
def test_what_the_parser_accepts_the_schema_accepts(body: dict[str, Any]) -> None:
    try:
        parse_request(body)
    except InvalidRequest as error:
        refused = error
    else:
        SCHEMA.validate(body)
        return
    assert refused.at.split("/")[1] in {*body, "query"}


BEYOND_A_SCHEMA = ("half a surrogate", "control characters", "is blank", "in its names together")
"""What the parser refuses and JSON Schema has no words for."""


@given(
    st.fixed_dictionaries({"query": st.just("q")}, optional={"filter": nodes, "fields": st.lists(names, max_size=3)})
)
def test_what_the_schema_accepts_the_parser_accepts(body: dict[str, Any]) -> None:
    if not SCHEMA.is_valid(body):
        return
    try:
        parse_request(body)
    except InvalidRequest as refused:
        # JSON Schema takes 2**63 for a number, and cannot count values over a whole filter.
        if not any(words in refused.detail for words in (*BEYOND_A_SCHEMA, "beyond the integers")):
            raise
