"""The interface through which a worker reads records and commits offsets."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from consumers.kafka.source.rebalance import RebalanceHandler
from pipeline.records import KafkaPartition, SourceRecord


@dataclass(frozen=True, slots=True)
class Lag:
    """The progress of reading on one Kafka partition."""

    end: int
    """Offset of the next record to be produced (to be committed, in a transaction)."""
    committed: int | None
    position: int
    """Offset of the next record that poll returns."""
    measured_at: float
    """When `end` was read, monotonic seconds."""


class Source(Protocol):
    """A member of a consumer group, owned by one thread. In an outage of the broker poll returns no records."""

    def start(self, handler: RebalanceHandler) -> None:
        """Connect and subscribe. Raises UsageError (topic, option, right), Unavailable, OffsetsLost."""

    def poll(self, timeout_s: float) -> list[SourceRecord]:
        """Read the next records, in the order of each Kafka partition; calls the handler during a rebalance.

        It must be called at least every `max_poll_interval_ms`, also while paused. A rebalance can block it until the
        drain's deadline. Raises OffsetsLost (with the size of the gap), MembershipLost, UsageError; after any of these
        the source can only be closed.
        """

    def pause(self) -> None:
        """Stop reading on all Kafka partitions, also on those assigned later."""

    def resume(self) -> None:
        """Continue reading where `pause` stopped it."""

    def commit(self, offsets: Mapping[KafkaPartition, int]) -> bool:
        """Commit; False if it had no effect or no answer came (a rebalance, an outage): the records are read again.

        Raises MembershipLost when fenced, UsageError without the right to commit.
        """

    def assignment(self) -> Collection[KafkaPartition]:
        """Return the Kafka partitions that this member reads."""

    def lag(self) -> Mapping[KafkaPartition, Lag]:
        """Measure the lag of each assigned Kafka partition; ends are up to a second old, older in an outage.

        Call it regularly: it also notices a topic that was deleted and recreated, which the next poll raises.
        """

    def ends(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """Read the current end offsets. Raises Unavailable."""

    def reread(self) -> None:
        """Begin every assigned Kafka partition again at its committed offset, without a commit; calls `on_assigned`.

        Call it outside of `poll`, when what was read since the last commit may be lost. Raises as `poll` does.
        """

    def last_heartbeat(self) -> float:
        """Return the latest time of `suspend_clock` at which this was certainly a member; -inf while it is none.

        Also -inf while Kafka partitions of a former membership are not given up yet, and after a jump of the wall clock
        until the next answered heartbeat.
        """

    def close(self, timeout_s: float) -> None:
        """Leave the group (a static member stays) without a commit and without calls of the handler."""
