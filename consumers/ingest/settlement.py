"""The way from a receipt to an offset that may be committed."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import structlog

from consumers.kafka import OffsetTracker
from pipeline.errors import Unavailable
from pipeline.ingest import CommitQueue
from pipeline.records import KafkaPartition, Position, Receipt, WrittenPositions
from pipeline.store import FlushGovernor

log = structlog.get_logger(__name__)

Acknowledged: TypeAlias = deque[tuple[Receipt, int]]
"""Receipts of records that Milvus has acknowledged, with their rows, on their way to the thread that reads Kafka."""


class Settlement:
    """The receipts and offsets of one worker, for the thread that reads Kafka.

    1. Acknowledged receipts go to the flush, with the positions that they reach: Milvus remembers these.
    2. Durable receipts finish their records, durable positions allow commits up to them.
    3. After the connection to Milvus broke, what is not durable by then may be lost: nothing is taken, handed to the
       flush or committed before it is read again. So a flush after the loss finishes nothing of what came before it,
       and whether something is to be read again is the same at whatever time it is asked.
    """

    def __init__(
        self,
        receipts: CommitQueue,
        acknowledged: Acknowledged | None,
        governor: FlushGovernor,
        current: Callable[[Receipt], Sequence[Position]],
    ) -> None:
        """`acknowledged` None: Milvus remembers no positions. `current`: the positions of a receipt's own epoch."""
        self.tracker = OffsetTracker(remembered=acknowledged is not None)
        self._receipts = receipts
        self._acknowledged = acknowledged
        self._governor = governor
        self._current = current
        self._lock = threading.Lock()
        """A loss comes before a call that takes or hands over receipts, or after it."""
        self._milvus_lost = threading.Event()
        self._must_reread = False

    def settle(self) -> None:
        """Take what was finished and acknowledged since the last call; nothing while `lost`."""
        with self._lock:
            if self.lost:
                return
            for finished in self._receipts.take():
                if isinstance(finished, WrittenPositions):
                    self.tracker.secured(finished.positions)
                else:
                    self.tracker.done(self._current(finished))
            self._hand_over()

    def _hand_over(self) -> None:
        if self._acknowledged is None:
            return
        receipts, rows = [], 0
        while self._acknowledged:
            receipt, of_receipt = self._acknowledged.popleft()
            receipts.append(receipt)
            rows += of_receipt
            self.tracker.acked(self._current(receipt))
        self._governor.acknowledged(receipts, rows, self.tracker.reached())

    def dropped(self, partitions: Collection[KafkaPartition]) -> None:
        """Forget Kafka partitions that belong to another worker; also their positions, which it writes now."""
        self.tracker.dropped(partitions)
        with self._lock:
            if not self.lost:
                self._hand_over()

    @property
    def unfinished(self) -> bool:
        """Whether records are not durable, or the positions up to which they may be committed."""
        return bool(self.tracker.outstanding()) or self.tracker.unremembered()

    def committable(self) -> Mapping[KafkaPartition, int]:
        """The offsets that may be committed now."""
        return {} if self.lost else self.tracker.committable()

    def milvus_lost(self) -> None:
        """The connection to Milvus broke; called by any thread."""
        with self._lock:
            self._milvus_lost.set()
            # At once: a flush after the loss succeeds, and would write positions that the rows do not reach any more.
            self._governor.drop()

    @property
    def lost(self) -> bool:
        """Whether what was read and is not durable may be lost, and is not read again yet."""
        return self._milvus_lost.is_set() or self._must_reread

    def reread_lost(self, reread: Callable[[], None]) -> bool:
        """Read again what may be lost; True: it was, or is about to be, and records polled before this do not count."""
        if self._milvus_lost.is_set():
            self._milvus_lost.clear()
            self._must_reread = self._must_reread or self.unfinished
        if not self._must_reread:
            return False
        try:
            reread()
        except Unavailable as error:
            log.warning("kafka.reread_postponed", why=str(error))
        else:
            self._must_reread = False
        return True
