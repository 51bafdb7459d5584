"""The thread that flushes Milvus.

A flush seals every growing segment of a collection, so each one costs the search side something, and newer servers
allow one in ten seconds per collection. Inserts go on beside it. So one thread flushes, rarely, off the data path, and
of several workers one does it for all (`flush_marker`).
"""

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from pipeline.records import Receipt
from pipeline.store.flushing.flusher import Flusher, OnDurable, OnFlush
from pipeline.store.flushing.policy import FlushPolicy
from pipeline.store.flushing.shared_marker import FlushMarker
from pipeline.store.milvus.api import MilvusApi
from pipeline.telemetry import FlushRole

log = structlog.get_logger(__name__)


def _uncounted(role: FlushRole, ok: bool) -> None:
    """For those who count no flushes."""


class FlushGovernor:
    """Flushes the collections of one worker on a thread of its own.

    A receipt is durable when a flush of every collection has finished that began after its ack. `Unavailable` (a
    rate-limit answer, no answer, an outage) means later: no receipt is dropped. Any other error ends the thread and
    is raised by `check`. `on_durable` is called by this thread, with `ack` by the one that calls `acked`.

    `marker`: other workers write the same collections, and one flushes for all, see `Flusher`. `leads` says whether it
    is this one; it may change at any time.
    """

    def __init__(
        self,
        api: MilvusApi,
        collections: Sequence[str],
        policy: FlushPolicy,
        on_durable: OnDurable,
        clock: Callable[[], float] = time.monotonic,
        *,
        marker: FlushMarker | None = None,
        leads: Callable[[], bool] = lambda: True,
        on_flush: OnFlush = _uncounted,
    ) -> None:
        self._flusher = Flusher(
            api, collections, policy, on_durable, clock, marker=marker, leads=leads, on_flush=on_flush
        )
        self._at_once = on_durable if policy.durability == "ack" else None
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
        """The server has answered for these records, of which `rows` rows were written; never blocks on a flush."""
        self._flusher.acked(receipt, rows)
        self._changed.set()
        if self._at_once is not None:
            self._at_once([receipt])

    def request(self) -> None:
        """Flush as soon as the server allows it, not after the interval; nothing to do where all is durable."""
        self._flusher.request()
        self._changed.set()

    def pending(self) -> int:
        """Receipts that are not durable yet."""
        return self._flusher.pending()

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
        """Block until there is something to do; False: the thread is to end."""
        while True:
            self._changed.clear()  # before the look at what it tells of, so that nothing is missed
            due = self._flusher.due_at()
            if self._ended or (due is None and self._closing):
                return False
            wait = None if due is None else due - self._clock()
            if wait is not None and wait <= 0:
                return True
            self._changed.wait(wait)
