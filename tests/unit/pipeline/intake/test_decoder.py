"""Refusals: one record for each reason, the sizes that are just allowed, and what a message may say."""

import json
from dataclasses import dataclass

import pytest

from pipeline.intake import Decoder, IntakeLimits, Reason, RecordMapping
from pipeline.records import MAX_DOC_ID_BYTES, MAX_METADATA_BYTES, Defect, Position, Put, Rejected, SourceRecord
from tests.support.documents import source_record
from tests.unit.pipeline.intake.decoding import NOW_MS, SKEW_MS, decode, record_of, rejected

SECRET = "SECRET"
"""Stands in the text of records that are refused: no message may show it."""
PLAIN = RecordMapping()


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that is refused, and what its message has to name."""

    reason: Reason
    value: object
    names: str
    key: bytes | None = b"key"
    mapping: RecordMapping = PLAIN
    append: bool = False
    timestamp_ms: int = NOW_MS


_VERSIONED = RecordMapping(version_field="v")
_BY_TENANT = RecordMapping(tenant_field="org")
_DELETING = RecordMapping(delete_field="gone")
_JSON = RecordMapping(format="json")
BAD = [
    Bad(Reason.RECORD_TOO_LARGE, b"x" * 200_000, "kafka.max_record_bytes is 200,000"),
    Bad(Reason.UNSUPPORTED_FORMAT, b"\x00\x00\x00\x00\x01abc", "schema registry"),
    Bad(Reason.INVALID_UTF8, b"caf\xe9", "byte 3"),
    Bad(Reason.INVALID_UTF8, b'{"text": "\xff"}', "byte 10"),
    Bad(Reason.INVALID_UTF8, {"text": "x"}, "the key", key=b"\xff"),
    Bad(Reason.INVALID_UTF8, {"text": "x"}, "the key", key=b"\xed\xa0\x80"),
    Bad(Reason.INVALID_UTF8, None, "the key", key=b"\xff"),
    Bad(Reason.INVALID_JSON, b'{"text": "SECRET",}', "line 1, column 18"),
    Bad(Reason.INVALID_JSON, b'{"text": "SECRET', "end of data"),
    Bad(Reason.INVALID_JSON, b"", "empty", mapping=_JSON),
    Bad(Reason.LONE_SURROGATE, b'{"text": "SECRET\\ud800"}', "surrogate"),
    Bad(Reason.LONE_SURROGATE, b'{"text": "x", "\\udfff": 1}', "surrogate"),
    Bad(Reason.NOT_FINITE, b'{"text": "x", "a": NaN}', "NaN"),
    Bad(Reason.NOT_FINITE, b'{"text": "x", "a": -Infinity}', "infinity"),
    Bad(Reason.NOT_FINITE, b'{"text": "x", "a": 1e999}', "larger than a 64-bit float"),
    Bad(Reason.NOT_AN_OBJECT, b'["SECRET"]', "a list", mapping=_JSON),
    Bad(Reason.NOT_AN_OBJECT, b"null", "null", mapping=_JSON),
    Bad(Reason.NOT_AN_OBJECT, {"schema": {}, "payload": "SECRET"}, "payload beside the schema is a string"),
    Bad(Reason.NESTED_TOO_DEEP, b'{"text": "x", "a": ' + b"[" * 32 + b"]" * 32 + b"}", '"a" is nested over 32'),
    Bad(Reason.MISSING_ID, {"text": "x"}, '"id" is missing', key=None),
    Bad(Reason.MISSING_ID, {"id": "", "text": "x"}, '"id" is empty'),
    Bad(Reason.MISSING_ID, {"id": " \t", "text": "x"}, '"id" is empty'),
    Bad(Reason.MISSING_ID, {"text": "x"}, "the key is empty", key=b" "),
    Bad(Reason.MISSING_ID, {"text": "x"}, "the key is empty", key=b""),
    Bad(Reason.INVALID_ID, {"id": True, "text": "x"}, '"id" must be a string or an integer'),
    Bad(Reason.INVALID_ID, {"id": 1.0, "text": "x"}, '"id" must be a string or an integer'),
    Bad(Reason.INVALID_ID, {"id": ["a"], "text": "x"}, '"id" must be a string or an integer'),
    Bad(Reason.ID_TOO_LONG, {"id": "x" * 1025, "text": "x"}, "1,025 bytes"),
    Bad(Reason.ID_TOO_LONG, {"text": "x"}, "the key has 1,026 bytes", key="é".encode() * 513),
    Bad(Reason.ID_TOO_LONG, None, "the key has 1,025 bytes", key=b"x" * 1025),
    Bad(Reason.MISSING_TEXT, {"id": "a"}, '"text"'),
    Bad(Reason.MISSING_TEXT, {"id": "a", "text": None}, '"text"'),
    Bad(Reason.EMPTY_TEXT, {"text": ""}, '"text"'),
    Bad(Reason.EMPTY_TEXT, {"text": " \n\u3000"}, '"text"'),
    Bad(Reason.EMPTY_TEXT, b"", '"text"'),
    Bad(Reason.EMPTY_TEXT, b"\xef\xbb\xbf", '"text"'),
    Bad(Reason.EMPTY_TEXT, {"text": "\u200b \x00\u2060"}, '"text"'),
    Bad(Reason.INVALID_TEXT, {"text": ["SECRET"]}, '"text" must be a string'),
    Bad(Reason.INVALID_TEXT, {"text": 5}, '"text" must be a string'),
    Bad(Reason.INVALID_EVENT_TIME, {"text": "x", "event_time": "yesterday"}, "RFC 3339"),
    Bad(Reason.INVALID_EVENT_TIME, {"text": "x", "event_time": "1795348800"}, "RFC 3339"),
    Bad(Reason.INVALID_EVENT_TIME, {"text": "x", "event_time": True}, "true or false"),
    Bad(Reason.INVALID_EVENT_TIME, {"text": "x", "event_time": NOW_MS * 1000}, "micro- or nanoseconds"),
    Bad(Reason.INVALID_EVENT_TIME, {"text": "x", "event_time": NOW_MS * 10**6}, "micro- or nanoseconds"),
    Bad(Reason.INVALID_EVENT_TIME, {"text": "x", "event_time": -1}, "negative"),
    Bad(Reason.INVALID_EVENT_TIME, {"text": "x"}, "Kafka has no timestamp", timestamp_ms=-1),
    Bad(Reason.EVENT_TIME_IN_FUTURE, {"text": "x", "event_time": NOW_MS + 3_600_000}, "3,600 s ahead"),
    Bad(Reason.EVENT_TIME_IN_FUTURE, {"text": "x"}, "Kafka's timestamp", timestamp_ms=2**63 - 1),
    Bad(Reason.EVENT_TIME_TOO_OLD, {"text": "x", "event_time": "2020-01-01"}, "partitioning.max_event_age"),
    Bad(Reason.EVENT_TIME_TOO_OLD, {"text": "x"}, "Kafka's timestamp", timestamp_ms=0),
    Bad(Reason.INVALID_VERSION, {"text": "x"}, '"v" is missing', mapping=_VERSIONED),
    Bad(Reason.INVALID_VERSION, {"text": "x", "v": True}, '"v" must be an integer', mapping=_VERSIONED),
    Bad(Reason.INVALID_VERSION, {"text": "x", "v": 1.5}, '"v" must be an integer', mapping=_VERSIONED),
    Bad(Reason.INVALID_VERSION, {"text": "x", "v": 2**63}, '"v" must be an integer of 64', mapping=_VERSIONED),
    Bad(Reason.INVALID_VERSION, {"text": "x", "v": "7"}, '"v" is not an RFC 3339', mapping=_VERSIONED),
    Bad(Reason.INVALID_TENANT, {"text": "x"}, '"org" must be', mapping=_BY_TENANT),
    Bad(Reason.INVALID_TENANT, {"text": "x", "org": " "}, '"org" must be', mapping=_BY_TENANT),
    Bad(Reason.INVALID_TENANT, {"text": "x", "org": False}, '"org" must be', mapping=_BY_TENANT),
    Bad(Reason.INVALID_TENANT, {"text": "x", "org": "é" * 513}, '"org" must be', mapping=_BY_TENANT),
    Bad(Reason.INVALID_DELETE_FLAG, {"text": "x", "gone": "true"}, '"gone" must be true', mapping=_DELETING),
    Bad(Reason.INVALID_DELETE_FLAG, {"text": "x", "gone": 1}, '"gone" must be true', mapping=_DELETING),
    Bad(Reason.INVALID_METADATA, {"text": "x", "": 1}, '""'),
    Bad(Reason.INVALID_METADATA, {"text": "x", "a\nb": 1}, '"a\\nb"'),
    Bad(Reason.INVALID_METADATA, {"text": "x", "a\x85": 1}, '"a\\u0085"'),
    Bad(Reason.METADATA_TOO_LARGE, {"text": "x", "a": "é" * 33_000}, "65,536"),
    Bad(Reason.DELETE_WITHOUT_KEY, None, "no key", key=None),
    Bad(Reason.DELETE_WITHOUT_KEY, None, "no key", key=b""),
    Bad(Reason.DELETE_WITHOUT_TENANT, None, "record.delete_field", mapping=_BY_TENANT),
    Bad(Reason.DELETE_IN_APPEND_MODE, None, "append", append=True),
    Bad(Reason.DELETE_IN_APPEND_MODE, {"gone": True}, "append", append=True, mapping=_DELETING),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.reason}-{str(bad.value)[:30]}")
def test_a_bad_record_is_refused_with_its_reason_and_what_to_do(bad: Bad) -> None:
    refused = rejected(bad.value, bad.key, mapping=bad.mapping, append=bad.append, timestamp_ms=bad.timestamp_ms)
    assert refused.reason == bad.reason
    assert bad.names in refused.message
    assert refused.record == record_of(bad.value, bad.key, bad.timestamp_ms)
    assert SECRET not in refused.message
    assert refused.message.isprintable()


FOUND_ELSEWHERE = {
    Reason.INVALID_HEADER_NAME,  # found while reading, see below
    Reason.NO_DOCUMENT,  # see formats/test_debezium.py
    # With a schema registry, see formats/registry.
    Reason.NO_SCHEMA_ID,
    Reason.UNKNOWN_SCHEMA,
    Reason.UNUSABLE_SCHEMA,
    Reason.INVALID_BODY,
}


def test_every_reason_has_a_record_that_shows_it() -> None:
    assert {bad.reason for bad in BAD} == set(Reason) - FOUND_ELSEWHERE


@pytest.mark.parametrize("value", [b'{"text": "x"}', None, b"\xff" * 200_000])
def test_a_record_with_a_defect_is_refused_for_that(value: bytes | None) -> None:
    defect = Defect(Reason.INVALID_HEADER_NAME, "the name of header 1 is not UTF-8")
    record = SourceRecord(Position("docs", 0, 0), NOW_MS, b"key", value, defect=defect)
    operation = Decoder(PLAIN, IntakeLimits(1_000, SKEW_MS, None), append=False).decode(record, NOW_MS)
    assert operation == Rejected(record, "decode", "invalid_header_name", "the name of header 1 is not UTF-8")


@pytest.mark.parametrize("mapping", [PLAIN, RecordMapping(format="text")])
def test_a_schema_named_in_a_header_is_not_taken_for_text(mapping: RecordMapping) -> None:
    """Avro of a record with one string `ok`: valid UTF-8, stored as a text if nobody looks at the header."""
    headers = (("trace", b"1"), ("__value_schema_id", b"\x01" + bytes(16)))
    record = source_record(b"\x04ok", headers=headers)
    decoder = Decoder(mapping, IntakeLimits(1_000, SKEW_MS, None), append=False)
    operation = decoder.decode(record, NOW_MS)
    assert isinstance(operation, Rejected)
    assert operation.reason == Reason.UNSUPPORTED_FORMAT
    assert "__value_schema_id" in operation.message


def test_json_of_a_schema_named_in_a_header_is_read() -> None:
    headers = (("__value_schema_id", b"\x01" + bytes(16)),)
    record = source_record(b'{"text": "x"}', headers=headers)
    assert isinstance(Decoder(PLAIN, IntakeLimits(1_000, SKEW_MS, None), append=False).decode(record, NOW_MS), Put)


def test_reasons_are_words_for_metrics() -> None:
    assert all(reason.value == reason.name.lower() for reason in Reason)


def test_names_in_messages_are_cut() -> None:
    assert len(rejected({"text": "x", "\n" * 5_000: 1}).message) < 500
    assert len(rejected({"text": "x", "\n" + "\U0001f600" * 5_000: 1}).message) < 1_000


def test_a_name_in_any_script_is_shown_as_it_is_written() -> None:
    assert '"größe名前"' in rejected({"text": "x", "größe名前": 2**63}).message


@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
@pytest.mark.parametrize("in_key", [True, False])
def test_ids_are_measured_in_bytes(character: str, in_key: bool) -> None:
    size = len(character.encode())
    fits = character * (MAX_DOC_ID_BYTES // size) + "a" * (MAX_DOC_ID_BYTES % size)
    for doc_id in (fits[:-1], fits, fits + "a"):
        value, key = ({"text": "x"}, doc_id.encode()) if in_key else ({"text": "x", "id": doc_id}, None)
        operation = decode(value, key)
        assert isinstance(operation, Put) == (len(doc_id.encode()) <= MAX_DOC_ID_BYTES)


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
@pytest.mark.parametrize("org", [None, "acme"])
def test_metadata_is_measured_as_the_bytes_it_is_stored_as(over: int, character: str, org: str | None) -> None:
    rest = MAX_METADATA_BYTES - len('{"a":""}') + over - (0 if org is None else len(',"tenant":"acme"'))
    size = len(character.encode())
    filled = character * (rest // size) + "a" * (rest % size)
    mapping = RecordMapping(tenant_field=None if org is None else "org")
    value = {"text": "x", "a": filled} | ({} if org is None else {"org": org})
    operation = decode(json.dumps(value, ensure_ascii=False).encode(), mapping=mapping)
    assert (operation.reason if isinstance(operation, Rejected) else None) == (
        Reason.METADATA_TOO_LARGE if over > 0 else None
    )


def test_short_numbers_that_are_stored_long_are_measured_too() -> None:
    raw = b'{"text":"x","a":[' + b",".join([b"1e15"] * 4_000) + b"]}"
    assert len(raw) < MAX_METADATA_BYTES // 2
    assert rejected(raw).reason == Reason.METADATA_TOO_LARGE


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_record_is_measured_with_key_and_headers(over: int) -> None:
    record = source_record(b"text", headers=(("h", b"12"), ("n", None)))
    decoder = Decoder(RecordMapping(), IntakeLimits(record.size - over, SKEW_MS, None), append=False)
    operation = decoder.decode(record, NOW_MS)
    assert (operation.reason if isinstance(operation, Rejected) else None) == (
        Reason.RECORD_TOO_LARGE if over > 0 else None
    )
