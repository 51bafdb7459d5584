"""The registry of batches in flight: the one place where submitted and unacknowledged records are counted."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.records import KafkaPartition, Position, SourceRecord


class SetAside(NamedTuple):
    """Records whose document Milvus refuses in unlisted words, and that are tried again."""

    records: int
    oldest_s: float
    """Seconds since the first of them was set aside; 0 without any."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """What is counted of one batch."""

    records: Mapping[KafkaPartition, int]
    size: int
    oldest_ms: int
    """The earliest Kafka timestamp of the records, epoch milliseconds."""
    set_aside: Mapping[Position, float]
    """The records that are set aside, each with the monotonic time of the first time."""


class BatchesInFlight:
    """Batches from `open` until nothing of them is left. Any thread may call any method.

    What is buffered, what is unwritten and what is being written are answers about these batches, so the three cannot
    contradict one another.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_number = 0
        self._batches: dict[int, _InFlight] = {}
        self._size = 0
        # By batch number; replaced and never changed, so that it can be read without the lock.
        self._writing: Mapping[int, frozenset[KafkaPartition]] = {}

    def next_number(self) -> int:
        """Take a number for a write that carries no records (a tombstone sweep)."""
        with self._lock:
            self._last_number += 1
            return self._last_number

    def open(self, records: Sequence[SourceRecord], size: int) -> int:
        """Register a batch of `size` bytes; returns its number, higher than any before.

        The batch also owns the numbers behind it, one for each record: its parts have them, see `cut`.
        """
        with self._lock:
            number = self._last_number + 1
            self._last_number += max(1, len(records))
            self._replace(number, records, size)
            return number

    def cut(self, number: int, parts: Mapping[int, Sequence[SourceRecord]]) -> None:
        """Count the records of a batch by its parts from now on; `number` stays the number of one of them."""
        with self._lock:
            set_aside = self._batches[number].set_aside
            # The part that replaces the batch comes last: what is in flight never seems to be less than it is.
            for part in sorted(parts, key=lambda part: part == number):
                records = parts[part]
                times = {one.position: set_aside[one.position] for one in records if one.position in set_aside}
                self._put(part, records, sum(record.size for record in records), times)

    def acknowledge(
        self, number: int, remaining: Sequence[SourceRecord] = (), set_aside: Collection[Position] = ()
    ) -> None:
        """Only these records of the batch are still to be written, some of them set aside; without any it is closed."""
        with self._lock:
            self._replace(number, remaining, sum(record.size for record in remaining), set_aside)

    def begin_write(self, number: int, partitions: frozenset[KafkaPartition]) -> None:
        """Calls to Milvus for these Kafka partitions may be under way from now on."""
        with self._lock:
            self._writing = {**self._writing, number: partitions}

    def end_write(self, number: int) -> None:
        """No call for this number is under way any more."""
        with self._lock:
            self._writing = {other: names for other, names in self._writing.items() if other != number}

    @property
    def last_number(self) -> int:
        """The highest number given so far."""
        return self._last_number

    @property
    def size(self) -> int:
        """Bytes of the records in flight."""
        return self._size

    @property
    def oldest_ms(self) -> int | None:
        """The earliest Kafka timestamp of the records in flight, epoch milliseconds; None without any."""
        with self._lock:
            return min((batch.oldest_ms for batch in self._batches.values()), default=None)

    @property
    def set_aside(self) -> SetAside:
        """The records that are set aside at the moment."""
        with self._lock:
            times = [since for batch in self._batches.values() for since in batch.set_aside.values()]
        return SetAside(len(times), self._clock() - min(times) if times else 0.0)

    @property
    def idle(self) -> bool:
        """Whether no batch is in flight."""
        return not self._batches

    def unwritten(self, partitions: Collection[KafkaPartition]) -> int:
        """Records of these Kafka partitions in flight."""
        with self._lock:
            return sum(batch.records.get(name, 0) for batch in self._batches.values() for name in partitions)

    @property
    def writing(self) -> Mapping[int, frozenset[KafkaPartition]]:
        """Kafka partitions for which calls may be under way, by batch number."""
        return self._writing

    def _replace(
        self, number: int, records: Sequence[SourceRecord], size: int, set_aside: Collection[Position] = ()
    ) -> None:
        before = self._batches.get(number)
        times = dict.fromkeys(set_aside, self._clock())
        if before is not None:
            times |= {position: since for position, since in before.set_aside.items() if position in times}
        self._put(number, records, size, times)

    def _put(
        self, number: int, records: Sequence[SourceRecord], size: int, set_aside: Mapping[Position, float]
    ) -> None:
        # `idle` is read without the lock: a batch that remains is replaced in one step and never absent.
        before = self._batches.get(number)
        if records:
            oldest_ms = min(record.timestamp_ms for record in records)
            counts = Counter(record.position[:2] for record in records)
            self._batches[number] = _InFlight(counts, size, oldest_ms, set_aside)
        else:
            self._batches.pop(number, None)
        self._size += size - (0 if before is None else before.size)
