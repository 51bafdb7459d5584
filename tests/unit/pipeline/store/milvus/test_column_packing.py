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
from pipeline.store.writing.ledger_rows import entry_row
from pipeline.store.writing.protocol import DocumentHashes, final
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


class Handler:
    """The part of pymilvus's handler that packing uses."""

    def __init__(self, *, other: bool = False) -> None:
        self.packed_as_always = 0
        self._other = other

    def _get_schema(self, collection: str, **options: Any) -> tuple[dict[str, Any], int]:
        return DOCUMENTS, 7

    def _prepare_row_upsert_request(
        self, collection: str, rows: list[Any], partition: str, timeout: float, context: Any = None, **options: Any
    ) -> Any:
        self.packed_as_always += 1
        request = Prepare.row_upsert_param(
            collection, rows, partition, DOCUMENTS["fields"], [], enable_dynamic=True, schema_timestamp=7
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


def test_a_pymilvus_without_the_hook_is_left_alone() -> None:
    client = Client(object())
    pack_upserts(client, lambda _: None)
    assert vars(client).keys() == {"_handler"}
