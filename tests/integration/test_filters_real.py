"""Compiled filters against real servers: they select exactly the rows that Python selects."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from pipeline.query.request.filter_expressions import FilterableFields, compile_filter, filterable_fields
from pipeline.store import IndexSettings, MilvusApi, connect, open_collection
from tests.support.examples import examples
from tests.support.rigs.search import parse_filter
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
    rows: Mapping[str, Mapping[str, Any]]
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


def equal(row: Mapping[str, Any], key: str, value: object) -> bool:
    return key in row and kind(row[key]) == kind(value) and bool(row[key] == value)


def oracle(node: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """What the documentation of the filters says, in Python."""
    if node["type"] in ("and", "or"):
        parts = [oracle(part, row) for part in node["filters"]]
        return all(parts) if node["type"] == "and" else any(parts)
    key, value = node["key"], node["value"]
    if node["type"] in ("eq", "ne", "in", "nin"):
        values = value if isinstance(value, list) else [value]
        return any(equal(row, key, one) for one in values) == (node["type"] in ("eq", "in"))
    found = row.get(key)
    if found is None or kind(found) != kind(value):
        return False
    if node["type"] == "prefix":
        return bool(found.startswith(value))
    results = {"gt": found > value, "gte": found >= value, "lt": found < value, "lte": found <= value}
    return bool(results[node["type"]])


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
    "doc_id": texts,
    "chunk": st.one_of(st.integers(-1, 8), st.integers(-1, 8).map(float)),
    "event_time": st.integers(1_795_336_200_000 - 2, 1_795_336_200_000 + ROWS + 2),
    "kafka_offset": st.integers(-1, ROWS),
}


@st.composite
def leaves(draw: st.DrawFn) -> dict[str, Any]:
    key = draw(st.sampled_from(sorted(VALUES)))
    operator = draw(st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "prefix"]))
    if operator in ("in", "nin"):
        return {"type": operator, "key": key, "value": draw(st.lists(VALUES[key], min_size=1, max_size=4))}
    value = draw(VALUES[key])
    if operator == "prefix" and (not isinstance(value, str) or not value):
        operator = "eq"
    if isinstance(value, bool) and operator not in ("eq", "ne"):
        operator = "ne"
    return {"type": operator, "key": key, "value": value}


filters = st.recursive(
    leaves(),
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1, max_size=3)}
    ),
    max_leaves=6,
)
bounded = examples(1, suppress_health_check=[HealthCheck.too_slow])


@bounded
@given(node=filters)
@example(node={"type": "ne", "key": "nothing", "value": "a"})
@example(node={"type": "nin", "key": "absent", "value": ["a", True]})
@example(node={"type": "prefix", "key": "word", "value": "%"})
def test_the_server_agrees_with_python(stored: Stored, node: dict[str, Any]) -> None:
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
    node = {"type": "and", "filters": [words, chunks]}
    assert stored.matching(node) == expected(stored, node)
