"""The replay job without servers: its summary, its progress, and its rejected records."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from prometheus_client import CollectorRegistry

from consumers.kafka import JobMembership, KafkaSettings, TimeRange
from consumers.replay import RejectedLog, ReplayPlan, ReplayProcess, ReplaySource, ReplaySummary, empty_summary
from consumers.replay.range import ReplayRange, ReplaySpan
from pipeline.records import Receipt, Rejected
from pipeline.telemetry.metrics import IngestMetrics, RecordOutcomes
from tests.support.documents import source_record

PLAN = ReplayPlan("documents", True, TimeRange(1, 2), ReplaySpan("g.replay.1", {}, {}), {})


def test_the_summary_says_what_became_of_rejected_records_and_of_an_unfinished_range() -> None:
    summary = replace(
        empty_summary("documents", PLAN.span.group_id, finished=True),
        records=9,
        written=7,
        rejected=2,
        rejected_by_reason={"invalid_json": 2},
        finished=False,
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
    record = source_record(b"secret text", b"k", at=("t", 1, 42))
    rejected.send(Rejected(record, "decode", "invalid_json", "it is not JSON"))
    assert [receipt.positions for receipt in receipts] == [[("t", 1, 42)]]
    assert rejected.reasons == {"invalid_json": 1}
    output = "".join(capsys.readouterr())
    assert "t/1/42" in output
    assert "secret" not in output


@dataclass
class StoppedWorker:
    """A worker that finishes two batches and is then stopped."""

    outcomes: RecordOutcomes
    consumed: int = 5
    seconds: float = 1.5
    clean: bool = True

    def run(self, stop: threading.Event) -> "StoppedWorker":
        self.outcomes.add("written", 3)
        self.outcomes.add("dead_lettered", 2)
        return self

    def alive(self) -> Mapping[str, str]:
        return {}

    def ready(self) -> Mapping[str, str]:
        return {}


def test_a_run_reports_its_progress_and_sums_up_the_outcomes() -> None:
    kafka = KafkaSettings("nowhere:9092", ("t",), "g")
    plan = replace(PLAN, span=ReplaySpan("g.replay.1", {("t", 0): ReplayRange(0, 0, 9, 0)}, {}))
    outcomes = IngestMetrics(CollectorRegistry()).outcomes
    rejected = RejectedLog(lambda _: None)
    rejected.reasons["invalid_json"] = 2
    source = ReplaySource(kafka, plan.span, JobMembership(kafka, "docs", "replay"))
    process = ReplayProcess(kafka, plan, source, StoppedWorker(outcomes), rejected, outcomes)
    assert source.last_heartbeat() == float("-inf"), "it has no lease before its job has joined"
    steps: list[tuple[str, int, int]] = []
    summary = process.run(threading.Event(), lambda *step: steps.append(step))
    assert steps == [("replaying", 3, 9), ("replaying", 5, 9)]
    assert (summary.records, summary.written, summary.rejected, summary.rejected_by_reason) == (
        5,
        3,
        2,
        {"invalid_json": 2},
    )
    assert not summary.finished, "the source was not read to its end"
