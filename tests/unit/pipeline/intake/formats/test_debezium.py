"""Change events of Debezium: what each becomes, with its key, with Connect's schemas, and where it is refused."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import Reason, RecordMapping
from pipeline.records import Delete, Rejected
from tests.unit.pipeline.intake.decoding import NOW_MS, decode, document, put, rejected

SOURCE = {"version": "3.1.0.Final", "connector": "postgresql", "name": "shop", "db": "shop", "table": "tickets"}
KEY = b'{"id": 7}'
DEBEZIUM = RecordMapping(format="debezium")
ROW = {"id": 7, "text": "The refund failed.", "lang": "en"}


def event(op: str, **more: Any) -> dict[str, Any]:
    return {"before": None, "after": None, "source": SOURCE, "op": op, "ts_ms": NOW_MS, **more}


def deleted(value: object, key: bytes | None = KEY, **options: Any) -> Delete:
    operation = decode(value, key, **options)
    assert isinstance(operation, Delete), operation
    return operation


@pytest.mark.parametrize("op", ["c", "u", "r"])
@pytest.mark.parametrize("mapping", [DEBEZIUM, RecordMapping()], ids=["debezium", "auto"])
def test_a_row_that_is_there_is_the_document(op: str, mapping: RecordMapping) -> None:
    made = document(event(op, before={"id": 7, "text": "old"}, after=ROW), KEY, mapping=mapping)
    assert (made.doc_id, made.text, made.metadata) == ("7", "The refund failed.", {"lang": "en"})


@pytest.mark.parametrize("before", [None, {"id": 7}, ROW])
@pytest.mark.parametrize("mapping", [DEBEZIUM, RecordMapping(), RecordMapping(version_field="v")])
def test_a_deleted_row_deletes_its_document_without_a_version(before: Any, mapping: RecordMapping) -> None:
    operation = deleted(event("d", before=before), mapping=mapping)
    assert (operation.doc_id, operation.version) == ("7", None)


@pytest.mark.parametrize(
    ("key", "doc_id"),
    [
        (KEY, "7"),
        (b'{"schema": {"type": "struct"}, "payload": {"id": 7}}', "7"),
        (b'{"schema": {"type": "int64"}, "payload": 7}', "7"),
        (b'{"ticket_no": "T-7"}', "T-7"),
        (b"7", "7"),
        (b'{"a": 1, "b": 2}', '{"a": 1, "b": 2}'),
        (b'{"schema": {"version": 1}, "payload": {"a": 1, "b": "x"}}', '{"a":1,"b":"x"}'),
        (b'{"schema": {"version": 2}, "payload": {"a": 1, "b": "x"}}', '{"a":1,"b":"x"}'),
    ],
)
def test_a_tombstone_deletes_the_document_of_its_key(key: bytes, doc_id: str) -> None:
    assert deleted(None, key, mapping=DEBEZIUM).doc_id == doc_id


def test_elsewhere_a_key_is_a_row_only_where_it_has_the_id_field() -> None:
    assert deleted(None, KEY).doc_id == "7"
    assert deleted(None, b'{"ticket_no": "T-7"}').doc_id == '{"ticket_no": "T-7"}'
    assert deleted(None, KEY, mapping=RecordMapping(format="text")).doc_id == '{"id": 7}'
    assert rejected(None, b'{"id": null}').reason == Reason.INVALID_ID


def test_paths_are_those_of_the_row_also_for_a_delete() -> None:
    mapping = RecordMapping(fields={"id": ("$.meta.uid",), "text": ("$.title", "$.body")})
    row = {"meta": {"uid": "u1"}, "title": "Refund", "body": "It failed."}
    assert document(event("c", after=row), mapping=mapping).text == "Refund\n\nIt failed."
    assert deleted(event("d", before=row), mapping=mapping).doc_id == "u1"


@pytest.mark.parametrize("name", ["auto", "json", "debezium"])
@pytest.mark.parametrize("key", [b'{"order_id": 1}', b'{"shop": 2, "order_id": 1}'])
def test_a_tombstone_deletes_what_a_put_of_the_same_paths_wrote(name: str, key: bytes) -> None:
    mapping = RecordMapping(format=name, fields={"id": ("$.order_id",)})
    row = {"order_id": 1, "shop": 2, "text": "x", "__deleted": False}
    if name != "json":
        assert document(row, key, mapping=mapping).doc_id == "1"
    assert deleted(None, key, mapping=mapping).doc_id == "1"
    without = rejected(None, b'{"a": 1, "b": 2}', mapping=mapping)
    assert (without.reason, "record.fields" in without.message) == (Reason.INVALID_ID, True)


def test_every_digit_of_a_key_counts() -> None:
    key = b'{"id": 12345678901234567890123}'
    assert document(b'{"id": 12345678901234567890123, "text": "x"}', key).doc_id == "12345678901234567890123"
    assert deleted(None, key).doc_id == "12345678901234567890123"


@pytest.mark.parametrize("field", ["text", "lang"])
def test_a_long_value_that_was_not_sent_is_that_of_before_or_the_row_is_refused(field: str) -> None:
    unsent = {**ROW, field: "__debezium_unavailable_value"}
    assert document(event("u", before=ROW, after=unsent), KEY).text == ROW["text"]
    for value in (
        event("u", after=unsent),
        event("u", before={"id": 7}, after=unsent),
        event("u", before=unsent, after=unsent),
        {**unsent, "__deleted": "false"},
    ):
        verdict = rejected(value, KEY)
        assert (verdict.reason, f'"{field}"' in verdict.message) == (Reason.NO_DOCUMENT, True)
    assert deleted(event("d", before=unsent)).doc_id == "7"


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"items": inner}
    return inner


def test_what_is_nested_too_deep_is_refused_in_a_schema_a_key_and_a_list() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    wrapped = {"schema": {"fields": [{"field": "a", **nested(900, {})}]}, "payload": {**ROW, "a": value}}
    assert rejected(wrapped).reason == Reason.NESTED_TOO_DEEP
    for payload in ({"a": value}, {"a": value, "y": 1}):
        key = json.dumps({**wrapped, "payload": payload}).encode()
        assert rejected(None, key).reason == Reason.NESTED_TOO_DEEP


def test_a_schema_that_names_a_field_twice_converts_it_once() -> None:
    field = {"field": "v", "name": "io.debezium.time.Date"}
    value = {"schema": {"fields": [field, field]}, "payload": {**ROW, "v": 20_779}}
    assert document(value).metadata["v"] == "2026-11-22"


def test_a_delete_of_a_tenant_needs_the_row_before() -> None:
    mapping = RecordMapping(tenant_field="org")
    operation = deleted(event("d", before={**ROW, "org": "acme"}), mapping=mapping)
    assert (operation.tenant, operation.doc_id) == ("acme", "7")
    verdict = rejected(event("d", before={"id": 7}), KEY, mapping=mapping)
    assert (verdict.reason, "REPLICA IDENTITY FULL" in verdict.message) == (Reason.DELETE_WITHOUT_TENANT, True)


@pytest.mark.parametrize("flag", ["true", True])
def test_a_flattened_row_that_was_deleted(flag: object) -> None:
    assert deleted({**ROW, "__deleted": flag}).doc_id == "7"


@pytest.mark.parametrize("flag", ["false", False])
def test_a_flattened_row(flag: object) -> None:
    made = document({**ROW, "__deleted": flag, "__op": "u"}, mapping=DEBEZIUM)
    assert made.metadata == {"lang": "en", "__op": "u"}


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        (event("t"), Reason.NO_DOCUMENT, "the table was emptied"),
        (event("m", message={"prefix": "p"}), Reason.NO_DOCUMENT, "a message of the database"),
        (
            {"source": SOURCE, "databaseName": "shop", "ddl": "ALTER …", "tableChanges": []},
            Reason.NO_DOCUMENT,
            "definition",
        ),
        (event("x"), Reason.NO_DOCUMENT, "none of c, u, r"),
        (event("c"), Reason.NOT_AN_OBJECT, '"after" of Debezium'),
        (event("d", before=[7]), Reason.NOT_AN_OBJECT, '"before" of Debezium'),
        ({**ROW, "__deleted": "yes"}, Reason.INVALID_DELETE_FLAG, "__deleted"),
        (event("c", after={"id": 7}), Reason.MISSING_TEXT, '"text"'),
    ],
)
def test_what_is_no_row_is_refused_with_what_to_do(value: object, reason: Reason, words: str) -> None:
    verdict = rejected(value, KEY)
    assert (verdict.reason, words in verdict.message) == (reason, True), verdict.message


def test_another_record_in_the_format_debezium_is_refused() -> None:
    verdict = rejected(ROW, KEY, mapping=DEBEZIUM)
    assert (verdict.reason, "op and source" in verdict.message) == (Reason.UNSUPPORTED_FORMAT, True)


def test_a_document_that_only_resembles_an_event_is_a_document() -> None:
    made = document({**ROW, "op": "c", "source": {"name": "desk"}, "after": 5})
    assert made.metadata["source"] == {"name": "desk"}


def number(unscaled: int) -> str:
    return b64encode(unscaled.to_bytes(8, signed=True)).decode()


def typed(name: str, value: object, **parameters: str) -> Any:
    """The value of a field whose schema has this name, as it is stored."""
    schema = {"type": "any", "name": name, "field": "v", "parameters": parameters}
    row = {"type": "struct", "field": "after", "fields": [schema]}
    payload = event("c", after={**ROW, "v": value})
    return put({"schema": {"type": "struct", "fields": [row]}, "payload": payload}, KEY).document.metadata["v"]


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("io.debezium.time.Date", 20_779, "2026-11-22"),
        ("org.apache.kafka.connect.data.Date", -1, "1969-12-31"),
        ("io.debezium.time.Timestamp", 1_795_339_800_250, "2026-11-22T09:30:00.250000Z"),
        ("io.debezium.time.MicroTimestamp", 1_795_339_800_250_001, "2026-11-22T09:30:00.250001Z"),
        ("io.debezium.time.NanoTimestamp", 1_795_339_800_250_001_999, "2026-11-22T09:30:00.250001Z"),
        ("io.debezium.time.MicroTime", 34_200_000_001, "09:30:00.000001"),
        ("io.debezium.time.ZonedTimestamp", "2026-11-22T09:30:00Z", "2026-11-22T09:30:00Z"),
        ("io.debezium.time.MicroTimestamp", 9_223_372_036_825_200_000, 9_223_372_036_825_200_000),
        ("io.debezium.data.VariableScaleDecimal", {"scale": 1, "value": number(-125)}, -12.5),
        ("io.debezium.data.VariableScaleDecimal", {"scale": -2, "value": number(12)}, 1200),
        ("io.debezium.time.MicroTime", 90_000_000_000, 90_000_000_000),
        ("io.debezium.time.Time", -1_000, -1_000),
        ("unknown", 5, 5),
    ],
)
def test_values_are_written_as_their_schema_means_them(name: str, value: object, stored: object) -> None:
    assert typed(name, value) == stored


def test_a_decimal() -> None:
    assert typed("org.apache.kafka.connect.data.Decimal", number(1999), scale="2") == 19.99
    assert typed("org.apache.kafka.connect.data.Decimal", 19.99, scale="2") == 19.99


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("io.debezium.time.Date", "yesterday"),
        ("io.debezium.data.VariableScaleDecimal", {"scale": 10**9, "value": number(1)}),
        ("io.debezium.data.VariableScaleDecimal", 5),
        ("org.apache.kafka.connect.data.Decimal", "!!"),
        ("io.debezium.data.VariableScaleDecimal", {"scale": 0, "value": b64encode(b"\x7f" * 5_000).decode()}),
        ("io.debezium.data.VariableScaleDecimal", {"scale": 400, "value": "not base64"}),
    ],
)
def test_a_value_that_does_not_fit_its_schema_is_refused_with_its_field(name: str, value: object) -> None:
    row = {"type": "struct", "field": "after", "fields": [{"name": name, "field": "v"}]}
    value = {"schema": {"fields": [row]}, "payload": event("c", after={**ROW, "v": value})}
    verdict = rejected(value, KEY)
    assert (verdict.reason, '"v"' in verdict.message) == (Reason.INVALID_BODY, True)


def test_a_decimal_key_is_the_same_id_in_a_row_its_delete_and_its_tombstone() -> None:
    decimal = {"name": "io.debezium.data.VariableScaleDecimal", "field": "id", "type": "struct"}
    key_schema = {"type": "struct", "fields": [decimal]}
    five = {"scale": 0, "value": "BQ=="}
    key = json.dumps({"schema": key_schema, "payload": {"id": five}}).encode()
    schema = {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": [decimal]}]}
    stored = put({"schema": schema, "payload": event("c", after={**ROW, "id": five})}, key)
    assert stored.document.doc_id == "5"
    assert deleted({"schema": schema, "payload": event("d")}, key).doc_id == "5"
    assert deleted(None, key).doc_id == "5"
    alone = json.dumps({"schema": {"name": "org.apache.kafka.connect.data.Date"}, "payload": 20_779}).encode()
    assert deleted(None, alone).doc_id == "2026-11-22"


def test_a_number_that_is_too_long_for_an_id_is_refused() -> None:
    decimal = {"field": "id", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "0"}}
    schema = {"fields": [decimal]}
    digits = b64encode(b"\x7f" * 64).decode()
    value = {"schema": schema, "payload": {"id": digits, "text": "x"}}
    assert document(value).doc_id == str(int.from_bytes(b"\x7f" * 64))
    scaled = {"fields": [{**decimal, "parameters": {"scale": "-990"}}]}
    assert rejected({**value, "schema": scaled}).reason in (Reason.ID_TOO_LONG, Reason.INVALID_BODY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
NAMED = st.sampled_from(
    ["op", "source", "before", "after", "schema", "payload", "__deleted", "id", "text", "fields", "name"]
)


@given(
    st.dictionaries(NAMED, JSON | st.just(SOURCE) | st.sampled_from(["c", "d", "t"]) | st.just(ROW), max_size=6),
    st.sampled_from([KEY, b"k", b'{"schema": 1, "payload": null}', b"{", b"\xff", None]),
    st.sampled_from(["auto", "debezium", "cloudevents"]),
)
def test_any_object_is_stored_deleted_or_refused_with_a_reason(fields: Any, key: bytes | None, name: str) -> None:
    operation = decode(json.dumps(fields).encode(), key, mapping=RecordMapping(format=name))
    assert not isinstance(operation, Rejected) or operation.message
