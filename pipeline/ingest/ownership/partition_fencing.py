"""The fence around Kafka partitions: no write for a partition may begin after another worker could own it."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from pipeline.ingest.ownership.in_flight import BatchesInFlight
from pipeline.records import KafkaPartition, Position, Receipt, SourceRecord


class PartitionFence:
    """The Kafka partitions a worker owns, and their epochs. Any thread may call any method.

    Batch numbers rise. An assignment or a revocation of a Kafka partition ends its epoch: every batch up to the last
    number given so far is fenced, a batch with a higher number belongs to the next epoch. A fenced batch writes nothing
    of that Kafka partition, and its receipt finishes nothing of it.

    A batch is written inside `write_lock`, which leaves out the partitions that are fenced. A partition fenced while it
    is written is still in `writing`: the caller waits until it is not, and `fenced` forbids further calls until then.
    """

    def __init__(self, batches: BatchesInFlight) -> None:
        self.batches = batches
        self._lock = threading.Lock()
        self._owned: frozenset[KafkaPartition] = frozenset()
        self._ended: dict[KafkaPartition, int] = {}
        self._last_ended = 0

    @property
    def owned(self) -> frozenset[KafkaPartition]:
        """Kafka partitions assigned and not revoked since."""
        return self._owned

    def assign(self, partitions: Collection[KafkaPartition]) -> None:
        """These Kafka partitions belong to this worker from now on, and are read again if they did before."""
        with self._lock:
            self._end_epochs(partitions)
            self._owned |= frozenset(partitions)

    def revoke(self, partitions: Collection[KafkaPartition]) -> None:
        """No batch submitted so far may begin to write these Kafka partitions."""
        with self._lock:
            # A sweep takes its number first and reads `owned` after: it is either numbered below, or does not own them.
            self._owned -= frozenset(partitions)
            self._end_epochs(partitions)

    def revoked(self, number: int, partition: KafkaPartition) -> bool:
        """Whether the batch of this number belongs to an earlier epoch: it must not write this Kafka partition."""
        return self._ended.get(partition, 0) >= number

    def still_owned(self, number: int, records: Sequence[SourceRecord]) -> Sequence[SourceRecord]:
        """Those of a batch's records that it may still write."""
        if number > self._last_ended:
            return records
        return [record for record in records if not self.revoked(number, record.position[:2])]

    def finished(self, receipt: Receipt) -> Sequence[Position]:
        """Return the positions of a receipt, except those that were read in an earlier epoch."""
        if receipt.batch > self._last_ended:
            return receipt.positions
        return [position for position in receipt.positions if not self.revoked(receipt.batch, position[:2])]

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

    def _end_epochs(self, partitions: Collection[KafkaPartition]) -> None:
        self._last_ended = self.batches.last_number
        self._ended.update(dict.fromkeys(partitions, self._last_ended))

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a batch being written holds one of these Kafka partitions."""
        return any(not names.isdisjoint(partitions) for names in self.batches.writing.values())

    @property
    def fenced(self) -> bool:
        """Whether a batch being written holds a Kafka partition revoked since: no further call may be sent."""
        return any(self.revoked(number, name) for number, names in self.batches.writing.items() for name in names)
