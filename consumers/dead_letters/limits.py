"""The limits on rejected records: a mapping error must not move a whole topic into the dead-letter topic. Pure."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import TooManyRejected
from pipeline.records import KafkaPartition, Position, Rejected, SourceRecord

_SHOWN_REASONS = 5


@dataclass(frozen=True, slots=True)
class DeadLetterLimits:
    """The rejected records allowed on each Kafka partition; None: any number."""

    max_ratio: float | None = 0.5
    """Of the last `window` records; checked only after that many, because a few bad ones at the start mean nothing."""
    window: int = 2_000
    max_consecutive: int | None = 1_000


class DeadLetterLimiter:
    """Counts good and rejected records of each Kafka partition in the order of their offsets.

    Only within a Kafka partition is the order, and with it the record that exceeds a limit, the same in every run.
    Each stage is counted separately and belongs to one thread.
    """

    def __init__(self, policy: DeadLetterLimits) -> None:
        self._policy = policy
        self._logs: dict[tuple[str, KafkaPartition], _Log] = {}

    def check(self, stage: str, records: Sequence[SourceRecord], rejected: Sequence[Rejected]) -> None:
        """Count the next records of a stage, of which `rejected` cannot be stored.

        A record that is read or retried again is not counted twice. Raises TooManyRejected at the first rejected record
        above a limit.
        """
        reasons = {rejection.position: rejection.reason for rejection in rejected}
        name: KafkaPartition | None = None
        for record in records:
            position = record.position
            if position[:2] != name:
                name = position[:2]
                log = self._logs.setdefault((stage, name), _Log())
            if log.count(position.offset, reasons.get(position), self._policy):
                raise TooManyRejected(log.complaint(position, self._policy))


class _Log:
    """The records counted on one Kafka partition."""

    __slots__ = ("last", "rejected", "run", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.last = -1
        self.run: list[tuple[int, str]] = []
        """Offset and reason of the rejected records since the last good one, if their number is limited."""
        self.rejected: deque[tuple[int, int, str]] = deque()
        """Number, offset and reason of the rejected records within the window, if their ratio is limited."""

    def count(self, offset: int, reason: str | None, policy: DeadLetterLimits) -> bool:
        """Count a record; returns whether a limit is exceeded."""
        if offset <= self.last:
            return False
        self.last = offset
        self.seen += 1
        if reason is None:
            self.run.clear()
            return False
        if policy.max_consecutive is not None:
            self.run.append((offset, reason))
        if policy.max_ratio is not None:
            self.rejected.append((self.seen, offset, reason))
            while self.rejected[0][0] <= self.seen - policy.window:
                self.rejected.popleft()
        return self._too_long(policy) or self._too_many(policy)

    def complaint(self, at: Position, policy: DeadLetterLimits) -> str:
        """Return the error message after `count` returned True for the record at this position."""
        place = f"Kafka partition {at.topic}/{at.partition}"
        if self._too_long(policy):
            return _message(
                f"{len(self.run):,} records in a row of {place} were rejected, more than "
                f"dead_letters.max_consecutive={policy.max_consecutive}",
                self.run,
            )
        return _message(
            f"{len(self.rejected):,} of the last {policy.window:,} records of {place} were rejected, more than "
            f"dead_letters.max_ratio={policy.max_ratio} of dead_letters.window={policy.window}",
            [(offset, reason) for _, offset, reason in self.rejected],
        )

    def _too_long(self, policy: DeadLetterLimits) -> bool:
        return policy.max_consecutive is not None and len(self.run) > policy.max_consecutive

    def _too_many(self, policy: DeadLetterLimits) -> bool:
        if policy.max_ratio is None or self.seen < policy.window:
            return False
        return len(self.rejected) > policy.max_ratio * policy.window


def _message(problem: str, rejected: Iterable[tuple[int, str]]) -> str:
    offsets, reasons = zip(*rejected, strict=True)
    counts = Counter(reasons).most_common()
    listed = ", ".join(f"{reason} {count:,}" for reason, count in counts[:_SHOWN_REASONS])
    more = f" and {len(counts) - _SHOWN_REASONS} more reasons" if len(counts) > _SHOWN_REASONS else ""
    return (
        f"{problem}: offsets {offsets[0]} to {offsets[-1]}, {listed}{more}. Read some with `milvus-stream dlq list`, "
        "then correct record.* in the configuration or the producer; if these records are to go to the dead-letter "
        "topic, raise the limit or set it to null. Nothing is lost: what is not in the dead-letter topic is read again"
    )
