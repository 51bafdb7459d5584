"""The thread that flushes Milvus.

A flush seals every growing segment of a collection: it costs the search side something, and newer servers allow one in
ten seconds per collection. Inserts continue beside it. So one thread flushes, rarely and off the data path, and of
several workers one flushes for all (`Flusher`).
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from pipeline.records import KafkaPartition, Reached, Receipt
from pipeline.store.flushing.flusher import Flusher

log = structlog.get_logger(__name__)


class FlushGovernor:
    """Runs a flusher on a thread of its own.

    `Unavailable` (a rate-limit answer, no answer) means later, and no receipt is dropped. Any other error ends the
    thread and is raised by `check`. This thread reports what is durable; with durability `ack` the thread that calls
    `acked` does.
    """

    def __init__(self, flusher: Flusher, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is the flusher's."""
        self._flusher = flusher
        self._clock = clock
        self._changed = threading.Event()
        self._error: BaseException | None = None
        self._closing = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def acked(self, receipt: Receipt, rows: int) -> None:
        """Record that the server has acknowledged these records, of which `rows` rows were written; never blocks."""
        self._flusher.acked(receipt, rows)
        self._changed.set()

    def acknowledged(self, receipts: Sequence[Receipt], rows: int, reached: Mapping[KafkaPartition, Reached]) -> None:
        """Record receipts that `on_acked` took, and how far each Kafka partition is acknowledged by now."""
        if self._flusher.acknowledged(receipts, rows, reached):
            self._changed.set()

    def drop(self) -> None:
        """Forget what is not durable, because the server may have lost it; never blocks."""
        self._flusher.drop()
        self._changed.set()

    def request(self) -> None:
        """Flush as soon as the server allows it, not after the interval; nothing to do where all is durable."""
        self._flusher.request()
        self._changed.set()

    def pending(self) -> int:
        """Receipts that are not durable yet."""
        return self._flusher.pending()

    def problem(self) -> str | None:
        """Why nothing became durable for three intervals, for the readiness probe; None while all is well."""
        return self._flusher.problem()

    def check(self) -> None:
        """Raise the error that ended the thread, if one did."""
        if self._error is not None:
            raise self._error

    def close(self, deadline_s: float) -> None:
        """Flush once more and stop; after `deadline_s` the rest stays pending and is read again by the next worker."""
        self._flusher.finish()
        self._closing = True
        self._ended = deadline_s <= 0
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(min(max(deadline_s, 0.0), threading.TIMEOUT_MAX))
        self._ended = True
        self._changed.set()

    def _run(self) -> None:
        try:
            while self._wait_until_due():
                self._flusher.step()
        except BaseException as error:
            self._error = error
            log.error("flush.stopped", error_type=type(error).__name__, error=str(error))

    def _wait_until_due(self) -> bool:
        """Block until there is something to do; False: the thread must end."""
        while True:
            self._changed.clear()  # before `due_at`, so that no change after it is missed
            due = self._flusher.due_at()
            if self._ended or (due is None and self._closing):
                return False
            wait = None if due is None else due - self._clock()
            if wait is not None and wait <= 0:
                return True
            self._changed.wait(wait)
