"""What intake accepts, Milvus stores and gives back unchanged; what Milvus refuses, intake refuses before it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from pipeline.intake import Decoder, IntakeLimits, Reason, RecordMapping
from pipeline.records import (
    MAX_DOC_ID_BYTES,
    MAX_METADATA_BYTES,
    MAX_TEXT_BYTES,
    Chunk,
    Document,
    EmbeddedPut,
    Operation,
    Position,
    Put,
    Rejected,
)
from pipeline.store import VectorSearch, connect
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.writing.rows import ledger_id
from tests.support.documents import DIMENSION, NOON_MS, source_record
from tests.support.examples import examples
from tests.support.names import unique
from tests.support.stores import Store, make_store

pytestmark = pytest.mark.servers

MAPPING = RecordMapping(tenant_field="org", version_field="v")
DECODER = Decoder(MAPPING, IntakeLimits(2 * 1024 * 1024, 600_000, None), append=False)
VECTOR = np.eye(1, DIMENSION, dtype=np.float32)
ODD_NAMES = [
    *(
        "$foo",
        "$",
        "a.b",
        "a[0]",
        'a"b',
        "a\\b",
        "a'b",
        "a/b",
        "a~b",
        " ",
        "é",
        "e\u0301",
        "\u200b",
        "\u2028",
        "\ufffe",
    ),
    *("😀", "1", "in", "not", "true", "null", "*", "count(*)", "distance", "score", "entity", "pk", "row_id", "RowID"),
    *("Timestamp", "partition_name", "collection_name", "d20261122", "_default", "ID", "$Meta", "\ufeff", "__proto__"),
]
METADATA: dict[str, dict[str, Any]] = {
    "odd names": {name: number for number, name in enumerate(ODD_NAMES)},
    "a long name": {"n" * 60_000: 1},
    "many names": {f"name{number}": number for number in range(4_000)},
    "names of the row": dict.fromkeys(["doc_id", "chunk", "vector", "sparse", "tenant", "kafka_topic", "$meta"], 1),
    "renamed twice": {"chunk": 1, "meta_chunk": 2, "meta_meta_chunk": 3},
    "integers": {"a": 2**63 - 1, "b": -(2**63), "c": 2**53 + 1, "d": [2**63 - 1]},
    "floats": {"a": 1.7976931348623157e308, "b": -1e308, "c": 5e-324, "d": -0.0, "e": 0.1, "f": 1e22, "g": 1e15},
    "empty": {"a": {}, "b": [], "c": "", "d": None, "e": [{}], "f": [[]], "g": {"h": {}}, "i": [None], "j": {"": 1}},
    "nested names of the row": {"a": {"id": 1, "$meta": 2, "vector": [1], "text": "x"}},
    "NUL": {"a": "\x00", "b": "x\x00y", "c": ["\x00"], "d": {"\x00": 1}},
    "mixed": {"a": [1, "a", None, True, 1.5, {"b": [False]}]},
    "characters": {"a": "".join(map(chr, [*range(160), 0x2028, 0xFEFF, 0xFFFF, 0x10FFFF]))},
    "deep": {"a": json.loads("[" * 31 + "]" * 31)},
    "full": {"a": "€" * ((MAX_METADATA_BYTES - len('{"a":"","tenant":"t"}')) // 3)},
}
FIELDS: dict[str, dict[str, Any]] = {
    "an id with control characters": {"id": "a\x00b\n\t\x7f'\"\\"},
    "an id nobody sees": {"id": "\u200b"},
    "the longest id": {"id": "😀" * (MAX_DOC_ID_BYTES // 4)},
    "a number as id": {"id": 10**300},
    "a text with NUL": {"text": "a\x00b"},
    "the longest text": {"text": "€" * (MAX_TEXT_BYTES // 3)},
    "a text of noncharacters": {"text": "x\ufffe\uffff\U0010ffff"},
    "the longest tenant": {"org": "é" * (MAX_DOC_ID_BYTES // 2)},
    "a tenant with control characters": {"org": "\x00'\"\\"},
    "the lowest version": {"v": -(2**63)},
    "the highest version": {"v": 2**63 - 1},
    "the first time": {"event_time": "0001-01-01"},
    "a time before 1970": {"event_time": "1969-12-31T23:59:59.9999Z"},
}
ODD_RECORDS = {**METADATA, **FIELDS}

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    leaves | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)

records = st.dictionaries(st.text(max_size=6), values, max_size=6)


@pytest.fixture(scope="module", params=["real", "lite"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    api: MilvusApi = connect(request.getfixturevalue({"real": "milvus_uri", "lite": "milvus_lite_uri"}[request.param]))
    made = make_store(api, unique("intake"))
    yield made
    api.drop_collection(made.name)
    api.drop_collection(f"{made.name}__ledger")
    api.drop_collection(f"{made.name}__marks")
    api.close()


def decode(fields: dict[str, Any], offset: int) -> Operation:
    value = {"id": f"id-{offset}", "text": "word", "event_time": NOON_MS, "org": "t", "v": 1, **fields}
    raw = json.dumps(value, ensure_ascii=False).encode()
    return DECODER.decode(source_record(raw, None, at=("documents", 0, offset)), NOON_MS)


def stored(store: Store, puts: Sequence[Put]) -> list[Put]:
    """Write each document as one row; those that Milvus refused."""
    writer = store.upsert_writer()
    plan = writer.plan(puts)
    embedded = []
    for put in plan.to_embed:
        text = put.document.text
        embedded.append(EmbeddedPut(put, [Chunk(0, 0, len(text), text, np.zeros(1, dtype=np.int32))], VECTOR))
    return [operation for operation, *_ in writer.apply(plan, embedded).refused if isinstance(operation, Put)]


def check_read_back(store: Store, puts: Sequence[Put]) -> None:
    """A query and a search give every row as its document has it, types and digits included."""
    only = f"kafka_offset in [{', '.join(str(put.position.offset) for put in puts)}]"
    rows = store.api.query(store.name, only, ["doc_id", "text", "event_time", "$meta"], strong=True)
    [hits] = store.api.search(
        store.name, VectorSearch(VECTOR, len(puts), expression=only, fields=["$meta"], strong=True)
    )
    found = {hit.id: hit.fields for hit in hits}
    documents = {row.pop("doc_id"): row for row in rows}
    assert len(documents) == len(found) == len(rows) == len(puts)
    for put in puts:
        document = put.document
        row = documents[document.doc_id]
        assert (row.pop("text"), row.pop("event_time")) == (document.text, document.event_time)
        expected = _written({**document.metadata, "tenant": document.tenant})
        assert _written(found[row.pop("id")]) == expected
        assert _written(row) == expected


def _written(fields: Any) -> bytes:
    return orjson.dumps(dict(fields), option=orjson.OPT_SORT_KEYS)


def test_odd_records_are_stored_and_read_back_as_they_are(store: Store) -> None:
    operations = [decode(fields, offset) for offset, fields in enumerate(ODD_RECORDS.values())]
    puts = [operation for operation in operations if isinstance(operation, Put)]
    assert puts == operations
    assert stored(store, puts) == []
    check_read_back(store, puts)
    entries = {ledger_id(entry.tenant, entry.doc_id): entry for entry in store.ledger_entries()}
    for put in puts:
        entry = entries[ledger_id(*put.key)]
        assert (entry.version, entry.pending) == (put.version, False)


@examples(0.03, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(records, min_size=30, max_size=60), st.integers(1_000, 2**62))
def test_any_record_accepted_is_stored_and_read_back_as_it_is(
    store: Store, drawn: list[dict[str, Any]], first: int
) -> None:
    operations = [decode({**fields, "id": f"{first}/{n}"}, first + n) for n, fields in enumerate(drawn)]
    puts = [operation for operation in operations if isinstance(operation, Put)]
    assert stored(store, puts) == []
    if puts:
        check_read_back(store, puts)


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_of_metadata_is_the_server_s_to_the_byte(store: Store, over: int) -> None:
    room = MAX_METADATA_BYTES - len('{"a":"","tenant":"t"}') + over
    metadata = {"a": "x" * room}
    operation = decode(metadata, 900 + over)
    assert (operation.reason if isinstance(operation, Rejected) else None) == (
        Reason.METADATA_TOO_LARGE if over else None
    )
    if store.api.server.lite:
        return  # it takes more; the limit is one for all servers
    put = Put(Position("documents", 0, 900 + over), NOON_MS, Document(f"full-{over}", "word", NOON_MS, metadata, "t"))
    assert stored(store, [put]) == [put] * over
