"""Hostile names and values in filters against real servers: every answer is exact, and the server outlives each."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from pipeline.query import InvalidRequest
from pipeline.query.request.filter_expressions import compile_filter, filterable_fields
from pipeline.query.request.filters import COMPARISONS, Operator
from pipeline.store import IndexSettings, connect, open_collection
from tests.support.names import unique
from tests.support.rigs.hostile import HOSTILE
from tests.support.rigs.search import parse_filter
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

HERE, FIELD = "here", "word"
DECLARED = ("id", "doc_id", "text", "event_time", "vector")
Rows = Mapping[int, Mapping[str, Any]]
Find = Callable[[object], set[int]]


def may_be_a_name(text: str) -> bool:
    """What the documentation says of names, in other words than the code."""
    controls = any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
    return len(text) <= 256 and not text.startswith("$") and not controls and "][" not in text


NAMES = [text for text in HOSTILE if may_be_a_name(text) and text not in DECLARED]


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def find(request: pytest.FixtureRequest) -> Iterator[Find]:
    """Numbers of the rows that a filter selects; row i carries string i in a field and, where it may, as a name."""
    with closing(connect(request.getfixturevalue(request.param))) as api:
        name = unique("hostile")
        info = open_collection(api, name, {"name": "test"}, 2, IndexSettings("FLAT"), create=True)
        try:
            api.upsert(name, None, [stored(index, text) for index, text in enumerate(HOSTILE)])
            eventually(lambda: len(api.query(name, "", ["id"], limit=1000)) == len(HOSTILE), what="rows visible")

            def matching(node: object) -> set[int]:
                expression = compile_filter(parse_filter(node), filterable_fields(info, api.server.capabilities))
                return {row["chunk"] for row in api.query(name, expression, ["chunk"], limit=1000)}

            yield matching
            assert len(api.query(name, "", ["id"], limit=1000)) == len(HOSTILE)
        finally:
            api.drop_collection(name)


def stored(index: int, text: str) -> dict[str, Any]:
    return {
        "id": f"{index:064x}",
        "doc_id": f"document {index}",
        "chunk": index,
        "text": "text",
        "vector": np.ones(2, np.float32),
        "event_time": 0,
        "kafka_topic": "t",
        "kafka_partition": 0,
        "kafka_offset": index,
        FIELD: text,
        "words": ["x", text],
        "inside": {"word": text, "words": [text], **({text: HERE} if text in NAMES else {})},
        **({text: HERE} if text in NAMES else {}),
    }


def node(operator: Operator, key: str, value: str) -> dict[str, Any]:
    return {"type": operator, "key": key, "value": [value] if operator in ("in", "nin") else value}


def selected(operator: Operator, value: str) -> set[int]:
    """Rows whose field compares so; strings are ordered by their UTF-8 bytes."""
    compare: dict[Operator, Callable[[bytes, bytes], bool]] = {
        "eq": lambda a, b: a == b,
        "in": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "nin": lambda a, b: a != b,
        "gt": lambda a, b: a > b,
        "gte": lambda a, b: a >= b,
        "lt": lambda a, b: a < b,
        "lte": lambda a, b: a <= b,
        "prefix": lambda a, b: a.startswith(b),
    }
    return {i for i, text in enumerate(HOSTILE) if compare[operator](text.encode(), value.encode())}


@pytest.mark.parametrize("operator", COMPARISONS)
def test_every_string_as_a_value(find: Find, operator: Operator) -> None:
    for text in HOSTILE:
        assert find(node(operator, FIELD, text)) == selected(operator, text), text


@pytest.mark.parametrize("operator", COMPARISONS)
def test_every_string_as_a_name(find: Find, operator: Operator) -> None:
    everything = set(range(len(HOSTILE)))
    for text in NAMES:
        index = HOSTILE.index(text)
        holds = operator not in ("ne", "nin", "gt", "lt")
        wanted = {index} if holds else everything - {index} if operator in ("ne", "nin") else set()
        assert find(node(operator, text, HERE)) == wanted, text


def test_every_string_in_a_list(find: Find) -> None:
    for text in HOSTILE:
        for key in ("words", ["inside", "words"]):
            assert find({"type": "contains", "key": key, "value": text}) == {HOSTILE.index(text)}, text
    assert find({"type": "contains_any", "key": "words", "value": list(HOSTILE)}) == set(range(len(HOSTILE)))
    assert find({"type": "contains_all", "key": "words", "value": list(HOSTILE)}) == set()


def test_every_string_inside_an_object(find: Find) -> None:
    everything = set(range(len(HOSTILE)))
    for text in HOSTILE:
        index = HOSTILE.index(text)
        inside = {"type": "eq", "key": ["inside", "word"], "value": text}
        assert find(inside) == {index}, text
        assert find({"type": "not", "filter": inside}) == everything - {index}, text
    for text in [text for text in NAMES if not (text.isascii() and text.isdigit())]:
        exists = {"type": "exists", "key": ["inside", text]}
        others = everything if text in ("word", "words") else {HOSTILE.index(text)}
        assert find(exists) == others, text
        assert find({**exists, "value": False}) == everything - others, text


def test_every_string_as_the_name_of_a_list(find: Find) -> None:
    """Where a server cannot look into it, the request is refused; nothing else is found, and the server goes on."""
    refusals = []
    for text in NAMES:
        try:
            assert find({"type": "contains", "key": text, "value": HERE}) == set(), text
        except InvalidRequest as refused:
            refusals.append(refused)
    assert len(refusals) < len(NAMES)
    assert {refused.at for refused in refusals} <= {"/filter/key"}
    assert all("cannot look into" in refused.detail for refused in refusals)


def test_every_other_string_is_refused_as_a_name(find: Find) -> None:
    for text in HOSTILE:
        if not may_be_a_name(text):
            with pytest.raises(InvalidRequest) as caught:
                find(node("eq", text, HERE))
            assert caught.value.at == "/filter/key"


def test_all_names_in_one_filter(find: Find) -> None:
    parts = [node("eq", text, HERE) for text in NAMES]
    assert find({"type": "or", "filters": parts}) == {HOSTILE.index(text) for text in NAMES}
