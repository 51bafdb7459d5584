"""The lag of a consumer group in seconds, from how its offsets and the ends of the logs moved. Pure.

No record is read for it: a record is as old as the first sample in which the log's end was behind it.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.records import KafkaPartition

LONGEST_GAP_S = 10.0
"""Between two samples further apart, when a record was produced is not known."""
_MOST_SAMPLES = 1_000
"""Of one Kafka partition."""


class _Sample(NamedTuple):
    at: float
    """Seconds on the clock of the samples."""
    end: int
    after_gap: bool
    """The sample before is too old to say when the records in between were produced."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """The progress of the group on one Kafka partition."""

    topic: str
    partition: int
    committed: int | None
    """Committed for the collection; null: none."""
    end: int
    """Offset of the next record to be produced."""
    lag: int
    """Records between both."""
    lag_s: float | None
    """Age of the oldest record that is not committed, 0 without any; null: not known."""


class LagHistory:
    """The ends of logs over time, thinned to what the lag in seconds needs."""

    def __init__(self) -> None:
        self._ends: dict[KafkaPartition, deque[_Sample]] = {}
        self._last: float | None = None

    def observe(
        self, at: float, committed: Mapping[KafkaPartition, int], ranges: Mapping[KafkaPartition, tuple[int, int]]
    ) -> tuple[PartitionLag, ...]:
        """Add a sample, and return the lag of each Kafka partition in it. `at`: seconds, rising."""
        after_gap = self._last is None or at - self._last > LONGEST_GAP_S
        self._last = at
        self._ends = {name: self._ends.get(name, deque(maxlen=_MOST_SAMPLES)) for name in ranges}
        return tuple(
            self._lag(name, at, committed.get(name), *ranges[name], after_gap=after_gap) for name in sorted(ranges)
        )

    def _lag(
        self, name: KafkaPartition, at: float, committed: int | None, start: int, end: int, *, after_gap: bool
    ) -> PartitionLag:
        samples = self._ends[name]
        if samples and end < samples[-1].end:  # the topic was made again, or its log was cut
            samples.clear()
        if not samples or end > samples[-1].end:
            samples.append(_Sample(at, end, after_gap or not samples))
        position = max(start, committed or 0)
        while len(samples) > 1 and samples[0].end <= position:
            samples.popleft()
        lag = max(0, end - position)
        return PartitionLag(*name, committed, end, lag, _seconds(samples, position, at) if lag else 0.0)


def _seconds(samples: deque[_Sample], position: int, at: float) -> float | None:
    """The age of the record at `position`: since the first sample whose end was behind it."""
    first = next(sample for sample in samples if sample.end > position)
    return None if first.after_gap else round(at - first.at, 3)


def total_seconds(lags: tuple[PartitionLag, ...]) -> float | None:
    """The greatest lag in seconds; None where one is not known."""
    seconds = [lag.lag_s for lag in lags]
    known = [one for one in seconds if one is not None]
    return max(known, default=0.0) if len(known) == len(seconds) else None
