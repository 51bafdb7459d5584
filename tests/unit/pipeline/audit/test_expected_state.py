"""The possible final states of a document."""

from dataclasses import replace

from pipeline.audit import ExpectedState, ExpectedWrite, supersedes
from pipeline.records import Delete, Put
from tests.support.documents import delete, put


def expected(operation: Put | Delete) -> ExpectedWrite:
    return ExpectedWrite.of(operation, certain=True)


def candidates(*operations: Put | Delete) -> list[int]:
    return [write.position.offset for write in ExpectedState.of(map(expected, operations)).candidates]


def test_the_last_record_counts_and_the_highest_version_before_it() -> None:
    assert candidates(put("a", "x", 1), delete("a", 2), put("a", "y", 3)) == [3]
    assert candidates(put("a", "x", 1, version=5), put("a", "y", 2, version=4)) == [1]
    assert candidates(put("a", "x", 1, version=5), put("a", "y", 2, version=5)) == [2]
    elsewhere = put("a", "y", 9, version=6, partition=1)
    assert candidates(put("a", "x", 1, version=5), elsewhere) == [9]


def test_between_kafka_partitions_the_later_timestamp_counts_and_of_equal_ones_any() -> None:
    first, second, elsewhere = put("a", "x", 1), put("a", "y", 2), put("a", "z", 9, partition=1)
    assert candidates(first, second, elsewhere) == [9]
    assert candidates(first, second, replace(elsewhere, timestamp_ms=first.timestamp_ms)) == [2]
    assert sorted(candidates(first, second, replace(elsewhere, timestamp_ms=second.timestamp_ms))) == [2, 9]


def test_a_null_value_separates_the_versions_before_and_after_it() -> None:
    assert candidates(put("a", "x", 1, version=5), delete("a", 2), put("a", "y", 3, version=4)) == [3]
    assert candidates(put("a", "x", 1, version=5), delete("a", 2)) == [2]


def test_only_what_can_never_last_is_forgotten_early() -> None:
    first, second = expected(put("a", "x", 1)), expected(put("a", "y", 2))
    assert supersedes(second, first)
    assert not supersedes(replace(second, certain=False), first)
    assert not supersedes(expected(put("a", "y", 2, partition=1)), first)
    assert not supersedes(expected(put("a", "y", 2, version=1)), first)
    assert not supersedes(expected(put("a", "y", 2, version=1)), expected(put("a", "x", 1, version=2)))
