"""The fence around Kafka partitions: no write for a partition may begin after another worker could own it."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from pipeline.ingest.in_flight import BatchesInFlight
from pipeline.records import KafkaPartition, SourceRecord


class PartitionFence:
    """The Kafka partitions a worker owns, and those it was revoked, by batch number. Any thread may call any method.

    Batch numbers rise. A revocation holds for every batch up to the last number given so far; a batch with a higher
    number belongs to a later assignment. A batch is written inside `write_lock`, which leaves out the partitions that
    were revoked before. A partition revoked while it is written is still in `writing`: the caller waits until it is
    not, and `fenced` forbids further calls in the meantime.
    """

    def __init__(self, batches: BatchesInFlight) -> None:
        self.batches = batches
        self._lock = threading.Lock()
        self._owned: frozenset[KafkaPartition] = frozenset()
        self._revoked: dict[KafkaPartition, int] = {}

    @property
    def owned(self) -> frozenset[KafkaPartition]:
        """Kafka partitions assigned and not revoked since."""
        return self._owned

    def assign(self, partitions: Collection[KafkaPartition]) -> None:
        """These Kafka partitions belong to this worker from now on."""
        with self._lock:
            self._owned |= frozenset(partitions)

    def revoke(self, partitions: Collection[KafkaPartition]) -> None:
        """No batch submitted so far may begin to write these Kafka partitions."""
        with self._lock:
            # A sweep takes its number first and reads `owned` after: it is either numbered below, or does not own them.
            self._owned -= frozenset(partitions)
            self._revoked.update(dict.fromkeys(partitions, self.batches.last_number))

    def revoked(self, number: int, partition: KafkaPartition) -> bool:
        """Whether the batch of this number must not write this Kafka partition any more."""
        return self._revoked.get(partition, 0) >= number

    def still_owned(self, number: int, records: Sequence[SourceRecord]) -> Sequence[SourceRecord]:
        """Those of a batch's records that it may still write."""
        if not self._revoked:
            return records
        return [record for record in records if not self.revoked(number, record.position[:2])]

    @contextmanager
    def write_lock(self, number: int, partitions: Collection[KafkaPartition]) -> Iterator[frozenset[KafkaPartition]]:
        """Mark those of the Kafka partitions that were not revoked as being written, for the length of the block."""
        with self._lock:
            owned = frozenset(name for name in partitions if not self.revoked(number, name))
            # With the lock held: a revocation after this finds the partition in `writing`.
            self.batches.begin_write(number, owned)
        try:
            yield owned
        finally:
            self.batches.end_write(number)

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a batch being written holds one of these Kafka partitions."""
        return any(not names.isdisjoint(partitions) for names in self.batches.writing.values())

    @property
    def fenced(self) -> bool:
        """Whether a batch being written holds a Kafka partition revoked since: no further call may be sent."""
        return any(self.revoked(number, name) for number, names in self.batches.writing.items() for name in names)
