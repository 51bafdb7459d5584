"""Requests packed by column are those pymilvus would send, byte for byte."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymilvus import DataType
from pymilvus.client.prepare import Prepare

from pipeline.store.collection.schema import ledger_spec
from pipeline.store.milvus.column_packing import pack_upserts, upsert_request
from pipeline.store.writing.ledger.ledger_rows import entry_row
from pipeline.store.writing.protocol.decisions import DocumentHashes, final
from pipeline.store.writing.rows import document_rows
from tests.support.documents import embedded, put
from tests.support.examples import examples

DOCUMENTS: dict[str, Any] = {
    "enable_dynamic_field": True,
    "fields": [
        {"name": "id", "type": DataType.VARCHAR, "params": {"max_length": 64}},
        {"name": "doc_id", "type": DataType.VARCHAR, "params": {"max_length": 1024}},
        {"name": "chunk", "type": DataType.INT64, "params": {}},
        {"name": "text", "type": DataType.VARCHAR, "params": {"max_length": 65535}},
        {"name": "vector", "type": DataType.FLOAT_VECTOR, "params": {"dim": 8}},
        {"name": "event_time", "type": DataType.INT64, "params": {}},
        {"name": "sparse", "type": DataType.SPARSE_FLOAT_VECTOR, "params": {}, "is_function_output": True},
    ],
}
LEDGER: dict[str, Any] = {
    "enable_dynamic_field": False,
    "fields": [
        {"name": field.name, "type": DataType[field.type], "params": {"max_length": field.max_length, "dim": 2}}
        for field in ledger_spec("docs").fields
    ],
}


def theirs(rows: list[Any], schema: dict[str, Any]) -> bytes:
    request = Prepare.row_upsert_param(
        "c", rows, "p", schema["fields"], [], enable_dynamic=schema["enable_dynamic_field"], schema_timestamp=7
    )
    serialized: bytes = request.SerializeToString(deterministic=True)
    return serialized


def ours(rows: list[Any], schema: dict[str, Any]) -> bytes:
    serialized: bytes = upsert_request("c", "p", rows, schema, 7).SerializeToString(deterministic=True)
    return serialized


plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
json_values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))


@examples(0.5)
@given(st.lists(st.tuples(st.text(max_size=30), st.dictionaries(st.text(), json_values, max_size=3)), min_size=1))
def test_documents(contents: list[tuple[str, dict[str, Any]]]) -> None:
    rows = [
        row
        for number, (text, metadata) in enumerate(contents)
        for row in document_rows(embedded(put(f"d{number}", f"x{text} y", number, metadata=metadata)), "d20261122")
    ]
    assert ours(rows, DOCUMENTS) == theirs(rows, DOCUMENTS)


def test_the_ledger_and_a_long_request() -> None:
    facts = DocumentHashes("c" * 32, "r" * 32, "d20261122")
    entries = [final(put(f"k{n}", "x", n, version=n or None), facts, {"d20261122": n}, "model") for n in range(300)]
    rows = [entry_row(entry) for entry in entries]
    assert ours(rows, LEDGER) == theirs(rows, LEDGER)


ADDED: dict[str, tuple[DataType, st.SearchStrategy[Any]]] = {
    "team": (DataType.VARCHAR, st.text(max_size=5)),
    "price": (DataType.DOUBLE, st.floats(allow_nan=False)),
    "score": (DataType.FLOAT, st.floats(width=32, allow_nan=False)),
    "rank": (DataType.INT16, st.integers(-(2**15), 2**15 - 1)),
    "count": (DataType.INT64, st.integers(-(2**63), 2**63 - 1)),
    "hidden": (DataType.BOOL, st.booleans()),
    "image": (DataType.FLOAT_VECTOR, st.just(np.ones(4, dtype=np.float32))),
    # Of these kinds only nulls are packed; a row with a value is left to pymilvus.
    "facts": (DataType.JSON, st.none()),
    "tags": (DataType.ARRAY, st.none()),
    "small": (DataType.FLOAT16_VECTOR, st.none()),
    "words": (DataType.SPARSE_FLOAT_VECTOR, st.none()),
}


@examples(5)
@given(st.data(), st.sets(st.sampled_from(sorted(ADDED)), min_size=1), st.booleans())
def test_columns_that_an_operator_added(data: st.DataObject, names: set[str], nullable: bool) -> None:
    fields = [
        {"name": name, "type": ADDED[name][0], "params": {"dim": 4, "max_length": 64}, "element_type": DataType.INT64}
        | ({"nullable": True} if nullable else {"default_value": "0"})
        for name in sorted(names)
    ]
    schema = DOCUMENTS | {"fields": [*DOCUMENTS["fields"], *fields]}
    rows = []
    for number in range(data.draw(st.integers(1, 4))):
        row = dict(document_rows(embedded(put(f"d{number}", "text", number, metadata={"k": number})), "d20261122")[0])
        for name in names:
            match data.draw(st.sampled_from(["missing", "null", "value"])):
                case "null":
                    row[name] = None
                case "value":
                    row[name] = data.draw(ADDED[name][1])
        rows.append(row)
    assert ours(rows, schema) == theirs(rows, schema)


@pytest.mark.parametrize(
    "change",
    [
        {"text": 5},
        {"chunk": "1"},
        {"vector": np.ones(7, dtype=np.float32)},
        {"vector": "text"},
        {"n": 2**70},
        {"s": "\ud800"},
        {"o": object()},
    ],
)
def test_what_does_not_fit_is_left_to_pymilvus(change: dict[str, Any]) -> None:
    good = dict(document_rows(embedded(put("d", "x", 1)), "p")[0])
    with pytest.raises((TypeError, ValueError)):
        ours([good, good | change], DOCUMENTS)
    missing = {name: value for name, value in good.items() if name != "text"}
    with pytest.raises(KeyError):
        ours([good, missing], DOCUMENTS)


def test_a_value_in_an_added_column_of_another_kind_is_left_to_pymilvus() -> None:
    added = {"name": "facts", "type": DataType.JSON, "params": {}, "nullable": True}
    row = dict(document_rows(embedded(put("d", "x", 1)), "p")[0]) | {"facts": {"a": 1}}
    with pytest.raises(TypeError):
        ours([row], DOCUMENTS | {"fields": [*DOCUMENTS["fields"], added]})
    with pytest.raises(TypeError):
        ours([row], DOCUMENTS | {"struct_fields": [{"name": "chunks"}]})


class Handler:
    """The part of pymilvus's handler that packing uses."""

    def __init__(self, *, other: bool = False) -> None:
        self.packed_as_always = 0
        self._other = other
        self.schema = DOCUMENTS
        self.timestamp = 7

    def _get_schema(self, collection: str, **options: Any) -> tuple[dict[str, Any], int]:
        return self.schema, self.timestamp

    def _prepare_row_upsert_request(
        self, collection: str, rows: list[Any], partition: str, timeout: float, context: Any = None, **options: Any
    ) -> Any:
        self.packed_as_always += 1
        request = Prepare.row_upsert_param(
            collection,
            rows,
            partition,
            self.schema["fields"],
            [],
            enable_dynamic=True,
            schema_timestamp=self.timestamp,
        )
        if self._other:
            request.schema_timestamp = 8
        return request


class Client:
    """A client with such a handler."""

    def __init__(self, handler: object) -> None:
        self._handler = handler

    def _get_connection(self) -> object:
        return self._handler


@pytest.mark.parametrize(("other", "as_always"), [(False, 1), (True, 5)])
def test_the_first_request_decides_whether_packing_is_trusted(other: bool, as_always: int) -> None:
    handler = Handler(other=other)
    deadlines: list[float] = []
    pack_upserts(Client(handler), deadlines.append)
    rows = document_rows(embedded(put("d", "x y z", 1)), "p")
    for _ in range(4):
        assert handler._prepare_row_upsert_request("c", list(rows), "p", 1.0).num_rows == 3
    assert handler.packed_as_always == as_always
    assert deadlines == [1.0] * 4


def test_a_changed_schema_is_checked_again() -> None:
    handler = Handler()
    pack_upserts(Client(handler), lambda _: None)
    rows = list(document_rows(embedded(put("d", "x y z", 1)), "p"))
    added = {"name": "team", "type": DataType.VARCHAR, "params": {"max_length": 64}, "nullable": True}
    for timestamp in (7, 7, 8, 8):
        handler.timestamp = timestamp
        handler.schema = DOCUMENTS if timestamp == 7 else DOCUMENTS | {"fields": [*DOCUMENTS["fields"], added]}
        request = handler._prepare_row_upsert_request("c", rows, "p", 1.0)
        assert [list(data.valid_data) for data in request.fields_data if data.field_name == "team"] == (
            [] if timestamp == 7 else [[False] * 3]
        )
    assert handler.packed_as_always == 2


def test_a_pymilvus_without_the_hook_is_left_alone() -> None:
    client = Client(object())
    pack_upserts(client, lambda _: None)
    assert vars(client).keys() == {"_handler"}
