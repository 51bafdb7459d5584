"""Which Kafka partitions a flow may still write for, and which of them it is writing for at this moment."""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pipeline.records import KafkaPartition, SourceRecord


class PartitionFence:
    """A batch claims its Kafka partitions while it is written; what was abandoned before cannot be claimed.

    Batches have rising numbers: one that is numbered after an abandonment belongs to a later assignment. Every method
    may be called by any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned: dict[KafkaPartition, int] = {}
        # By the number of the batch; replaced and never changed, so that it can be read without the lock.
        self._writing: Mapping[int, frozenset[KafkaPartition]] = {}

    def abandon(self, partitions: Collection[KafkaPartition], number: int) -> None:
        """Batches up to this number must send nothing more of these partitions."""
        with self._lock:
            self._abandoned.update(dict.fromkeys(partitions, number))

    def abandoned(self, number: int, partition: KafkaPartition) -> bool:
        """Whether the batch of this number must not write for this partition any more."""
        return self._abandoned.get(partition, 0) >= number

    def kept(self, number: int, records: Sequence[SourceRecord]) -> Sequence[SourceRecord]:
        """Those of a batch's records that it may still write."""
        if not self._abandoned:
            return records
        return [record for record in records if not self.abandoned(number, record.position[:2])]

    @contextmanager
    def write_lock(self, number: int, partitions: Collection[KafkaPartition]) -> Iterator[frozenset[KafkaPartition]]:
        """Claim what was not abandoned of these for the length of the block."""
        with self._lock:
            kept = frozenset(name for name in partitions if not self.abandoned(number, name))
            # With the lock held: who abandons a partition after this finds it in `writing`.
            self._writing = {**self._writing, number: kept}
        try:
            yield kept
        finally:
            with self._lock:
                self._writing = {other: some for other, some in self._writing.items() if other != number}

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a batch being written claims one of these."""
        return any(not some.isdisjoint(partitions) for some in self._writing.values())

    @property
    def fenced(self) -> bool:
        """Whether a batch being written claims what has been abandoned since: no further call may be sent."""
        claimed = self._writing.items()
        return any(self.abandoned(number, partition) for number, some in claimed for partition in some)
