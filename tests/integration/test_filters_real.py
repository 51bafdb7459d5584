"""Compiled filters against real servers: they select exactly the rows that Python selects."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from pipeline.query.request.filter_expressions import FilterableFields, compile_filter, filterable_fields
from pipeline.store import IndexSettings, MilvusApi, connect, open_collection
from tests.support.examples import examples
from tests.support.rigs.search import leaf, parse_filter
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

ROWS = 200
HOSTILE = [
    '"', "'", "\\", '\\"', "\\\\", "\n", "\r\n", "\t", "\0", "a\0b", "\x01\x1f\x7f\x80", "\b\f\v", "\u2028", "\ufeff",
    "é", "e\u0301", "😀", "\U0010ffff", "\ud7ff", "\ue000", '" or 1==1 or "', '") or (doc_id != "', "{x}", "{{}}",
    "%", "_", "a%b", "a_b", "\\n", "\\u0041", "$meta", "]", '"] == 1', "", " ", "  ", "true", "null", "1", "/", "//",
    "--", "#", ";",
    "x" * 3000,
]  # fmt: skip
KEYS = ["word", "content-type", 'q"uo\\te', "schlüssel", "a b", "a.b", "a[0]", "or", "😀"]


@dataclass(frozen=True)
class Stored:
    api: MilvusApi
    collection: str
    fields: FilterableFields
    rows: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """By id, fields and metadata together."""

    def matching(self, node: object) -> set[str]:
        expression = compile_filter(parse_filter(node), self.fields)
        return {row["id"] for row in self.api.query(self.collection, expression, ["id"], limit=ROWS)}


def metadata(index: int, rng: random.Random) -> dict[str, Any]:
    """Rows that lack fields, and a field of several types; numbers and booleans never share one (Lite)."""
    alphabet = '"\\ab%_\n\0é😀{}'
    made: dict[str, Any] = {
        rng.choice(KEYS): HOSTILE[index % len(HOSTILE)],
        "word": "".join(rng.choices(alphabet, k=rng.randint(0, 4))),
        "number": rng.choice([rng.randint(-5, 5), rng.uniform(-5, 5), 2.0, -0.0, 1e300, 5e-324]),
        "big": rng.choice([2**53, 2**53 + 1, 2**63 - 1, -(2**63) + 1, 0]),
        "flag": rng.random() < 0.5,
        "mixed": rng.choice(["1", "a", 1, 2.5]),
        "nothing": None,
        "list": ["a", 1],
        "object": {"word": "a"},
        "tags": rng.sample([*HOSTILE[:20], "a", "b", 1, 2, 2.0, 2.5, -1], rng.randint(0, 4)),
        "switches": rng.choice([[True], [False, True], [], True, "true", ["true"]]),
        "json": rng.choice(['["a", 1]', '{"word": "a", "tags": ["a"]}', "a", ["a", 1], {"word": "a", "tags": ["a"]}]),
        "customer": rng.choice([customer(rng), customer(rng), customer(rng), "a", 1, ["a"], '{"city": "a"}']),
    }
    return {key: value for key, value in made.items() if rng.random() < 0.8}


def customer(rng: random.Random) -> dict[str, Any]:
    """An object with fields inside; some are missing."""
    made: dict[str, Any] = {
        "city": rng.choice(["a", "b", "Ulm", 7]),
        "a.b": rng.choice(HOSTILE),
        'q"uo\\te': "a",
        "number": rng.choice([-1, 0, 2.5, 7]),
        "tags": rng.choice([["a"], ["a", "b"], [1, 2.5], "a", '["a"]']),
        "deep": {"er": {"city": rng.choice(["a", "b"])}},
    }
    return {key: value for key, value in made.items() if rng.random() < 0.8}


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def stored(request: pytest.FixtureRequest, unique_collection: Callable[[], str]) -> Iterator[Stored]:
    api = connect(request.getfixturevalue(request.param))
    name = unique_collection()
    info = open_collection(api, name, {"name": "test"}, 2, IndexSettings("FLAT"), create=True)
    rng = random.Random(7)
    rows: dict[str, dict[str, Any]] = {}
    for index in range(ROWS):
        fields: dict[str, Any] = {
            "id": f"{index:064x}",
            "doc_id": HOSTILE[index % len(HOSTILE)][:200] or "empty",
            "chunk": index % 7,
            "text": "text",
            "event_time": 1_795_336_200_000 + index,
            "kafka_topic": "t",
            "kafka_partition": 0,
            "kafka_offset": index,
        }
        rows[fields["id"]] = {**fields, **metadata(index, rng)}
    try:
        api.upsert(name, None, [{**row, "vector": np.ones(2, np.float32)} for row in rows.values()])
        eventually(lambda: len(api.query(name, "chunk >= 0", ["id"], limit=1000)) == ROWS, what="rows visible")
        yield Stored(api, name, filterable_fields(info, api.server.capabilities), rows)
    finally:
        api.drop_collection(name)
        api.close()


@pytest.fixture(scope="module")
def unique_collection() -> Callable[[], str]:
    from tests.support.names import unique

    return lambda: unique("filters")


# --- the oracle -------------------------------------------------------------------------------------------------


def kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def reach(row: Mapping[str, Any], key: str | list[str]) -> Any:
    """The value of a field; None where the row does not have it."""
    found: Any = row
    for name in [key] if isinstance(key, str) else key:
        if not isinstance(found, dict | Mapping):
            return None
        found = found.get(name)
    return found


def same(found: object, value: object) -> bool:
    return kind(found) == kind(value) and bool(found == value)


def oracle(node: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """What the documentation of the filters says, in Python."""
    match node["type"]:
        case "and":
            return all(oracle(part, row) for part in node["filters"])
        case "or":
            return any(oracle(part, row) for part in node["filters"])
        case "not":
            return not oracle(node["filter"], row)
    return compared(node["type"], reach(row, node["key"]), node["value"])


def compared(operator: str, found: Any, value: Any) -> bool:
    """What a comparison says of the value of a field; None: the row does not have it."""
    if operator == "exists":
        return (found is not None) is value
    values = value if isinstance(value, list) else [value]
    if operator in ("eq", "ne", "in", "nin"):
        return any(same(found, one) for one in values) == (operator in ("eq", "in"))
    if operator.startswith("contains"):
        held = found if isinstance(found, list) else []
        contained = [any(same(element, one) for element in held) for one in values]
        return all(contained) if operator == "contains_all" else any(contained)
    if found is None or kind(found) != kind(value):
        return False
    if operator == "prefix":
        return bool(found.startswith(value))
    return bool({"gt": found > value, "gte": found >= value, "lt": found < value, "lte": found <= value}[operator])


def expected(stored: Stored, node: Mapping[str, Any]) -> set[str]:
    return {name for name, row in stored.rows.items() if oracle(node, row)}


# --- generated filters ------------------------------------------------------------------------------------------

texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.sampled_from('"\\ab%_\n\0é😀{}'), max_size=4))
numbers = st.one_of(
    st.integers(-6, 6), st.floats(-6, 6), st.sampled_from([1e300, 5e-324, -0.0, 2.0, 1e-7, 1e22, 2.5, -1e16])
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(KEYS, texts),
    "number": st.one_of(numbers, texts),
    "big": st.one_of(
        st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63) + 1]), st.integers(-(2**63) + 1, 2**63 - 1)
    ),
    "flag": st.one_of(st.booleans(), texts),
    "mixed": st.one_of(st.sampled_from(["1", "a", 1, 2.5, 3]), texts),
    "nothing": texts,
    "list": texts,
    "object": texts,
    "absent": st.one_of(texts, numbers, st.booleans()),
    "json": texts,
    "tags": texts,
    "customer": texts,
    "doc_id": texts,
    "chunk": st.one_of(st.integers(-1, 8), st.integers(-1, 8).map(float)),
    "event_time": st.integers(1_795_336_200_000 - 2, 1_795_336_200_000 + ROWS + 2),
    "kafka_offset": st.integers(-1, ROWS),
}


NESTED: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("customer", "city"): st.one_of(st.sampled_from(["a", "b", "Ulm", 7]), texts),
    ("customer", "a.b"): texts,
    ("customer", 'q"uo\\te'): st.sampled_from(["a", "b"]),
    ("customer", "number"): st.one_of(st.integers(-2, 8), st.sampled_from([2.5, -0.5])),
    ("customer", "tags"): texts,
    ("customer", "deep", "er", "city"): st.sampled_from(["a", "b", 1]),
    ("customer", "city", "none"): texts,
    ("json", "word"): st.sampled_from(["a", "b"]),
    ("absent", "word"): texts,
    ("object",): texts,
}
LISTS: list[str | list[str]] = [
    "tags", "list", "json", "word", "absent", "mixed", "object", ["customer", "tags"], ["json", "tags"], ["json"],
]  # fmt: skip
"""Lite looks into lists of plain names only."""
elements = st.one_of(st.sampled_from(["a", "b", 1, 2, 2.0, 2.5, -1, 3, *HOSTILE[:20]]), texts)


@st.composite
def list_leaves(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["contains", "contains_any", "contains_all"]))
    if draw(st.integers(0, 3)) == 0:
        key, values = "switches", st.one_of(st.booleans(), st.sampled_from(["true", "a"]))
    else:
        key, values = draw(st.sampled_from(LISTS)), elements  # type: ignore[assignment]
    value = draw(values) if operator == "contains" else draw(st.lists(values, min_size=1, max_size=3))
    return {"type": operator, "key": key, "value": value}


@st.composite
def existence_leaves(draw: st.DrawFn) -> dict[str, Any]:
    keys = [key for key in VALUES if key != "nothing"] + [list(path) for path in NESTED]
    return {"type": "exists", "key": draw(st.sampled_from(keys)), "value": draw(st.booleans())}


@st.composite
def leaves(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        key: Any = draw(st.sampled_from(sorted(VALUES)))
        values = VALUES[key]
    else:
        path = draw(st.sampled_from(sorted(NESTED)))
        key, values = list(path), NESTED[path]
    operator = draw(st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "prefix"]))
    if operator in ("in", "nin"):
        return {"type": operator, "key": key, "value": draw(st.lists(values, min_size=1, max_size=4))}
    value = draw(values)
    if operator == "prefix" and (not isinstance(value, str) or not value):
        operator = "eq"
    if isinstance(value, bool) and operator not in ("eq", "ne"):
        operator = "ne"
    return {"type": operator, "key": key, "value": value}


filters = st.recursive(
    st.one_of(leaves(), leaves(), list_leaves(), existence_leaves()),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1, max_size=3)}
        ),
        st.fixed_dictionaries({"type": st.just("not"), "filter": inner}),
    ),
    max_leaves=6,
)
bounded = examples(1, suppress_health_check=[HealthCheck.too_slow])


@bounded
@given(node=filters)
@example(node={"type": "ne", "key": "nothing", "value": "a"})
@example(node={"type": "nin", "key": "absent", "value": ["a", True]})
@example(node={"type": "prefix", "key": "word", "value": "%"})
@example(node={"type": "eq", "key": ["json", "word"], "value": "a"})
@example(node={"type": "or", "filters": [leaf("exists", "word", True), leaf("eq", "absent", "a")]})
@example(node={"type": "and", "filters": [leaf("exists", "word", False), leaf("exists", "tags", False)]})
@example(node={"type": "contains", "key": "json", "value": "a"})
def test_the_server_agrees_with_python(stored: Stored, node: dict[str, Any]) -> None:
    assert stored.matching(node) == expected(stored, node)
    assert stored.matching({"type": "not", "filter": node}) == set(stored.rows) - expected(stored, node)


LEAVES: list[dict[str, Any]] = [
    leaf("gt", "word", 1), leaf("lte", "big", "a"), leaf("gte", "absent", 1), leaf("lt", "flag", "a"),
    leaf("eq", "word", "a"), leaf("ne", "mixed", 1), leaf("gt", "number", 1), leaf("gte", "number", -0.0),
    leaf("lt", "mixed", "b"), leaf("lte", "mixed", 2), leaf("in", "mixed", ["1", 2.5]), leaf("nin", "flag", [True]),
    leaf("prefix", "word", "a"), leaf("prefix", "mixed", "\U0010ffff"), leaf("gt", "list", "a"), leaf("lt", "list", 5),
    leaf("eq", "object", "a"), leaf("gt", "nothing", "a"), leaf("contains", "tags", "a"), leaf("contains", "tags", 2),
    leaf("contains", "tags", 2.0), leaf("contains", "tags", 2.5), leaf("contains", "switches", True),
    leaf("contains_any", "tags", ["a", 1, 2.5, '"']), leaf("contains_all", "tags", ["a", "b"]),
    leaf("contains_all", "list", ["a", 1]), leaf("contains", ["customer", "tags"], "a"),
    leaf("contains", ["json", "tags"], "a"), leaf("eq", ["customer", "city"], "a"), leaf("ne", ["customer", "city"], 7),
    leaf("gt", ["customer", "number"], 0), leaf("prefix", ["customer", "a.b"], "a"),
    leaf("in", ["customer", "deep", "er", "city"], ["a", 1]), leaf("exists", "word", True),
    leaf("exists", "tags", False), leaf("exists", ["customer", "city"], True), leaf("exists", ["json", "word"], True),
    leaf("exists", "doc_id", True), leaf("eq", "chunk", 3), leaf("gt", "chunk", 3), leaf("prefix", "doc_id", "a"),
    leaf("in", "chunk", [1, 2]),
]  # fmt: skip


@pytest.mark.parametrize("node", LEAVES, ids=str)
def test_not_is_the_exact_opposite(stored: Stored, node: dict[str, Any]) -> None:
    negated = {"type": "not", "filter": node}
    assert stored.matching(node) == expected(stored, node)
    assert stored.matching(negated) == set(stored.rows) - expected(stored, node)
    assert stored.matching({"type": "not", "filter": negated}) == expected(stored, node)


def test_a_null_is_no_value_and_exists_on_old_servers(stored: Stored) -> None:
    null = {name for name, row in stored.rows.items() if "nothing" in row}
    assert stored.matching(leaf("exists", "nothing", True)) == (set() if stored.api.server.lite else null)
    assert stored.matching(leaf("ne", "nothing", "a")) == set(stored.rows)


def test_of_an_object_lite_knows_no_order_and_no_opposite(stored: Stored) -> None:
    objects = {name for name, row in stored.rows.items() if "object" in row}
    others = stored.matching({"type": "not", "filter": leaf("gt", "object", 1)})
    assert set(stored.rows) - others == (objects if stored.api.server.lite else set())


@bounded
@given(value=st.one_of(texts, st.text()))
def test_a_list_contains_exactly_that_string(stored: Stored, value: str) -> None:
    node = leaf("contains", "tags", value)
    assert stored.matching(node) == expected(stored, node)


@bounded
@given(value=st.one_of(texts, st.text()), key=st.sampled_from([*KEYS, "doc_id"]))
def test_eq_finds_exactly_the_rows_with_that_string(stored: Stored, value: str, key: str) -> None:
    found = stored.matching({"type": "eq", "key": key, "value": value})
    assert found == {name for name, row in stored.rows.items() if row.get(key) == value}


@bounded
@given(
    key=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20).filter(
        lambda key: "][" not in key
    )
)
@example(key='x"] == 1 or doc_id != "')
@example(key="a\\")
def test_no_name_selects_a_row_that_lacks_it(stored: Stored, key: str) -> None:
    node = {"type": "eq", "key": f"_{key}", "value": "a"}
    assert stored.matching(node) == set()
    assert stored.matching({**node, "type": "ne"}) == set(stored.rows)


@pytest.mark.parametrize("value", HOSTILE)
def test_every_hostile_string_is_found_where_it_is(stored: Stored, value: str) -> None:
    name = value[:200] or "empty"
    found = stored.matching({"type": "eq", "key": "doc_id", "value": name})
    assert found == {key for key, row in stored.rows.items() if row["doc_id"] == name}
    assert found


def test_the_largest_filter_is_answered_in_time(stored: Stored) -> None:
    values = [f"value {number}" for number in range(998)]
    words, chunks = {"type": "nin", "key": "word", "value": values}, {"type": "ne", "key": "chunk", "value": 3}
    node: dict[str, Any] = {"type": "and", "filters": [words, chunks]}
    assert stored.matching(node) == expected(stored, node)
    for operator in ("contains_any", "contains_all"):
        node = {"type": "not", "filter": leaf(operator, "tags", [*values, 1, "a"])}
        assert stored.matching(node) == expected(stored, node)
