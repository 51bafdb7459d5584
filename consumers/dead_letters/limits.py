"""How many rejected records are too many: a mapping error must not empty a topic into the dead-letter topic. Pure."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import TooManyRejected
from pipeline.records import KafkaPartition, Position, Rejected, SourceRecord

_SHOWN_REASONS = 5


@dataclass(frozen=True, slots=True)
class DeadLetterLimits:
    """What is allowed on each Kafka partition; None: any number."""

    max_ratio: float | None = 0.5
    """Of the last `window` records; judged only once so many were seen, for a few bad ones at the start say nothing."""
    window: int = 2_000
    max_consecutive: int | None = 1_000


class DeadLetterLimiter:
    """Counts good and rejected records of each Kafka partition in the order of their offsets.

    By Kafka partition, because only there the order, and with it the record that reaches a limit, is the same in every
    run. Each stage is counted for itself; one stage belongs to one thread.
    """

    def __init__(self, policy: DeadLetterLimits) -> None:
        self._policy = policy
        self._logs: dict[tuple[str, KafkaPartition], _Log] = {}

    def check(self, stage: str, records: Sequence[SourceRecord], rejected: Sequence[Rejected]) -> None:
        """Count the next records of a stage; `rejected` are those of them that cannot be stored.

        A record that was counted before (read or tried again) does not count twice. Raises TooManyRejected at the first
        rejected record above a limit.
        """
        reasons = {item.position: item.reason for item in rejected}
        name: KafkaPartition | None = None
        for record in records:
            position = record.position
            if position[:2] != name:
                name = position[:2]
                log = self._logs.setdefault((stage, name), _Log())
            if log.count(position.offset, reasons.get(position), self._policy):
                raise TooManyRejected(log.complaint(position, self._policy))


class _Log:
    """What was seen of one Kafka partition."""

    __slots__ = ("last", "rejected", "run", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.last = -1
        self.run: list[tuple[int, str]] = []
        """Offset and reason of the rejected records since the last good one, where their number is limited."""
        self.rejected: deque[tuple[int, int, str]] = deque()
        """The same of those within the window, each after its place in the order."""

    def count(self, offset: int, reason: str | None, policy: DeadLetterLimits) -> bool:
        """Whether a limit is exceeded with this record."""
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
        """What to tell when `count` was True for the record at this position."""
        place = f"Kafka partition {at.topic}/{at.partition}"
        if self._too_long(policy):
            return _told(
                f"{len(self.run):,} records in a row of {place} were rejected, more than "
                f"dead_letters.max_consecutive={policy.max_consecutive}",
                self.run,
            )
        return _told(
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


def _told(what: str, rejected: Iterable[tuple[int, str]]) -> str:
    offsets, reasons = zip(*rejected, strict=True)
    counts = Counter(reasons).most_common()
    told = ", ".join(f"{reason} {count:,}" for reason, count in counts[:_SHOWN_REASONS])
    more = f" and {len(counts) - _SHOWN_REASONS} more reasons" if len(counts) > _SHOWN_REASONS else ""
    return (
        f"{what}: offsets {offsets[0]} to {offsets[-1]}, {told}{more}. Look at some with `milvus-stream dlq list`, "
        "then correct record.* in the configuration or the producer; if these records are to go to the dead-letter "
        "topic, raise the limit or set it to null. Nothing is lost: what is not in the dead-letter topic is read again"
    )
