"""Micro-batches: polled records are collected until a limit of records, bytes or age is reached.

Pure; `now` is the caller's monotonic clock in seconds.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.records import KafkaPartition, SourceRecord

Trigger = Literal["records", "bytes", "age", "drain"]


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The limits of one micro-batch."""

    max_records: int
    max_bytes: int
    """A single larger record is a batch of its own."""
    max_wait_s: float
    """Longest time that the first record of a batch waits for more."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order of polling."""

    records: Sequence[SourceRecord]
    size: int
    """Bytes, as the byte budget counts them."""
    trigger: Trigger


class BatchBuilder:
    """Collects polled records into micro-batches; every record added leaves in exactly one batch, in order."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._records: list[SourceRecord] = []
        self._size = 0
        self._opened_at = 0.0

    @property
    def size(self) -> int:
        """Bytes collected and not yet in a batch."""
        return self._size

    def add(self, records: Sequence[SourceRecord], now: float) -> Iterator[Batch]:
        """Collect records; yields each batch that they fill."""
        for record in records:
            size = record.size
            if self._records and self._size + size > self._policy.max_bytes:
                yield self._close("bytes")
            if not self._records:
                self._opened_at = now
            self._records.append(record)
            self._size += size
            if len(self._records) >= self._policy.max_records:
                yield self._close("records")

    def due_in(self, now: float) -> float | None:
        """Seconds until the open batch closes by age, 0 when it is due; None while nothing is collected."""
        return max(0.0, self._opened_at + self._policy.max_wait_s - now) if self._records else None

    def close_due(self, now: float) -> Iterator[Batch]:
        """Yield the open batch if its first record has waited long enough."""
        if self.due_in(now) == 0.0:
            yield self._close("age")

    def close(self) -> Iterator[Batch]:
        """Yield the open batch, if there is one, whatever its age."""
        if self._records:
            yield self._close("drain")

    def discard(self, partitions: Collection[KafkaPartition]) -> None:
        """Drop the collected records of Kafka partitions that belong to another worker now."""
        self._records = [record for record in self._records if record.position[:2] not in partitions]
        self._size = sum(record.size for record in self._records)

    def _close(self, trigger: Trigger) -> Batch:
        batch = Batch(self._records, self._size, trigger)
        self._records, self._size = [], 0
        return batch
