"""Compacted topics: a reader that is too far behind never meets deletes that the topic has forgotten.

Kafka keeps a null value for at least `delete.retention.ms` after it was appended. Who has read everything that was
appended before a moment, and reads all the rest within that time after it, has missed none. So for each Kafka partition
that moment is followed, and kept in the metadata of the commits. It is measured by end offsets and never by the
timestamps of records, which may be of any age.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consumers.kafka.positions.remembered import AcceptableGap
from pipeline.records import KafkaPartition
from pipeline.timestamps import format_time

_SAMPLES = 100
"""Samples of the end offset within `delete.retention.ms`: the moment is known to 1 % of that time."""
_REFRESH_MS = 3_600_000
"""An idle reader commits the moment again this often: else it would seem to have been away."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """At this time the Kafka partition ended there: who has read up to `end` has read what was appended before."""

    at_ms: int
    end: int


class _Log:
    """The samples of one Kafka partition, the first of which the committed offset has reached."""

    __slots__ = ("committed_ms", "passed", "retention_ms", "samples")

    def __init__(self, retention_ms: int, first: _Sample, committed_ms: int | None) -> None:
        self.retention_ms = retention_ms
        self.samples = [first]
        self.passed = first
        """The sample reached when the reader was observed last: what it has read since was appended later."""
        self.committed_ms = committed_ms

    def reached(self, offset: int) -> _Sample:
        """The last sample that a reader at this offset has reached."""
        return self.samples[max(0, bisect_right(self.samples, offset, key=_end) - 1)]

    def add(self, sample: _Sample) -> None:
        last = self.samples[-1]
        if sample.end == last.end:
            self.samples[-1] = sample
        elif sample.at_ms - last.at_ms >= self.retention_ms / _SAMPLES:
            self.samples.append(sample)

    def trim(self, committed: int) -> None:
        """Forget the samples before the last one that the committed offset has reached."""
        del self.samples[: self.samples.index(self.reached(committed))]

    def is_outdated(self) -> bool:
        """Whether the moment in the commit is much older than that of the committed offset."""
        age_ms = self.samples[0].at_ms - (self.committed_ms or 0)
        return age_ms > min(_REFRESH_MS, self.retention_ms / 10)


def _end(sample: _Sample) -> int:
    return sample.end


class CompactionWatch:
    """Follows the Kafka partitions of compacted topics. Any thread may call any method."""

    def __init__(self, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        """`clock`: epoch milliseconds, as the broker's cleaner counts."""
        self.now_ms = clock
        self._lock = threading.Lock()
        self._retention_ms: Mapping[str, int] = {}
        self._logs: dict[KafkaPartition, _Log] = {}

    def configure(self, retention_ms: Mapping[str, int]) -> None:
        """Set `delete.retention.ms` of the topics that are compacted."""
        self._retention_ms = retention_ms

    def check_commit(self, name: KafkaPartition, offset: int, read_to_ms: int | None, end: int) -> None:
        """Raise AcceptableGap if deletes behind a committed offset may be gone. `read_to_ms` None: unknown."""
        retention_ms = self._retention_ms.get(name[0])
        if retention_ms is not None and read_to_ms is not None and end > offset:
            _check(name, retention_ms, read_to_ms, self.now_ms(), go_on_at=offset)

    def begin(self, name: KafkaPartition, offset: int, read_to_ms: int | None, end: int) -> None:
        """Follow a Kafka partition that is read from this offset."""
        retention_ms, now_ms = self._retention_ms.get(name[0]), self.now_ms()
        with self._lock:
            self._logs.pop(name, None)
            if retention_ms is not None:
                first = _Sample(now_ms if read_to_ms is None else read_to_ms, offset)
                log = self._logs[name] = _Log(retention_ms, first, read_to_ms)
                log.add(_Sample(now_ms, end))
                log.passed = log.reached(offset)

    def observe(
        self,
        ends: Mapping[KafkaPartition, int],
        committed: Mapping[KafkaPartition, int],
        position: Callable[[KafkaPartition], int | None],
        read_at_ms: int,
    ) -> Mapping[KafkaPartition, int]:
        """Take note of the end offsets, read at that time. Raises AcceptableGap if deletes may be gone unread.

        Returns the committed offsets to commit again, because the moment in their commits is too old.
        """
        outdated = {}
        for name, end in ends.items():
            with self._lock:
                log = self._logs.get(name)
            if log is None or name not in committed or (at := position(name)) is None:
                continue
            with self._lock:
                if end > log.passed.end:
                    _check(name, log.retention_ms, log.passed.at_ms, read_at_ms, go_on_at=committed[name])
                log.add(_Sample(read_at_ms, end))
                log.passed = log.reached(at)
                log.trim(committed[name])
                if log.is_outdated():
                    outdated[name] = committed[name]
        return outdated

    def read_to_ms(self, name: KafkaPartition, offset: int) -> int | None:
        """The moment to commit with this offset; None where the topic is not compacted.

        Raises AcceptableGap as `observe`, for a process that was suspended: what it has read since may have been late.
        """
        with self._lock:
            log = self._logs.get(name)
            if log is None:
                return None
            if offset > log.passed.end:
                _check(name, log.retention_ms, log.passed.at_ms, self.now_ms(), go_on_at=offset)
            log.committed_ms = log.reached(offset).at_ms
            return log.committed_ms


def _check(name: KafkaPartition, retention_ms: int, read_to_ms: int, now_ms: int, *, go_on_at: int) -> None:
    if now_ms - read_to_ms <= retention_ms:
        return
    raise AcceptableGap(
        f"{name[0]}/{name[1]}: the topic is compacted, and of what was appended after {format_time(read_to_ms)} not "
        f"all was read within the {retention_ms // 1000:,} s for which Kafka keeps deletes (delete.retention.ms): some "
        "may be gone unread, so that their documents would stay for ever. Nothing was skipped. To be exact, fill a new "
        "collection from the topic as it is: set milvus.collection and kafka.group_id to new names. Or go on in this "
        "one: `milvus-stream ingest --accept-gap`, once; `milvus-stream audit` then counts the documents as "
        "unverifiable of which the topic has no record any more. Raise delete.retention.ms of the topic above the "
        "longest outage",
        go_on_at,
    )
