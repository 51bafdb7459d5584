"""Dead letters cut to size, and read back, for anything a record can hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dead_letters.envelope import (
    CONNECT,
    MAX_MESSAGE_BYTES,
    MAX_STACK_BYTES,
    OWN,
    decode_dead_letter,
    encode_dead_letter,
    fitted,
    retimed,
)
from pipeline.records import Defect, Position, Rejected, SourceRecord
from tests.support.documents import source_record
from tests.support.examples import examples

NAMES = st.text(max_size=20) | st.sampled_from(
    [CONNECT + "topic", CONNECT + "stage", OWN + "reason", OWN + "origin", OWN + "null-headers"]
)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=3_000)), max_size=6).map(tuple)
RECORDS = st.builds(
    SourceRecord,
    st.builds(Position, st.just("t"), st.integers(0, 9), st.integers(0, 2**62)),
    st.integers(0, 2**42),
    st.none() | st.binary(max_size=5_000),
    st.none() | st.binary(max_size=20_000),
    HEADERS,
)

REJECTED = st.builds(Rejected, RECORDS, st.just("decode"), st.just("bad"), st.text(max_size=4_000))


@given(REJECTED, st.integers(2_048, 60_000))
@examples(1.5)
def test_a_letter_fits_and_keeps_what_fits(rejected: Rejected, limit: int) -> None:
    whole = encode_dead_letter(rejected, pipeline="p", worker="w")
    record = rejected.record
    assert (whole.key, whole.value, whole.timestamp_ms) == (record.key, record.value, record.timestamp_ms)
    assert whole.headers[: len(record.headers)] == tuple((name, value or b"") for name, value in record.headers)
    cut = fitted(whole, limit)
    assert cut.size <= limit
    assert (cut is whole) == (whole.size <= limit)
    assert (cut.value is None) == (record.value is None)
    assert (cut.key is None) == (record.key is None)
    assert (record.value or b"").startswith(cut.value or b"")
    assert (record.key or b"").startswith(cut.key or b"")


@given(REJECTED)
def test_what_is_read_back_is_what_was_written(rejected: Rejected) -> None:
    record = rejected.record
    made = encode_dead_letter(rejected, pipeline="p", worker="w")
    names = [name for name, _ in made.headers]
    assert len([n for n in names if n.startswith(CONNECT)]) >= 10
    found = decode_dead_letter(
        source_record(made.value, made.key, timestamp_ms=made.timestamp_ms, headers=made.headers)
    )
    foreign = tuple(pair for pair in record.headers if not pair[0].startswith((CONNECT, OWN)))
    assert found.original_headers == foreign
    # Whatever headers the record claims for itself.
    assert (found.topic, found.partition, found.offset) == tuple(record.position)
    assert (found.reason, found.timestamp_ms) == ("bad", record.timestamp_ms)


def test_message_and_stack_are_bounded_in_bytes() -> None:
    record = source_record(b"v", b"k")
    headers = dict(encode_dead_letter(Rejected(record, "decode", "r", "é" * 9_000), pipeline="p", worker="w").headers)
    assert len(headers[CONNECT + "exception.message"]) == MAX_MESSAGE_BYTES
    assert MAX_STACK_BYTES - 1 <= len(headers[CONNECT + "exception.stacktrace"]) <= MAX_STACK_BYTES


def test_a_lone_surrogate_in_the_message_is_written_escaped() -> None:
    record = source_record(b"v", b"k")
    headers = dict(encode_dead_letter(Rejected(record, "decode", "r", "id \ud800"), pipeline="p", worker="w").headers)
    assert headers[CONNECT + "exception.message"] == rb"id \ud800"


def test_a_refused_timestamp_is_kept_in_a_header() -> None:
    record = source_record(b"v", b"k", timestamp_ms=12_345)
    made = retimed(encode_dead_letter(Rejected(record, "decode", "r", "m"), pipeline="p", worker="w"))
    assert made.timestamp_ms == -1
    assert made.headers[-1] == (OWN + "original-timestamp", b"12345")


def test_a_dead_letter_of_another_program_is_decoded_with_the_fields_it_has() -> None:
    found = decode_dead_letter(
        SourceRecord(Position("dlq", 0, 0), 0, None, None, (("x", b"1"), (CONNECT + "offset", b"?")))
    )
    assert (found.topic, found.partition, found.offset, found.reason) == ("", None, None, "unknown")


@pytest.mark.parametrize("nulls", ["1" * 4_301, "0,x", "-1", "٣", "1,,2", "18446744073709551616"])
def test_a_dead_letter_with_a_list_that_we_would_not_write_is_another_programs(nulls: str) -> None:
    headers = ((OWN + "reason", b"bad_time"), (OWN + "origin", b"t/0/5"), (OWN + "null-headers", nulls.encode()))
    found = decode_dead_letter(SourceRecord(Position("dlq", 0, 0), 7, b"k", b"v", (("x", b"1"), *headers)))
    assert (found.reason, found.topic, found.offset, found.timestamp_ms) == ("unknown", "", None, 7)
    assert "null-headers is malformed" in found.message
    assert found.original_headers == (("x", b"1"),)


def test_what_was_cut_on_reading_keeps_its_full_size_when_it_is_cut_again() -> None:
    notes = (("truncated-value-size", "200000000"), ("truncated-value-sha256", "ab"))
    forged = ((OWN + "truncated-value-size", b"1"),)
    record = SourceRecord(Position("t", 0, 0), 7, b"k" * 900, b"v" * 2**20, forged, defect=Defect("r", "m", notes))
    found = fitted(encode_dead_letter(Rejected(record, "decode", "r", "m"), pipeline="p", worker="w"), 3_000)
    assert found.size <= 3_000
    assert dict(found.headers)[OWN + "truncated-value-size"] == b"200000000"
    assert dict(found.headers)[OWN + "truncated-value-sha256"] == b"ab"
