"""The progress of a run of a worker, and its result."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.records import KafkaPartition


@dataclass(slots=True)
class Progress:
    """The counters and times of one run. Only the consumer loop changes them; times are of the worker's clock."""

    started: float
    last_round: float
    last_commit: float
    last_lag: float
    consumed: int = 0
    """Records taken from Kafka."""
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a worker is doing at one moment, for observers on other threads."""

    consumed: int
    paused: bool
    """Kafka is paused, because too much is read and not finished."""
    buffered_bytes: int
    """Bytes of records read and not yet acknowledged by Milvus."""
    committed: Mapping[KafkaPartition, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did."""

    consumed: int
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
