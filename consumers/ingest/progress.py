"""The progress of a run of a worker, and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.records import KafkaPartition, SourceRecord


@dataclass(slots=True)
class Progress:
    """The counters and times of one run. Only the consumer loop changes them; times are of the worker's clock."""

    started: float
    last_round: float
    last_commit: float
    last_lag: float
    consumed: int = 0
    """Records taken from Kafka. One that is read again after a loss counts once."""
    read_to: dict[KafkaPartition, int] = field(default_factory=dict)
    """Of each Kafka partition the offset behind the last record counted."""
    committed: dict[KafkaPartition, int] = field(default_factory=dict)
    """The last offset committed by this run."""
    targets: dict[KafkaPartition, int] = field(default_factory=dict)
    """With `until_caught_up`: the end of each Kafka partition when it was first assigned."""
    paused_at: float | None = None
    """Since when Kafka is paused; None while it is read."""
    paused_until: float = 0.0
    """Up to when the current pause is counted."""

    @classmethod
    def begin(cls, now: float) -> "Progress":
        """The progress of a run that starts now."""
        return cls(started=now, last_round=now, last_commit=now, last_lag=now)

    def take(self, records: Sequence[SourceRecord], limit: int | None) -> list[SourceRecord]:
        """Count records; returns them without the new ones that are more than `limit`.

        The first record left out is followed by no other of its Kafka partition, so no offset is skipped.
        """
        taken = []
        for record in records:
            topic, number, offset = record.position
            if offset >= self.read_to.get((topic, number), 0):
                if limit is not None and self.consumed >= limit:
                    continue
                self.consumed += 1
                self.read_to[topic, number] = offset + 1
            taken.append(record)
        return taken


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a worker is doing at one moment, for observers on other threads."""

    consumed: int
    """As in `Progress`."""
    paused: bool
    """Kafka is paused, because too much is read and not finished."""
    buffered_bytes: int
    """Bytes of records read and not yet acknowledged by Milvus."""
    committed: Mapping[KafkaPartition, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did."""

    consumed: int
    """As in `Progress`."""
    committed: Mapping[KafkaPartition, int]
    seconds: float
    clean: bool
    """Every record taken was finished and committed."""

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        committed = {f"{topic}/{number}": offset for (topic, number), offset in sorted(self.committed.items())}
        return {
            "consumed": self.consumed,
            "committed": committed,
            "seconds": round(self.seconds, 3),
            "clean": self.clean,
        }
