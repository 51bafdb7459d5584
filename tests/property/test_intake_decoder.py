"""Whatever a record holds, decoding answers: a document that can be stored with nothing lost, or a precise reason."""

import json
import math
from typing import Any
from unicodedata import category

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.intake import Decoder, IntakeLimits, Reason, RecordMapping
from pipeline.records import (
    MAX_DOC_ID_BYTES,
    MAX_METADATA_BYTES,
    Delete,
    Operation,
    Put,
    Rejected,
    SourceRecord,
)
from tests.support.documents import source_record

NOW_MS = 1_795_348_800_000
SKEW_MS = 600_000
MAX_EVENT_AGE_MS = 10 * 366 * 86_400_000
LIMITS = IntakeLimits(100_000, SKEW_MS, MAX_EVENT_AGE_MS)
RESERVED = ["id", "text", "event_time", "chunk", "doc_id", "tenant", "vector", "$meta", "meta_chunk", "meta_meta_chunk"]

mappings = st.builds(
    RecordMapping,
    format=st.sampled_from(["auto", "json", "text"]),
    version_field=st.sampled_from([None, "v"]),
    tenant_field=st.sampled_from([None, "org"]),
    delete_field=st.sampled_from([None, "gone"]),
)
timestamps = st.integers(-(2**63), 2**63 - 1) | st.integers(NOW_MS - 1_000, NOW_MS + 1_000)
headers = st.lists(
    st.tuples(st.text(max_size=4) | st.just("__value_schema_id"), st.none() | st.binary(max_size=4)), max_size=3
).map(tuple)
characters = st.characters() | st.characters(categories=["Cs"]) | st.characters(categories=["Cc", "Cf", "Zs"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
names = st.sampled_from([*RESERVED, "v", "org", "gone", "schema", "payload"]) | st.text(max_size=5)
near_records = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=4) | st.integers() | json_values,
        "text": st.text(max_size=20) | json_values,
        "event_time": st.integers(NOW_MS - 1_000, NOW_MS) | st.just("2026-11-22T11:00:00Z") | json_values,
        "v": st.integers() | json_values,
        "org": st.text(max_size=3) | json_values,
        "gone": st.booleans() | json_values,
    },
)

objects = st.builds(lambda near, more: {**more, **near}, near_records, st.dictionaries(names, json_values, max_size=5))


def _decode(
    value: bytes | None,
    key: bytes | None = b"key",
    timestamp_ms: int = NOW_MS,
    mapping: RecordMapping | None = None,
    *,
    append: bool = False,
    headers: tuple[tuple[str, bytes | None], ...] = (),
) -> Operation:
    decoder = Decoder(mapping or RecordMapping(), LIMITS, append=append)
    record = source_record(value, key, at=("t", 0, 7), timestamp_ms=timestamp_ms, headers=headers)
    operation = decoder.decode(record, NOW_MS)
    assert decoder.decode(record, NOW_MS) == operation
    _check(operation, record)
    return operation


def _check(operation: Operation, record: SourceRecord) -> None:
    """What holds of every operation: it can be stored as it is, or says why it cannot."""
    assert operation.position == record.position
    if isinstance(operation, Rejected):
        assert operation.record is record
        assert operation.reason in set(Reason)
        assert operation.stage in {"decode", "validate"}
        assert operation.message
        assert operation.message.isprintable()
        assert len(operation.message) < 1_000
        return
    tenant, doc_id = operation.key
    assert 0 < len(doc_id.encode()) <= MAX_DOC_ID_BYTES
    assert doc_id.strip()
    assert tenant is None or 0 < len(tenant.encode()) <= MAX_DOC_ID_BYTES
    assert operation.version is None or -(2**63) <= operation.version < 2**63
    if isinstance(operation, Put):
        document = operation.document
        assert _readable(document.text)
        assert document.text.encode()
        assert NOW_MS - MAX_EVENT_AGE_MS <= document.event_time <= NOW_MS + SKEW_MS
        assert len(orjson.dumps(dict(document.metadata))) <= MAX_METADATA_BYTES
        assert not set(document.metadata) & {"id", "text", "event_time", "chunk", "doc_id", "tenant", "vector", "$meta"}


@given(
    value=st.binary(max_size=60) | st.none(),
    key=st.binary(max_size=8) | st.none(),
    headers=headers,
    timestamp_ms=timestamps,
    mapping=mappings,
    append=st.booleans(),
)
@example(value=b"\xef\xbb\xbf{", key=b"k", headers=(), timestamp_ms=NOW_MS, mapping=RecordMapping(), append=False)
def test_any_bytes_at_all_give_an_operation(
    *,
    value: bytes | None,
    key: bytes | None,
    headers: tuple[tuple[str, bytes | None], ...],
    timestamp_ms: int,
    mapping: RecordMapping,
    append: bool,
) -> None:
    operation = _decode(value, key, timestamp_ms, mapping, append=append, headers=headers)
    assert not (append and isinstance(operation, Delete))


@given(objects, mappings, st.booleans(), st.data())
def test_json_with_a_few_bytes_changed_gives_an_operation(
    value: dict[str, Any], mapping: RecordMapping, append: bool, data: st.DataObject
) -> None:
    raw = bytearray(json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(start, min(start + 3, len(raw))))
        pieces = st.sampled_from(
            [b"", b"NaN", b"1e999", b"\\ud800", b'"', b"{", b"[" * 40, b"9" * 25, b"\xff", b"\x00"]
        )
        raw[start:end] = data.draw(pieces)
    _decode(bytes(raw), mapping=mapping, append=append)


@given(objects, mappings)
def test_a_document_keeps_every_field_it_had(value: dict[str, Any], mapping: RecordMapping) -> None:
    raw = json.dumps(value).encode()
    operation = _decode(raw, mapping=mapping)
    if mapping.format == "text" or not isinstance(operation, Put) or value.keys() == {"schema", "payload"}:
        return
    more = (mapping.version_field, mapping.tenant_field, mapping.delete_field)
    consumed = {"id", "text", "event_time", *filter(None, more)}
    metadata = operation.document.metadata
    given_fields = {name: field for name, field in value.items() if name not in consumed}
    assert operation.document.text == value["text"]
    assert len(metadata) == len(given_fields)
    for name, field in given_fields.items():
        kept_as = [name, *(f"{'meta_' * count}{name}" for count in range(1, 5))]
        assert any(_same(metadata[kept], field) for kept in kept_as if kept in metadata)
    untouched = given_fields.keys() - {"chunk", "doc_id", "tenant", "vector", "$meta"}
    assert all(_same(metadata[name], given_fields[name]) for name in untouched)


def _same(kept: object, sent: object) -> bool:
    """Equal in type and every digit; -0.0 and 0.0 are two values."""
    return json.dumps(kept, sort_keys=True) == json.dumps(sent, sort_keys=True)


@given(json_values)
def test_metadata_is_refused_only_for_an_integer_beyond_64_bits_or_a_name(field: object) -> None:
    operation = _decode(json.dumps({"text": "x", "a": field}).encode())
    if _fits(field):
        assert isinstance(operation, Put)
        assert _same(operation.document.metadata, {"a": field})
    else:
        assert isinstance(operation, Rejected)
        assert operation.reason in {Reason.INVALID_METADATA, Reason.NOT_FINITE}


def _fits(value: object) -> bool:
    if isinstance(value, dict | list):
        return all(_fits(item) for item in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


@given(st.lists(characters, min_size=1, max_size=4).map("".join), st.sampled_from(["id", "text", "a", "name", "deep"]))
def test_a_lone_surrogate_is_refused_at_every_place(drawn: str, place: str) -> None:
    # Two halves side by side are written as one escaped pair, and read as one character.
    written = json.loads(json.dumps(drawn))
    value: dict[str, Any] = {"text": "x" + written} if place == "text" else {"text": "x", place: "y" + written}
    if place == "name":
        value = {"text": "x", "y" + written: 1}
    elif place == "deep":
        value = {"text": "x", "a": [{"b" + written: 1}]}
    lone = any("\ud800" <= character <= "\udfff" for character in written)
    operation = _decode(json.dumps(value).encode())
    assert (isinstance(operation, Rejected) and operation.reason == Reason.LONE_SURROGATE) == lone


def _readable(text: str) -> bool:
    return any(not c.isspace() and category(c) not in {"Cc", "Cf"} for c in text)


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Zs"])), st.text(max_size=4))
def test_a_text_is_stored_as_it_is(text: str, key: str) -> None:
    operation = _decode(text.encode(), key.encode(), mapping=RecordMapping(format="text"))
    if text.startswith("\x00"):
        reason: Reason | None = Reason.UNSUPPORTED_FORMAT
    elif not _readable(text):
        reason = Reason.EMPTY_TEXT if key.strip() else Reason.MISSING_ID
    else:
        reason = None if key.strip() else Reason.MISSING_ID
    if reason is None:
        assert isinstance(operation, Put)
        assert (operation.document.text, operation.document.doc_id) == (text, key)
    else:
        assert isinstance(operation, Rejected)
        assert operation.reason == reason


@given(st.sampled_from("aé€😀"), st.sampled_from("aé€😀"), st.integers(-1, 1), st.booleans())
def test_an_id_is_measured_in_bytes(character: str, last: str, over: int, in_key: bool) -> None:
    room = MAX_DOC_ID_BYTES + over - len(last.encode())
    size = len(character.encode())
    doc_id = character * (room // size) + "a" * (room % size) + last
    assert len(doc_id.encode()) == MAX_DOC_ID_BYTES + over
    value: dict[str, str] = {"text": "x"} if in_key else {"text": "x", "id": doc_id}
    operation = _decode(json.dumps(value).encode(), doc_id.encode() if in_key else None)
    if over > 0:
        assert isinstance(operation, Rejected)
        assert operation.reason == Reason.ID_TOO_LONG
    else:
        assert isinstance(operation, Put)


@given(
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(2**80), 2**80)
    | st.integers(NOW_MS - 2 * MAX_EVENT_AGE_MS, NOW_MS + 2 * SKEW_MS)
    | st.integers((NOW_MS - 2 * MAX_EVENT_AGE_MS) // 1000, (NOW_MS + 2 * SKEW_MS) // 1000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(0, 1e10)
    | st.text(max_size=30)
    | st.datetimes().map(lambda moment: moment.isoformat())
)
def test_whatever_stands_for_the_event_time_it_is_in_the_window_or_refused(event_time: float | str) -> None:
    operation = _decode(json.dumps({"text": "x", "event_time": event_time}).encode())
    if isinstance(operation, Rejected):
        times = {Reason.INVALID_EVENT_TIME, Reason.EVENT_TIME_IN_FUTURE, Reason.EVENT_TIME_TOO_OLD}
        assert operation.reason in times
    elif isinstance(event_time, int | float):
        assert isinstance(operation, Put)
        unit = 1 if event_time >= 10**11 else 1_000
        assert math.isclose(operation.document.event_time, event_time * unit, abs_tol=1.0)
