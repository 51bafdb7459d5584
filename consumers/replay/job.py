"""A replay job: a worker that reads a bounded range of the topics again and resumes where it stopped.

Rejected records are counted and logged but not sent to the dead-letter topic: the live group has sent them there when
it read them, or will, and their topic still holds them.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

import structlog
from typing_extensions import override

from consumers.kafka import KafkaSettings, forget_group
from consumers.replay.plan import ReplayPlan
from consumers.replay.source import ReplaySource
from pipeline.errors import MilvusStreamError
from pipeline.ingest import DeadLetterChannel
from pipeline.records import Receipt, Rejected
from pipeline.telemetry import RecordOutcomes

log = structlog.get_logger(__name__)


class WorkerRun(Protocol):
    """The result of a worker's run."""

    @property
    def consumed(self) -> int:
        """Records read."""

    @property
    def seconds(self) -> float:
        """Duration of the run."""

    @property
    def clean(self) -> bool:
        """Whether every record read is finished and its offset committed."""


class Worker(Protocol):
    """The worker of a replay."""

    def run(self, stop: threading.Event) -> WorkerRun:
        """Run to the end of the source or until `stop`; raises the first error."""

    def alive(self) -> Mapping[str, str]:
        """Return the problems for the liveness probe."""

    def ready(self) -> Mapping[str, str]:
        """Return the problems for the readiness probe."""


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """The result of a run; `records` is the sum of the outcomes below it once everything is finished.

    Where Milvus was lost on the way, the outcomes count what was decided twice a second time, and `records` does not.
    """

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
    """Not sent to the dead-letter topic."""
    rejected_by_reason: Mapping[str, int]
    seconds: float
    finished: bool
    """False: the run was stopped, and the next one resumes there."""

    def as_dict(self) -> dict[str, object]:
        """Return the summary for `--json`."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    def line(self) -> str:
        """Return the summary as a sentence."""
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


class RejectedLog(DeadLetterChannel):
    """A DeadLetterChannel that counts and logs rejected records, and sends nothing."""

    def __init__(self, on_confirmed: Callable[[Receipt], None]) -> None:
        self._on_confirmed = on_confirmed
        self.reasons: Counter[str] = Counter()

    @override
    def start(self) -> None:
        pass

    @override
    def send(self, rejected: Rejected) -> None:
        """Log the record's position, which finishes the record."""
        topic, partition, offset = rejected.position
        log.warning(
            "replay.rejected",
            position=f"{topic}/{partition}/{offset}",
            stage=rejected.stage,
            reason=rejected.reason,
            why=rejected.message,
        )
        self.reasons[rejected.reason] += 1
        self._on_confirmed(Receipt([rejected.position], rejected.batch))

    @override
    def assigned(self) -> None:
        pass

    @property
    @override
    def has_room(self) -> bool:
        return True

    @property
    @override
    def problem(self) -> str | None:
        return None

    @override
    def check(self) -> None:
        pass

    @override
    def close(self, timeout_s: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class ReplayProcess:
    """A replay job with its parts."""

    kafka: KafkaSettings
    plan: ReplayPlan
    source: ReplaySource
    worker: Worker
    rejected: RejectedLog
    outcomes: RecordOutcomes

    def run(
        self, stop: threading.Event, on_progress: Callable[[str, int, int], None] = lambda *_: None
    ) -> ReplaySummary:
        """Run to the end of the range or until `stop`, then finish the records that were read. Raises the first error.

        `on_progress(step, done, total)` is called with the number of finished records, on any thread. At the end of the
        range the replay's group is deleted: the same command then replays the range again.
        """
        self.outcomes.on_change = lambda done: on_progress("replaying", done, self.plan.records)
        run = self.worker.run(stop)
        finished = run.clean and self.source.exhausted
        if finished:
            finish_replay(self.kafka, self.plan)
        counts = self.outcomes.counts()
        return ReplaySummary(
            collection=self.plan.collection,
            group=self.plan.span.group_id,
            records=run.consumed,
            written=counts["written"],
            unchanged=counts["unchanged"],
            stale=counts["stale"],
            folded=counts["folded"],
            deleted=counts["deleted"],
            rejected=counts["dead_lettered"],
            rejected_by_reason=dict(self.rejected.reasons),
            seconds=run.seconds,
            finished=finished,
        )


def finish_replay(kafka: KafkaSettings, plan: ReplayPlan) -> None:
    """Delete the group that kept the position, so that the same command replays the range again."""
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


def empty_summary(collection: str, group_id: str, *, finished: bool) -> ReplaySummary:
    """Return the summary of a run that had nothing to read, or was stopped before it began."""
    return ReplaySummary(collection, group_id, 0, 0, 0, 0, 0, 0, 0, {}, 0.0, finished=finished)
