"""CloudEvents in binary and structured mode and in batches, made by the SDK of CloudEvents."""

import json
from typing import Any

import pytest
from cloudevents.http import CloudEvent
from cloudevents.kafka import to_binary, to_structured
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import Decoder, Reason, RecordMapping
from pipeline.records import Delete, Document, Operation, Position, Put, Rejected, SourceRecord
from tests.unit.pipeline.intake.decoding import LIMITS, NOW_MS

ATTRIBUTES = {
    "id": "event-1",
    "source": "/desk",
    "type": "ticket.changed",
    "subject": "ticket-7",
    "time": "2026-11-22T09:30:00Z",
    "datacontenttype": "application/json",
}
DATA = {"id": "ticket-7", "text": "The refund failed.", "lang": "en"}
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
BATCH = [("content-type", b"application/cloudevents-batch+json")]


def decoded(
    value: object, headers: Any = (), key: bytes | None = b"key", mapping: RecordMapping | None = None
) -> Operation:
    raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    record = SourceRecord(Position("events", 0, 0), NOW_MS, key, raw, tuple(headers))
    return Decoder(mapping or RecordMapping(), LIMITS, append=False).decode(record, NOW_MS)


def document(*arguments: Any, **options: Any) -> Document:
    operation = decoded(*arguments, **options)
    assert isinstance(operation, Put), operation
    return operation.document


def rejected(*arguments: Any, **options: Any) -> Rejected:
    operation = decoded(*arguments, **options)
    assert isinstance(operation, Rejected), operation
    return operation


def binary(attributes: dict[str, Any] = ATTRIBUTES, data: Any = DATA) -> tuple[bytes, list[tuple[str, bytes]]]:
    message = to_binary(CloudEvent(attributes, data))
    assert isinstance(message.value, bytes)
    return message.value, list(message.headers.items())


def structured(attributes: dict[str, Any] = ATTRIBUTES, data: Any = DATA) -> bytes:
    value = to_structured(CloudEvent(attributes, data)).value
    return value if isinstance(value, bytes) else value.encode()


@pytest.mark.parametrize("mapping", [RecordMapping(), RecordMapping(format="cloudevents")], ids=["auto", "cloudevents"])
@pytest.mark.parametrize("mode", ["binary", "structured", "structured without a content type", "batch"])
def test_the_data_is_the_document_and_the_attributes_are_fields(mode: str, mapping: RecordMapping) -> None:
    value, headers = {
        "binary": binary(),
        "structured": (structured(), STRUCTURED),
        "structured without a content type": (structured(), []),
        "batch": (b"[" + structured() + b"]", BATCH),
    }[mode]
    made = document(value, headers, mapping=mapping)
    assert (made.doc_id, made.text) == ("ticket-7", "The refund failed.")
    assert made.metadata == {
        "lang": "en",
        "ce_id": "event-1",
        "ce_source": "/desk",
        "ce_type": "ticket.changed",
        "ce_subject": "ticket-7",
        "ce_time": "2026-11-22T09:30:00Z",
    }


def test_a_field_of_the_data_is_kept_where_an_attribute_has_its_name() -> None:
    value, headers = binary(data={**DATA, "ce_id": "of the data"})
    assert document(value, headers).metadata["ce_id"] == "of the data"


def test_attributes_can_be_id_and_time() -> None:
    mapping = RecordMapping(id_field="ce_subject", time_field="ce_time")
    value, headers = binary(data={"text": "x"})
    made = document(value, headers, mapping=mapping)
    assert (made.doc_id, made.event_time) == ("ticket-7", 1_795_339_800_000)


def test_text_and_bytes() -> None:
    plain = {**ATTRIBUTES, "datacontenttype": "text/plain"}
    assert document({**plain, "specversion": "1.0", "data": "A text."}, STRUCTURED).text == "A text."
    assert document(b"A text.", [("ce_specversion", b"1.0"), ("content-type", b"text/plain")]).text == "A text."
    encoded = {**ATTRIBUTES, "specversion": "1.0", "data_base64": "eyJ0ZXh0IjogIngifQ=="}
    assert document(encoded, STRUCTURED).text == "x"


@pytest.mark.parametrize("in_value", [False, True])
def test_a_text_has_the_attributes_as_fields(in_value: bool) -> None:
    mapping = RecordMapping(id_field="ce_subject", text_field="body")
    plain = {**ATTRIBUTES, "datacontenttype": "Text/Plain"}
    value: Any = {**plain, "specversion": "1.0", "data": "A text."}
    headers: Any = STRUCTURED
    if not in_value:
        value = b"A text."
        headers = [(f"ce_{name}", text.encode()) for name, text in ATTRIBUTES.items() if name != "datacontenttype"]
        headers += [("ce_specversion", b"1.0"), ("content-type", b"Text/Plain")]
    made = document(value, headers, mapping=mapping)
    assert (made.doc_id, made.text, made.metadata["ce_type"]) == ("ticket-7", "A text.", "ticket.changed")


def test_an_event_without_a_value_deletes_the_document_of_its_key() -> None:
    operation = decoded(None, [("ce_specversion", b"1.0")])
    assert isinstance(operation, Delete)
    assert operation.doc_id == "key"


@pytest.mark.parametrize(
    ("value", "headers", "reason", "words"),
    [
        ([ATTRIBUTES, ATTRIBUTES], BATCH, Reason.NO_DOCUMENT, "2 events"),
        ([], BATCH, Reason.NO_DOCUMENT, "0 events"),
        (b"[", BATCH, Reason.INVALID_JSON, "batch of CloudEvents"),
        ({"id": "1", "data": {}}, STRUCTURED, Reason.NO_DOCUMENT, '"source", "specversion", "type"'),
        ({**ATTRIBUTES, "specversion": "1.0"}, STRUCTURED, Reason.NOT_AN_OBJECT, "null"),
        ({**ATTRIBUTES, "specversion": "1.0", "data": "x"}, STRUCTURED, Reason.NOT_AN_OBJECT, "a string"),
        ({**ATTRIBUTES, "specversion": "1.0", "data_base64": "!"}, STRUCTURED, Reason.INVALID_BODY, "data_base64"),
        (b"x", [("ce_specversion", b"1.0"), ("content-type", b"image/png")], Reason.UNSUPPORTED_FORMAT, "image/png"),
        (DATA, [("ce_specversion", b"1.0"), ("ce_id", b"\xff")], Reason.INVALID_UTF8, "ce_id"),
        (DATA, [("ce_specversion", b"9.9")], Reason.UNSUPPORTED_FORMAT, "9.9"),
        (b"\x02avro", [("content-type", b"application/cloudevents+avro")], Reason.UNSUPPORTED_FORMAT, "+avro"),
    ],
)
def test_what_is_no_document_is_refused(value: object, headers: Any, reason: Reason, words: str) -> None:
    verdict = rejected(value, headers)
    assert (verdict.reason, words in verdict.message) == (reason, True), verdict.message


def test_a_batch_is_read_as_exactly_and_as_deep_as_a_value() -> None:
    event = {**ATTRIBUTES, "specversion": "1.0"}
    digits = json.dumps([{**event, "data": {"id": 12345678901234567890123, "text": "x"}}]).encode()
    assert document(digits, BATCH).doc_id == "12345678901234567890123"
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    assert rejected([{**event, "data": {**DATA, "deep": deep}}], BATCH).reason == Reason.NESTED_TOO_DEEP


def test_another_record_in_the_format_cloudevents_is_refused() -> None:
    verdict = rejected(DATA, mapping=RecordMapping(format="cloudevents"))
    assert (verdict.reason, "ce_specversion" in verdict.message) == (Reason.UNSUPPORTED_FORMAT, True)


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(-9, 9) | TEXTS | st.booleans(), max_size=3),
    TEXTS.map(lambda text: f"t{text}"),
    st.booleans(),
)
def test_round_trip(metadata: dict[str, Any], text: str, in_value: bool) -> None:
    data = {**metadata, "text": text, "id": "1"}
    value, headers = (structured(data=data), STRUCTURED) if in_value else binary(data=data)
    made = document(value, headers)
    assert made.text == text
    assert {name: value for name, value in made.metadata.items() if not name.startswith("ce_")} == metadata
