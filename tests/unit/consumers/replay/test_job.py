"""The replay job without servers: its summary, its progress, and its rejected records."""

from dataclasses import replace

import pytest

from consumers.kafka import TimeRange
from consumers.replay import RejectedLog, ReplayPlan, ReplaySummary, empty_summary
from consumers.replay.range import ReplaySpan
from pipeline.records import Position, Receipt, Rejected, SourceRecord
from tests.support.documents import NOON_MS

PLAN = ReplayPlan("documents", True, TimeRange(1, 2), ReplaySpan("g.replay.1", {}, {}), {})


def test_the_summary_says_what_became_of_rejected_records_and_of_an_unfinished_range() -> None:
    summary = replace(
        empty_summary(PLAN), records=9, written=7, rejected=2, rejected_by_reason={"invalid_json": 2}, finished=False
    )
    line = summary.line()
    assert "9 records in 0.0 s into documents, 7 written, 2 rejected (invalid_json 2; " in line
    assert "none was sent to the dead-letter topic" in line
    assert line.endswith("the same command goes on from here")
    assert "unchanged" not in line
    assert ReplaySummary(**summary.as_dict()) == summary  # type: ignore[arg-type]  # the values are what they were


def test_a_rejected_record_is_finished_by_being_counted_and_logged(capsys: pytest.CaptureFixture[str]) -> None:
    receipts: list[Receipt] = []
    rejected = RejectedLog(receipts.append)
    record = SourceRecord(Position("t", 1, 42), NOON_MS, b"k", b"secret text")
    rejected.send(Rejected(record, "decode", "invalid_json", "it is not JSON"))
    assert [receipt.positions for receipt in receipts] == [[("t", 1, 42)]]
    assert rejected.reasons == {"invalid_json": 1}
    said = "".join(capsys.readouterr())
    assert "t/1/42" in said
    assert "secret" not in said
