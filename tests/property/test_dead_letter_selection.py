"""The selection of dead letters to retry: newer versions of a document, and dead letters of one record."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from consumers.dead_letters import DeadLetter, decode_dead_letter
from consumers.dead_letters.envelope import encode_dead_letter
from consumers.dead_letters.selection import (
    DeadLetterFilter,
    origin_of,
    record_id,
    rejected_record,
    retry_headers,
    superseded,
)
from pipeline.errors import UsageError
from pipeline.records import Delete, Position, Rejected, SourceRecord
from pipeline.store.writing.protocol.decisions import NOWHERE, Decision, decide, final
from tests.support.documents import source_record

TOPIC_IDS = st.sampled_from(["", "one", "two"])
POSITIONS = st.builds(Position, st.sampled_from(["t", "u"]), st.integers(0, 1), st.integers(0, 5))
OPERATIONS = st.builds(
    Delete,
    position=POSITIONS,
    timestamp_ms=st.integers(0, 5),
    doc_id=st.just("d"),
    version=st.none() | st.integers(-2, 2),
    topic_id=TOPIC_IDS,
)

RECORDS = st.builds(
    SourceRecord,
    POSITIONS,
    st.integers(0, 3),
    st.none() | st.binary(max_size=2),
    st.none() | st.binary(max_size=2),
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.none() | st.binary(max_size=2)), max_size=3).map(tuple),
    TOPIC_IDS,
)


def read_back(record: SourceRecord) -> DeadLetter:
    made = encode_dead_letter(Rejected(record, "decode", "bad", "m"), pipeline="p", worker="w")
    return decode_dead_letter(source_record(made.value, made.key, timestamp_ms=made.timestamp_ms, headers=made.headers))


@given(OPERATIONS, OPERATIONS)
def test_what_ingest_would_drop_as_old_is_left_out(operation: Delete, newer: Delete) -> None:
    entry = final(newer, None, {}, "")
    if decide(entry, operation, None, "") is Decision.STALE:
        assert superseded(operation, [entry], {})


@given(OPERATIONS, OPERATIONS)
def test_a_record_that_is_retried_is_newer_in_some_way_than_all_entries(operation: Delete, other: Delete) -> None:
    """No document is set back: by version, by offset in one Kafka partition, else by Kafka's time."""
    assume(not superseded(operation, [final(other, None, {}, "")], {}))
    assert (
        (operation.version or 0) > (other.version or 0)
        or operation.position > other.position
        or operation.timestamp_ms > other.timestamp_ms
        # Of equal timestamps in two Kafka partitions a version counts more than none.
        or (operation.timestamp_ms == other.timestamp_ms and other.version is None)
    )


def test_a_record_from_before_a_null_value_is_left_out_whatever_its_version() -> None:
    rejected = Delete(Position("t", 0, 1), 1, "d", version=5)
    null = Delete(Position("t", 0, 2), 2, "d")
    again = Delete(Position("t", 0, 3), 3, "d", version=3)
    entry = final(again, None, {}, "", final(null, None, {}, ""))
    assert superseded(rejected, [entry], {})
    assert not superseded(replace(rejected, position=Position("t", 0, 4)), [entry], {})


@given(OPERATIONS)
def test_the_record_itself_is_as_new_as_it_is(operation: Delete) -> None:
    assert superseded(operation, [final(operation, None, {}, "")], {})
    assert not superseded(operation, [], {})
    assert not superseded(operation, [final(operation, None, {}, "")._replace(position=NOWHERE)], {})


@given(OPERATIONS, st.integers(6, 9))
def test_a_retried_record_counts_by_its_first_position(operation: Delete, later: int) -> None:
    older = replace(operation, position=operation.position._replace(offset=operation.position.offset - 1))
    assume(older.position.offset >= 0)
    moved_to = operation.position._replace(offset=later)
    entry = final(older, None, {}, "")._replace(position=moved_to)
    assert superseded(operation, [entry], {})
    assert not superseded(operation, [entry], {moved_to: older.position})


@given(RECORDS, RECORDS)
def test_two_dead_letters_have_one_record_id_only_if_they_are_of_one_record(
    one: SourceRecord, other: SourceRecord
) -> None:
    ids = {record_id(read_back(record), record.position) for record in (one, other)}
    same = (one.position, one.timestamp_ms, one.key, one.value) == (
        other.position,
        other.timestamp_ms,
        other.key,
        other.value,
    )
    assert (len(ids) == 1) == same


@given(RECORDS)
def test_the_record_is_read_back_from_its_dead_letter(record: SourceRecord) -> None:
    found = read_back(record)
    assert origin_of(found) == record.position
    assert rejected_record(found, record.position) == record


@given(RECORDS, st.integers(1, 5))
def test_a_record_counts_its_retries(record: SourceRecord, times: int) -> None:
    for expected in range(1, times + 1):
        headers = retry_headers(read_back(record))
        assert headers[-1] == ("milvus-stream.retries", b"%d" % expected)
        assert [name for name, _ in headers].count("milvus-stream.retries") == 1
        assert not any(name.startswith("__connect") for name, _ in headers)
        record = replace(record, headers=headers)


def test_filters_are_all_of_different_names_and_any_of_one() -> None:
    found = read_back(source_record(b"v", b"k", at=("t", 0, 0)))
    for texts, passes in (
        ([], True),
        (["reason=bad"], True),
        (["reason=good"], False),
        (["reason=good", "reason=bad"], True),
        (["reason=bad", "topic=u"], False),
        (["stage=decode", "topic=t"], True),
    ):
        assert DeadLetterFilter.parse(texts).passes(found) is passes
    with pytest.raises(UsageError, match="reason=…"):
        DeadLetterFilter.parse(["kind=bad"])
