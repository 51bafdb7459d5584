"""What the frozen stage values derive from one another."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.ingest.queues.batching import Batch
from pipeline.ingest.stages import Decoded, Refused, Submitted, Written, folded_deletes, records_to_redecide
from pipeline.records import Delete, Position, Rejected, SourceRecord
from pipeline.store import Applied, WritePlan

RECORDS = [SourceRecord(Position("t", 0, offset), 0, None, b"v") for offset in range(5)]
FOLDED = [Delete(RECORDS[0].position, 0, "a"), Delete(RECORDS[1].position, 0, "b")]
DECODED = Decoded(
    Submitted(1, Batch(RECORDS, 5, "records"), 0.0),
    records=RECORDS[:4],
    operations=[Delete(RECORDS[2].position, 0, "a"), Delete(RECORDS[3].position, 0, "b")],
    folded=FOLDED,
    rejected=frozenset([RECORDS[4].position]),
)
REFUSED = Refused((None, "a"), Rejected(RECORDS[2], "write", "too_big", "it is too big"))


def written(*refused: Refused, deletes: Sequence[Delete] = ()) -> Written:
    plan, applied = WritePlan([], deletes, unchanged=1, stale=2), Applied(0, 1, deleted=1, unchanged=3)
    again = records_to_redecide(DECODED, plan, applied, refused)
    return Written(DECODED, plan, applied, refused, again, embed_s=0.0, write_s=0.0)


def test_without_a_refusal_all_but_the_rejected_records_are_finished() -> None:
    assert written().redecided == ()
    assert written().finished == RECORDS[:4]
    assert written().outcomes == {
        "written": 0,
        "deleted": 1,
        "unchanged": 4,
        "stale": 2,
        "folded": 2,
        "dead_lettered": 1,
    }


def test_records_folded_into_a_refused_one_are_decided_again_and_not_finished() -> None:
    assert written(REFUSED).redecided == [RECORDS[0]]
    assert written(REFUSED).finished == [RECORDS[1], RECORDS[3]]
    assert written(REFUSED).outcomes["folded"] == 1
    assert written(REFUSED).outcomes["dead_lettered"] == 2


def test_a_delete_folded_into_a_refused_record_is_applied_with_the_batch_and_finished() -> None:
    (delete,) = folded_deletes(DECODED, {REFUSED.key})
    assert delete.position == RECORDS[0].position
    assert written(REFUSED, deletes=[delete]).redecided == ()
    assert written(REFUSED, deletes=[delete]).finished == [RECORDS[0], RECORDS[1], RECORDS[3]]
    assert written(REFUSED, deletes=[delete]).outcomes["folded"] == 1
    with_version = replace(DECODED, folded=[replace(FOLDED[0], version=1)])
    assert folded_deletes(with_version, {REFUSED.key}) == []


def test_records_folded_into_one_left_out_are_decided_again() -> None:
    again = records_to_redecide(DECODED, WritePlan([]), Applied(0, 0), (), {REFUSED.key})
    assert again == [RECORDS[0]]
