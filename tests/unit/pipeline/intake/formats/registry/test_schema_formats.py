"""Records in Confluent's wire format, written by Confluent's own serializers, become documents or say why not."""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.clients.schema_registry import SchemaRegistry
from pipeline.errors import UsageError
from pipeline.intake import Decoder, IntakeLimits, Reason, RecordMapping
from pipeline.records import Delete, Operation, Position, Put, Rejected, SourceRecord
from tests.support.rigs import registered
from tests.support.rigs.registered import KEY, Header, proto_classes
from tests.support.rigs.schema_registry import FakeSchemaRegistry, schema_registry

NOW_MS = 1_795_348_800_000
LIMITS = IntakeLimits(2**20, 600_000, None)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TICKET = {"id": 7, "text": "The refund failed.", "event_time": NOON, "state": "OPEN", "tags": [], "counts": {}}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON_MS = 1_795_348_800_000


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeSchemaRegistry]:
    with schema_registry() as served:
        yield served


def decode(
    registry: FakeSchemaRegistry,
    value: bytes | None,
    record_format: str = "auto",
    *,
    key: bytes | None = b"k",
    headers: tuple[tuple[str, bytes | None], ...] = (),
    **mapping: Any,
) -> Operation:
    source = SchemaRegistry(registry.address)
    names = RecordMapping(format=record_format, delete_field="deleted", **mapping)
    record = SourceRecord(Position("documents", 0, 1), NOW_MS, key, value, headers)
    return Decoder(names, LIMITS, append=False, schemas=source).decode(record, NOW_MS)


def stored(operation: Operation) -> dict[str, Any]:
    assert isinstance(operation, Put), operation
    return dict(operation.document.metadata)


def refused(operation: Operation, reason: Reason) -> str:
    assert isinstance(operation, Rejected), operation
    assert operation.reason == reason, operation.message
    return operation.message


@pytest.mark.parametrize("record_format", ["auto", "avro"])
def test_an_avro_record_is_a_document(registry: FakeSchemaRegistry, record_format: str) -> None:
    more = {
        "changed": NOON.replace(microsecond=5),
        "day": date(2026, 11, 22),
        "price": Decimal("12.50"),
        "uid": UUID(int=1),
        "raw": b"\x00\x01",
        "owner": {"name": "Ada", "rank": 0.5},
        "tags": ["a"],
        "counts": {"x": 1},
    }
    operation = decode(registry, registered.avro(registry.address)(TICKET | more), record_format)
    assert stored(operation) == {
        "changed": "2026-11-22T12:00:00.000005Z",
        "day": "2026-11-22",
        "price": 12.5,
        "uid": "00000000-0000-0000-0000-000000000001",
        "state": "OPEN",
        "raw": "AAE=",
        "owner": {"name": "Ada", "rank": 0.5},
        "tags": ["a"],
        "counts": {"x": 1},
    }
    assert isinstance(operation, Put)
    assert (operation.document.doc_id, operation.document.event_time) == ("7", NOON_MS)


def test_a_protobuf_message_is_a_document(registry: FakeSchemaRegistry) -> None:
    ticket_class = proto_classes()["Ticket"]
    ticket = ticket_class(text="Words.", raw=b"\x00", mail="a@example.com", size=2**60, state=1)
    ticket.event_time.FromDatetime(NOON)
    ticket.counts["x"] = 0
    ticket.owners.add(name="Ada")
    ticket.votes.value = 2**40
    ticket.more.update({"a": [None, True]})
    ticket.took.FromSeconds(3)
    operation = decode(registry, registered.protobuf(registry.address, ticket_class)(ticket), "protobuf", key=b"p1")
    assert stored(operation) == {
        "raw": "AA==",
        "mail": "a@example.com",
        "size": 2**60,
        "state": "DONE",
        "counts": {"x": 0},
        "owners": [{"name": "Ada"}],
        "votes": 2**40,
        "more": {"a": [None, True]},
        "took": "3s",
        "urgent": False,
        "rank": 0.0,
        "serial": 0,
    }
    assert isinstance(operation, Put)
    assert operation.document.doc_id == "p1", "an id that is not set is that of the key"
    assert operation.document.event_time == NOON_MS


def test_the_message_indexes_choose_the_message(registry: FakeSchemaRegistry) -> None:
    part = proto_classes()["Ticket.Part"]
    operation = decode(registry, registered.protobuf(registry.address, part)(part(id="a", text="inner")))
    assert isinstance(operation, Put)
    assert operation.document.text == "inner"


def test_a_record_of_json_schema_is_a_document_or_a_delete(registry: FakeSchemaRegistry) -> None:
    write = registered.json_schema(registry.address)
    assert stored(decode(registry, write({"id": "j", "text": "Words.", "lang": "en"}), "json_schema")) == {"lang": "en"}
    assert isinstance(decode(registry, write({"id": "j", "deleted": True}), "json_schema"), Delete)


def test_the_schema_may_be_named_by_a_guid_in_a_header(registry: FakeSchemaRegistry) -> None:
    headers: list[Header] = []
    value = registered.avro(registry.address, **registered.in_header())(TICKET, headers=headers)
    assert stored(decode(registry, value, headers=tuple(headers)))["state"] == "OPEN"
    part = proto_classes()["Ticket.Part"]
    headers = []
    value = registered.protobuf(registry.address, part)(part(id="a", text="b"))
    number = int.from_bytes(value[1:5])
    headers = [("__value_schema_id", b"\x01" + UUID(registry.guid(number)).bytes + value[5:8])]
    assert isinstance(decode(registry, value[8:], headers=tuple(headers)), Put)


def test_each_record_is_read_by_the_schema_of_its_writer(registry: FakeSchemaRegistry) -> None:
    first = '{"type":"record","name":"V","fields":[{"name":"id","type":"string"},{"name":"text","type":"string"}]}'
    later = first.replace("]}", ',{"name":"lang","type":"string"}]}')
    source = SchemaRegistry(registry.address)
    decoder = Decoder(RecordMapping(format="avro"), LIMITS, append=False, schemas=source)
    values = [
        registered.avro(registry.address, later)({"id": "a", "text": "new", "lang": "en"}),
        registered.avro(registry.address, first)({"id": "a", "text": "old"}),
    ]
    records = [SourceRecord(Position("documents", 0, n), NOW_MS, None, value) for n, value in enumerate(values)]
    assert [stored(decoder.decode(record, NOW_MS)) for record in records] == [{"lang": "en"}, {}]
    asked = len(registry.asked)
    assert isinstance(decoder.decode(records[0], NOW_MS), Put)
    assert len(registry.asked) == asked, "a schema is asked for once"


def test_references_of_avro_are_resolved(registry: FakeSchemaRegistry) -> None:
    inner = '{"type": "record", "name": "Inner", "fields": [{"name": "x", "type": "int"}]}'
    middle = '{"type": "record", "name": "Middle", "fields": [{"name": "inner", "type": "Inner"}]}'
    outer = (
        '{"type": "record", "name": "Outer", "fields": [{"name": "text", "type": "string"}, '
        '{"name": "a", "type": "Middle"}, {"name": "b", "type": "Inner"}]}'
    )
    registry.register("inner", inner)
    registry.register("middle", middle, references=[{"name": "Inner", "subject": "inner", "version": 1}])
    references = [{"name": "Middle", "subject": "middle", "version": 1}]
    references.append({"name": "Inner", "subject": "inner", "version": 1})
    number = registry.register("outer", outer, references=references)
    assert stored(decode(registry, framed(number, b"\x02t\x02\x04"))) == {"a": {"inner": {"x": 1}}, "b": {"x": 2}}


@pytest.mark.parametrize(("schema", "value", "doc_id"), [('"string"', "k-1", "k-1"), ('"long"', 42, "42")])
def test_a_key_with_a_schema_names_the_document_that_a_null_value_deletes(
    registry: FakeSchemaRegistry, schema: str, value: Any, doc_id: str
) -> None:
    operation = decode(registry, None, key=registered.avro(registry.address, schema)(value, KEY))
    assert isinstance(operation, Delete)
    assert operation.doc_id == doc_id


def test_a_key_that_is_a_record_has_the_id_in_its_id_field(registry: FakeSchemaRegistry) -> None:
    schema = '{"type": "record", "name": "TicketKey", "fields": [{"name": "id", "type": "int"}]}'
    operation = decode(registry, None, key=registered.avro(registry.address, schema)({"id": 5}, KEY))
    assert isinstance(operation, Delete)
    assert operation.doc_id == "5"
    other = decode(registry, None, key=registered.avro(registry.address, schema)({"id": 5}, KEY), id_field="ticket")
    assert '"ticket"' in refused(other, Reason.INVALID_ID)


def framed(number: int, body: bytes) -> bytes:
    return b"\x00" + number.to_bytes(4) + body


def test_what_is_not_in_the_wire_format_is_refused(registry: FakeSchemaRegistry) -> None:
    message = refused(decode(registry, b'{"id": "a", "text": "b"}', "avro"), Reason.NO_SCHEMA_ID)
    assert "begins with the byte 123, not 0" in message
    assert isinstance(decode(registry, b'{"id": "a", "text": "b"}', "auto"), Put)
    refused(decode(registry, b"\x00\x00\x01", "auto"), Reason.NO_SCHEMA_ID)
    assert "is empty" in refused(decode(registry, b"", "protobuf"), Reason.NO_SCHEMA_ID)


def test_a_schema_of_another_format_or_none_is_refused(registry: FakeSchemaRegistry) -> None:
    value = registered.avro(registry.address)(TICKET)
    number = int.from_bytes(value[1:5])
    message = refused(decode(registry, value, "protobuf"), Reason.UNSUPPORTED_FORMAT)
    assert f"schema {number}, which is avro; record.format is protobuf" in message
    assert "no schema 4000" in refused(decode(registry, framed(4_000, b"x")), Reason.UNKNOWN_SCHEMA)


def test_bytes_that_do_not_fit_name_format_schema_and_field(registry: FakeSchemaRegistry) -> None:
    value = registered.avro(registry.address)(TICKET)
    number = int.from_bytes(value[1:5])
    message = refused(decode(registry, value[:10]), Reason.INVALID_BODY)
    assert f'its schema {number} (avro): the field "text" cannot be read' in message
    assert "3 bytes are left behind" in refused(decode(registry, value + b"abc"), Reason.INVALID_BODY)
    part = proto_classes()["Ticket.Part"]
    proto = registered.protobuf(registry.address, part)(part(id="a", text="b"))
    assert "(protobuf)" in refused(decode(registry, proto[:-1]), Reason.INVALID_BODY)
    assert "name no message" in refused(decode(registry, proto[:5] + b"\x02\x12"), Reason.INVALID_BODY)
    broken = registered.json_schema(registry.address)({"id": "j"})[:-1]
    assert "json_schema" in refused(decode(registry, broken), Reason.INVALID_JSON)


@pytest.mark.parametrize("kind", ['"bytes"', '"fixed", "size": 200000, "name": "F"'])
def test_a_decimal_of_many_digits_is_refused_at_once(registry: FakeSchemaRegistry, kind: str) -> None:
    decimal = f'{{"type": {kind}, "logicalType": "decimal", "precision": 10, "scale": 0}}'
    schema = f'{{"type": "record", "name": "D", "fields": [{{"name": "d", "type": {decimal}}}]}}'
    number = registry.register("decimals", schema)
    length = b"" if "fixed" in kind else b"\x80\xb5\x18"
    message = refused(decode(registry, framed(number, length + b"\x7f" * 200_000)), Reason.INVALID_BODY)
    assert "200,000 bytes" in message
    key_number = registry.register("decimal-key", decimal)
    key = framed(key_number, length + b"\x7f" * 200_000)
    refused(decode(registry, None, key=key), Reason.INVALID_BODY)


def test_a_key_that_is_a_record_is_read_by_the_paths_of_the_id_and_of_debezium_by_its_only_field(
    registry: FakeSchemaRegistry,
) -> None:
    schema = '{"type": "record", "name": "OrderKey", "fields": [{"name": "order_id", "type": "long"}]}'
    key = registered.avro(registry.address, schema)({"order_id": 7}, KEY)
    by_path = decode(registry, None, key=key, fields={"id": ("$.order_id",)})
    by_row = decode(registry, None, "debezium", key=key)
    assert isinstance(by_path, Delete)
    assert isinstance(by_row, Delete)
    assert (by_path.doc_id, by_row.doc_id) == ("7", "7")
    refused(decode(registry, None, key=key), Reason.INVALID_ID)


@pytest.mark.parametrize(
    "schema",
    ["{", '{"type": "nothing"}', '{"type": "record", "name": "A", "fields": [{"name": "x", "type": "Elsewhere"}]}'],
)
def test_a_schema_that_cannot_be_used_is_no_outage(registry: FakeSchemaRegistry, schema: str) -> None:
    number = registry.register("broken", schema)
    assert f"schema {number} (avro)" in refused(decode(registry, framed(number, b"")), Reason.UNUSABLE_SCHEMA)


def test_a_list_of_items_without_bytes_cannot_fill_the_memory(registry: FakeSchemaRegistry) -> None:
    fields = [{"name": "x", "type": {"type": "array", "items": "null"}}]
    number = registry.register("nulls", json.dumps({"type": "record", "name": "Nulls", "fields": fields}))
    message = refused(decode(registry, framed(number, b"\xfe\xff\xff\xff\xff\x1f\x00")), Reason.UNUSABLE_SCHEMA)
    assert "take no bytes" in message


@pytest.mark.parametrize("fields", [5, [{}], {"name": 1}, None])
def test_fields_of_a_type_that_has_none_are_not_looked_at(registry: FakeSchemaRegistry, fields: object) -> None:
    number = registry.register("odd", json.dumps({"type": "string", "fields": fields}))
    assert "it cannot be read" in refused(decode(registry, framed(number, b"\x7f")), Reason.INVALID_BODY)


@pytest.mark.parametrize("bad", [0, 1, 62, 63])
def test_the_field_that_cannot_be_read_is_found_in_a_few_readings(
    registry: FakeSchemaRegistry, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    """Read once for each field, a record of 200 kB holds a worker for many seconds."""
    fields = [{"name": f"f{index}", "type": "string"} for index in range(64)]
    number = registry.register("many", json.dumps({"type": "record", "name": "Many", "fields": fields}))
    parsed: list[object] = []
    monkeypatch.setattr("fastavro.parse_schema", _counted(parsed, fastavro.parse_schema))
    message = refused(decode(registry, framed(number, b"\x02a" * bad + b"\x7f")), Reason.INVALID_BODY)
    assert f'the field "f{bad}" cannot be read' in message
    assert len(parsed) <= 1 + 7


def _counted(calls: list[object], function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(schema: object, **options: Any) -> Any:
        calls.append(schema)
        return function(schema, **options)

    return counted


def test_an_error_of_any_kind_is_a_reason_to_refuse(
    registry: FakeSchemaRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = registered.avro(registry.address, '"string"')("k", KEY)

    def broken(_reader: object, _body: bytes) -> None:
        raise AttributeError

    monkeypatch.setattr("pipeline.intake.formats.registry.avro.AvroReader.read", broken)
    assert ": AttributeError" in refused(decode(registry, None, key=key), Reason.INVALID_BODY)


def test_a_record_nested_without_end_is_refused_and_ends_no_process(registry: FakeSchemaRegistry) -> None:
    """The compiled reader of fastavro overruns the stack."""
    fields = [{"name": "text", "type": "string"}, {"name": "next", "type": ["null", "Node"]}]
    number = registry.register("nodes", json.dumps({"type": "record", "name": "Node", "fields": fields}))
    for depth in (40, 200_000):
        body = b"\x02a\x02" * depth + b"\x02a\x00"
        assert f"schema {number}" in refused(decode(registry, framed(number, body)), Reason.NESTED_TOO_DEEP)
    assert stored(decode(registry, framed(number, b"\x02a\x02\x02b\x00"))) == {"next": {"text": "b", "next": None}}


def test_nan_and_bytes_for_a_text_are_refused_by_field(registry: FakeSchemaRegistry) -> None:
    nan = TICKET | {"owner": {"name": "a", "rank": float("nan")}}
    assert '"owner"' in refused(decode(registry, registered.avro(registry.address)(nan)), Reason.NOT_FINITE)
    raw = decode(registry, registered.avro(registry.address)(TICKET | {"raw": b"words"}), text_field="raw")
    assert '"raw" must be a string' in refused(raw, Reason.INVALID_TEXT)


def test_metadata_is_measured_whatever_the_size_of_its_record(registry: FakeSchemaRegistry) -> None:
    names = {"items": {"type": "enum", "name": "Long", "symbols": ["S" * 200]}, "type": "array"}
    fields = [{"name": "text", "type": "string"}, {"name": "many", "type": names}]
    number = registry.register("long", json.dumps({"type": "record", "name": "R", "fields": fields}))
    body = b"\x02a" + b"\xa0\x1f" + b"\x00" * 2_000 + b"\x00"
    refused(decode(registry, framed(number, body)), Reason.METADATA_TOO_LARGE)


def test_without_a_registry_the_words_say_what_to_set() -> None:
    decoder = Decoder(RecordMapping(), LIMITS, append=False)
    for key, value in ((b"k", framed(1, b"x")), (framed(1, b"\x02k"), None)):
        record = SourceRecord(Position("documents", 0, 1), NOW_MS, key, value)
        assert "set registry.url" in refused(decoder.decode(record, NOW_MS), Reason.UNSUPPORTED_FORMAT)
    headers = (("__key_schema_id", b"\x00\x00\x00\x00\x01"),)
    record = SourceRecord(Position("documents", 0, 1), NOW_MS, b"\x06abc", None, headers)
    assert "set registry.url" in refused(decoder.decode(record, NOW_MS), Reason.UNSUPPORTED_FORMAT)
    with pytest.raises(UsageError, match=r"record\.format is avro, .*: set registry\.url"):
        Decoder(RecordMapping(format="avro"), LIMITS, append=False)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(timezones=st.just(UTC))
tickets = st.fixed_dictionaries(
    {
        "id": st.one_of(st.integers(-(2**63), 2**63 - 1), texts),
        "text": texts,
        "event_time": moments,
        "changed": st.none() | moments,
        "day": st.none() | st.dates(),
        "price": st.none() | st.decimals(-9_999_999, 9_999_999, places=2),
        "raw": st.none() | st.binary(max_size=20),
        "owner": st.none() | st.fixed_dictionaries({"name": texts, "rank": st.floats()}),
        "tags": st.lists(texts, max_size=3),
        "counts": st.dictionaries(texts, st.integers(-(2**31), 2**31 - 1), max_size=3),
        "deleted": st.booleans(),
        "state": st.sampled_from(["OPEN", "DONE"]),
    }
)


@given(ticket=tickets, cut=st.none() | st.integers(5, 60))
def test_any_avro_record_is_stored_deleted_or_refused_with_a_reason(
    registry: FakeSchemaRegistry, ticket: dict[str, Any], cut: int | None
) -> None:
    value = _avro_writer(registry)(ticket)[:cut]
    operation = decode(registry, value)
    if isinstance(operation, Put):
        assert operation.document.text == ticket["text"]
        assert operation.document.metadata["tags"] == ticket["tags"]
        assert operation.document.metadata["counts"] == ticket["counts"]
        assert operation.document.event_time == (ticket["event_time"] - EPOCH) // timedelta(milliseconds=1)
        if ticket["price"] is not None:
            assert operation.document.metadata["price"] == float(ticket["price"])
    elif isinstance(operation, Rejected):
        assert operation.reason in set(Reason)
        assert operation.message
    else:
        assert ticket["deleted"]


@given(body=st.binary(max_size=60), which=st.sampled_from(["avro", "protobuf", "json"]))
def test_any_bytes_behind_a_schema_give_an_operation(registry: FakeSchemaRegistry, body: bytes, which: str) -> None:
    ticket = proto_classes()["Ticket"]
    prefix = {
        "avro": lambda: _avro_writer(registry)(TICKET)[:5],
        "protobuf": lambda: _proto_writer(registry)(ticket(id="a"))[:5],
        "json": lambda: _json_writer(registry)({"id": "a"})[:5],
    }[which]()
    operation = decode(registry, prefix + body)
    assert isinstance(operation, Put | Delete | Rejected)


@given(id_=texts, text=texts, size=st.integers(-(2**63), 2**63 - 1), rank=st.floats())
def test_any_protobuf_message_is_stored_or_refused_with_a_reason(
    registry: FakeSchemaRegistry, id_: str, text: str, size: int, rank: float
) -> None:
    ticket = proto_classes()["Ticket"](id=id_, text=text, size=size, rank=rank)
    operation = decode(registry, _proto_writer(registry)(ticket))
    if isinstance(operation, Put):
        metadata = operation.document.metadata
        assert (operation.document.doc_id, operation.document.text) == (id_ or "k", text)
        assert (metadata["size"], metadata["rank"]) == (size, rank)
    else:
        assert isinstance(operation, Rejected)
        assert operation.message


_WRITERS: dict[str, registered.Write] = {}


def _avro_writer(registry: FakeSchemaRegistry) -> registered.Write:
    return _WRITERS.setdefault("avro", registered.avro(registry.address))


def _proto_writer(registry: FakeSchemaRegistry) -> registered.Write:
    return _WRITERS.setdefault("protobuf", registered.protobuf(registry.address, proto_classes()["Ticket"]))


def _json_writer(registry: FakeSchemaRegistry) -> registered.Write:
    return _WRITERS.setdefault("json", registered.json_schema(registry.address))


@pytest.mark.parametrize("package", ["fastavro", "google.protobuf"])
def test_without_the_extra_the_start_says_what_to_install(
    registry: FakeSchemaRegistry, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"pip install milvus-stream\[registry\]") as refused:
        decode(registry, None)
    assert refused.value.exit_code == 2
