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


def test_where_arrival_decides_every_order_is_possible() -> None:
    assert sorted(candidates(put("a", "x", 1), put("a", "y", 2), put("a", "z", 9, partition=1))) == [2, 9]
    # Folded in one batch, the null value never came to delete version 5.
    assert sorted(candidates(put("a", "x", 1, version=5), delete("a", 2), put("a", "y", 3, version=4))) == [1, 3]
    assert candidates(put("a", "x", 1, version=5), delete("a", 2)) == [2]


def test_only_what_can_never_last_is_forgotten_early() -> None:
    first, second = expected(put("a", "x", 1)), expected(put("a", "y", 2))
    assert supersedes(second, first)
    assert not supersedes(replace(second, certain=False), first)
    assert not supersedes(expected(put("a", "y", 2, partition=1)), first)
    assert not supersedes(expected(put("a", "y", 2, version=1)), first)
    assert not supersedes(expected(put("a", "y", 2, version=1)), expected(put("a", "x", 1, version=2)))
