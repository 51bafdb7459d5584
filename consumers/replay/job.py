"""A replay: a bounded range of the topics read again, resumed where it stopped.

Rejected records are counted and logged but not sent to the dead-letter topic: the live group has sent them there when
it read them, or will, and they still stand in the topic.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TextIO

import structlog

from consumers.ingest.worker import IngestWorker
from consumers.kafka import KafkaSettings
from consumers.replay.plan import ReplayPlan
from consumers.replay.range import forget_group
from consumers.replay.source import ReplaySource
from pipeline.errors import MilvusStreamError
from pipeline.records import Receipt, Rejected
from pipeline.telemetry import OUTCOMES, IngestMetrics

log = structlog.get_logger(__name__)

_PROGRESS_S = 1.0


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What one run of a replay did; `records` is the sum of the outcomes below it once everything is finished."""

    collection: str
    group: str
    records: int
    written: int
    unchanged: int
    stale: int
    folded: int
    """Superseded by a later record of the same batch."""
    deleted: int
    rejected: int
    """Not sent to the dead-letter topic, see the module."""
    rejected_by_reason: Mapping[str, int]
    seconds: float
    finished: bool
    """False: it was stopped, and goes on where it stopped when started again."""

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    def line(self) -> str:
        """For people."""
        counts = ("written", "unchanged", "stale", "folded", "deleted", "rejected")
        parts = [f"{self.records:,} records in {self.seconds:.1f} s into {self.collection}"]
        parts += [f"{getattr(self, name):,} {name}" for name in counts if getattr(self, name)]
        text = ", ".join(parts)
        if self.rejected:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.rejected_by_reason.items()))
            text += f" ({reasons}; each is in the log and still in the topic; none was sent to the dead-letter topic)"
        if not self.finished:
            text += ". Stopped before the end: the same command goes on from here"
        return text


class RejectedLog:
    """Stands where the dead-letter topic stands in an ingest worker: counts and logs, sends nothing."""

    def __init__(self, on_confirmed: Callable[[Receipt], None]) -> None:
        self._on_confirmed = on_confirmed
        self.reasons: Counter[str] = Counter()

    def start(self) -> None:
        """See DeadLetterTopic.start."""

    def send(self, rejected: Rejected) -> None:
        """Log it by its position; the record is finished with that."""
        topic, partition, offset = rejected.position
        log.warning(
            "replay.rejected",
            position=f"{topic}/{partition}/{offset}",
            stage=rejected.stage,
            reason=rejected.reason,
            why=rejected.message,
        )
        self.reasons[rejected.reason] += 1
        self._on_confirmed(Receipt([rejected.position]))

    @property
    def has_room(self) -> bool:
        """See DeadLetterTopic.has_room."""
        return True

    @property
    def problem(self) -> str | None:
        """See DeadLetterTopic.problem."""
        return None

    def check(self) -> None:
        """See DeadLetterTopic.check."""

    def close(self, timeout_s: float) -> None:
        """See DeadLetterTopic.close."""


@dataclass(frozen=True, slots=True)
class ReplayProcess:
    """A replay with what stands around it."""

    kafka: KafkaSettings
    plan: ReplayPlan
    source: ReplaySource
    worker: IngestWorker
    rejected: RejectedLog
    metrics: IngestMetrics

    def run(self, stop: threading.Event, progress: TextIO = sys.stderr) -> ReplaySummary:
        """Run to the end of the range or until `stop`; then finish what was taken. The first error is raised.

        When the range is done, the replay's group is deleted: the same command then replays it anew.
        """
        ended = threading.Event()
        shower = threading.Thread(target=self._show, args=(ended, progress), name="progress", daemon=True)
        if progress.isatty():
            shower.start()
        try:
            done = self.worker.run(stop)
        finally:
            ended.set()
            if shower.ident is not None:
                shower.join()
        finished = done.clean and self.source.exhausted
        if finished:
            finish(self.kafka, self.plan)
        counts = outcomes(self.metrics)
        return ReplaySummary(
            collection=self.plan.collection,
            group=self.plan.span.group_id,
            records=done.consumed,
            written=counts["written"],
            unchanged=counts["unchanged"],
            stale=counts["stale"],
            folded=counts["folded"],
            deleted=counts["deleted"],
            rejected=counts["dead_lettered"],
            rejected_by_reason=dict(self.rejected.reasons),
            seconds=done.seconds,
            finished=finished,
        )

    def _show(self, ended: threading.Event, stream: TextIO) -> None:
        """A line that the next log line overwrites: the cursor stays at its beginning."""
        while not ended.wait(_PROGRESS_S):
            done = sum(outcomes(self.metrics).values())
            share = 100 * done / max(1, self.plan.records)
            stream.write(f"replay: {done:,} of {self.plan.records:,} records ({share:.0f} %)\x1b[K\r")
            stream.flush()
        stream.write("\x1b[K")
        stream.flush()


def outcomes(metrics: IngestMetrics) -> dict[str, int]:
    """How the records have ended so far."""
    sample = metrics.registry.get_sample_value
    return {outcome: int(sample("ingest_records_total", {"outcome": outcome}) or 0) for outcome in OUTCOMES}


def finish(kafka: KafkaSettings, plan: ReplayPlan) -> None:
    """The range is done: delete the group that kept the position, so that the same command replays it anew."""
    if not plan.records and not plan.span.resumed:
        return  # nothing was ever committed
    try:
        forget_group(kafka, plan.span.group_id)
    except MilvusStreamError as error:
        log.warning(
            "replay.group_kept",
            group=plan.span.group_id,
            why=str(error),
            what="delete it before this range is replayed again, or that will find nothing to do",
        )


def nothing(plan: ReplayPlan) -> ReplaySummary:
    """The summary of a range in which nothing is left to be read."""
    return ReplaySummary(plan.collection, plan.span.group_id, 0, 0, 0, 0, 0, 0, 0, {}, 0.0, finished=True)
