"""The fence and the registry of batches in flight, without threads."""

from collections.abc import Iterator

import pytest

from pipeline.ingest import BatchesInFlight, PartitionFence
from pipeline.records import Position, Receipt, SourceRecord

FIRST, SECOND = ("t", 0), ("t", 1)


def record(partition: int, offset: int) -> SourceRecord:
    return SourceRecord(Position("t", partition, offset), 0, None, b"12345")


@pytest.fixture
def batches() -> BatchesInFlight:
    return BatchesInFlight()


@pytest.fixture
def fence(batches: BatchesInFlight) -> PartitionFence:
    return PartitionFence(batches)


def test_a_batch_counts_until_nothing_of_it_remains(batches: BatchesInFlight) -> None:
    records = [record(0, 0), record(0, 1), record(1, 0)]
    number = batches.open(records, 15)
    other = batches.open([record(1, 1)], 5)
    assert other > number
    assert (batches.size, batches.unwritten([FIRST]), batches.unwritten([FIRST, SECOND])) == (20, 2, 4)

    batches.acknowledge(number, records[1:2])
    assert (batches.size, batches.unwritten([FIRST]), batches.unwritten([SECOND])) == (10, 1, 1)

    batches.acknowledge(number)
    assert (batches.idle, batches.size, batches.unwritten([FIRST, SECOND])) == (False, 5, 1)
    batches.acknowledge(other)
    assert (batches.idle, batches.size, batches.unwritten([FIRST, SECOND])) == (True, 0, 0)


def test_a_batch_with_records_to_decide_again_is_in_flight_at_every_moment(batches: BatchesInFlight) -> None:
    observed = []

    class Remaining(list[SourceRecord]):
        def __iter__(self) -> Iterator[SourceRecord]:
            observed.append(batches.idle)
            return super().__iter__()

    records = [record(0, 0), record(0, 1)]
    number = batches.open(records, 10)
    batches.acknowledge(number, Remaining(records[:1]))
    assert observed, "the records were counted"
    assert not any(observed)


def test_records_set_aside_count_from_when_they_first_were_until_they_are_decided() -> None:
    now = 100.0
    batches = BatchesInFlight(lambda: now)
    records = [SourceRecord(Position("t", 0, offset), 0, None, b"v") for offset in range(4)]
    first, second = batches.open(records[:2], 2), batches.open(records[2:], 2)
    assert batches.set_aside == (0, 0.0)
    batches.acknowledge(first, records[:2], {records[1].position})
    now = 110.0
    batches.acknowledge(second, records[2:], {records[2].position, records[3].position})
    assert batches.set_aside == (3, 10.0)
    now = 130.0
    batches.acknowledge(first, records[:2], {records[0].position, records[1].position})
    assert batches.set_aside == (4, 30.0)
    batches.acknowledge(first, records[:1], {records[0].position})
    assert batches.set_aside == (3, 20.0)
    batches.acknowledge(second)
    batches.acknowledge(first)
    assert batches.set_aside == (0, 0.0)


def test_a_revocation_holds_for_the_batches_before_it_only(batches: BatchesInFlight, fence: PartitionFence) -> None:
    records = [record(0, 0), record(1, 0)]
    before = batches.open(records, 10)
    fence.revoke([FIRST])
    after = batches.open(records, 10)
    assert fence.still_owned(before, records) == records[1:]
    assert fence.still_owned(after, records) == records
    with fence.write_lock(before, [FIRST, SECOND]) as owned:
        assert owned == {SECOND}
        assert not fence.writing([FIRST])
        assert not fence.fenced
    with fence.write_lock(after, [FIRST, SECOND]) as owned:
        assert owned == {FIRST, SECOND}


def test_a_partition_revoked_while_it_is_written_is_fenced_until_the_write_ends(
    batches: BatchesInFlight, fence: PartitionFence
) -> None:
    first, second = batches.open([record(0, 0)], 5), batches.open([record(1, 0)], 5)
    with fence.write_lock(first, [FIRST]):
        with fence.write_lock(second, [SECOND]):
            fence.revoke([FIRST])
            assert (fence.fenced, fence.writing([FIRST]), fence.writing([SECOND])) == (True, True, True)
        assert (fence.fenced, fence.writing([FIRST]), fence.writing([SECOND])) == (True, True, False)
    assert (fence.fenced, fence.writing([FIRST]), fence.writing([SECOND])) == (False, False, False)


def test_a_write_that_fails_is_not_under_way_any_more(batches: BatchesInFlight, fence: PartitionFence) -> None:
    with pytest.raises(ValueError, match="a bug"), fence.write_lock(batches.next_number(), [FIRST]):
        raise ValueError("a bug")
    assert not fence.writing([FIRST])


def test_a_sweep_is_fenced_by_a_revocation_after_its_number(batches: BatchesInFlight, fence: PartitionFence) -> None:
    fence.assign([FIRST, SECOND])
    number = batches.next_number()
    fence.revoke([FIRST])
    assert fence.owned == {SECOND}
    with fence.write_lock(number, [FIRST, SECOND]) as owned:
        assert owned == {SECOND}
    fence.assign([FIRST])
    assert fence.owned == {FIRST, SECOND}


def test_an_assignment_fences_the_batches_before_it_also_where_nothing_was_revoked(
    batches: BatchesInFlight, fence: PartitionFence
) -> None:
    fence.assign([FIRST, SECOND])
    records = [record(0, 0), record(1, 0)]
    before = batches.open(records, 10)
    fenced = []
    with fence.write_lock(before, [FIRST, SECOND]):
        fenced.append(fence.fenced)
        fence.assign([FIRST])
        fenced.append(fence.fenced)
    assert fenced == [False, True]
    after = batches.open(records, 10)
    assert fence.owned == {FIRST, SECOND}
    assert fence.still_owned(before, records) == records[1:]
    assert fence.still_owned(after, records) == records


def test_a_receipt_finishes_nothing_of_a_partition_assigned_again_since_its_batch(
    batches: BatchesInFlight, fence: PartitionFence
) -> None:
    fence.assign([FIRST, SECOND])
    positions = [Position("t", 0, 0), Position("t", 1, 0)]
    before = batches.open([record(0, 0), record(1, 0)], 10)
    assert fence.finished(Receipt(positions, before)) == positions
    fence.revoke([FIRST])
    fence.assign([FIRST])
    after = batches.open([record(0, 0)], 5)
    assert fence.finished(Receipt(positions, before)) == positions[1:]
    assert fence.finished(Receipt(positions, after)) == positions
    assert fence.finished(Receipt(positions)) == [], "a receipt of no batch"


def test_the_parts_of_a_batch_count_each_by_themselves(batches: BatchesInFlight) -> None:
    records = [record(0, 0), record(0, 1), record(1, 0)]
    number = batches.open(records, 15)
    part = number + 2
    batches.cut(number, {number: records[:2], part: records[2:]})
    assert (batches.size, batches.unwritten([FIRST]), batches.unwritten([SECOND])) == (15, 2, 1)
    batches.acknowledge(number)
    assert (batches.idle, batches.size, batches.unwritten([FIRST, SECOND])) == (False, 5, 1)
    batches.acknowledge(part)
    assert (batches.idle, batches.size) == (True, 0)


def test_a_revocation_holds_for_every_part_of_a_batch_before_it_and_for_none_behind_it(
    batches: BatchesInFlight, fence: PartitionFence
) -> None:
    records = [record(0, 0), record(0, 1)]
    before = batches.open(records, 10)
    fence.revoke([FIRST])
    after = batches.open(records, 10)
    for number in (before, before + 1):
        assert fence.still_owned(number, records) == []
    for number in (after, after + 1):
        assert fence.still_owned(number, records) == records


def test_records_set_aside_keep_their_time_in_the_parts_of_their_batch() -> None:
    now = 100.0
    batches = BatchesInFlight(lambda: now)
    records = [record(0, 0), record(0, 1)]
    number = batches.open(records, 10)
    batches.acknowledge(number, records, {one.position for one in records})
    now = 110.0
    batches.cut(number, {number: records[:1], number + 1: records[1:]})
    assert batches.set_aside == (2, 10.0)
    batches.acknowledge(number)
    assert batches.set_aside == (1, 10.0)
