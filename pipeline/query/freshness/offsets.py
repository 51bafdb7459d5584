"""The offsets of the consumer group that fills the collection, as this room reads them; and the errors of a wait."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import Unavailable
from pipeline.records import KafkaPartition


class OffsetReader(Protocol):
    """Reads offsets of one consumer group from Kafka; connects with the first call.

    Every call blocks for some seconds at most, and raises Unavailable where Kafka gives no answer, UsageError where it
    refuses one.
    """

    @property
    def group(self) -> str:
        """The consumer group."""

    @property
    def topics(self) -> Collection[str]:
        """The topics that it reads into the collection."""

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """Kafka's ids of the topics, as the last call has read them; "" where the broker has none."""

    def partitions(self) -> Mapping[str, int]:
        """How many Kafka partitions each topic has."""

    def committed(self) -> Mapping[KafkaPartition, int]:
        """The offsets committed for the collection; Kafka partitions without one are left out."""

    def ranges(self) -> Mapping[KafkaPartition, tuple[int, int]]:
        """Of each Kafka partition the first offset held, and the offset of the next record to be produced."""

    def close(self) -> None:
        """Close the connection, if there is one."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A record that is not committed yet."""

    topic: str
    partition: int
    offset: int
    """Of the record."""
    committed: int | None
    """Committed for the collection: the offset behind the last record processed. null: none."""
    missing: int
    """Records that must be processed until the awaited one is."""


class NotFreshYet(Unavailable):
    """A record was not processed in time; the same request may succeed later."""

    def __init__(self, behind: Sequence[Behind]) -> None:
        first = behind[0]
        more = f", and {len(behind) - 1} more" if len(behind) > 1 else ""
        super().__init__(
            f"the record at {first.topic}/{first.partition} offset {first.offset} is not processed yet: "
            f"{first.missing:,} records are missing there{more}"
        )
        self.behind = tuple(behind)


class OffsetsUnavailable(Unavailable):
    """Kafka does not answer what the group has committed."""
