"""The queue of receipts: the only path from a finished record to a committed offset."""

from collections import deque
from collections.abc import Iterator, Sequence

from pipeline.records import Finished


class CommitQueue:
    """Receipts on their way from the threads that finish records to the consumer loop that commits offsets.

    The promise: an offset is committed only if every record below it, in its Kafka partition, has been assigned to
    this worker and is finished. A record is finished when its receipt is in this queue, and it gets there on one of
    two paths:

    1. Milvus has acknowledged the batch that stored, deleted or skipped it (unchanged, stale, folded). With durability
       `flush`, a flush of every collection that began after this has finished too. `FlushGovernor` puts the receipt.
    2. It was rejected, and all in-sync replicas of the dead-letter topic have confirmed it. `DeadLetterProducer` puts
       the receipt. A replay sends no dead letters: there the log line finishes the record.

    Positions that are durable come the same way: an offset is committed only up to one of them.

    Nothing else makes a receipt. A record that was revoked, cut off or met an error has none, so the next worker reads
    it again. Any thread puts; only the consumer loop takes.
    """

    def __init__(self) -> None:
        self._receipts: deque[Finished] = deque()

    def put(self, receipt: Finished) -> None:
        """The records of this receipt are finished."""
        self._receipts.append(receipt)

    def put_all(self, receipts: Sequence[Finished]) -> None:
        """The records of these receipts are finished."""
        self._receipts.extend(receipts)

    def take(self) -> Iterator[Finished]:
        """Remove and yield the receipts that are there; never blocks."""
        while self._receipts:
            yield self._receipts.popleft()
