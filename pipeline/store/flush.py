"""When Milvus is flushed, and which receipts are durable by it.

A flush seals every growing segment of a collection, so each one costs the search side something, and newer servers
allow one in ten seconds per collection. Inserts go on beside it. So one thread flushes, rarely, off the data path, and
of several workers one does it for all (`flush_marker`).
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from pipeline import failpoints
from pipeline.errors import Unavailable, UsageError
from pipeline.records import Receipt
from pipeline.store.api import MilvusApi, ServerInfo
from pipeline.store.flush_marker import FlushMarker, Followed, Mark

log = structlog.get_logger(__name__)

SILENT_ROUNDS = 1.5
"""After so many intervals in which nobody told of a flush (the leader may have nothing to flush), a worker does it."""
OVERDUE_ROUNDS = 4
"""After so many without a flush that counts for its receipts, whatever others tell."""
LONGEST_LOOK_S = 5.0
LIMITED_SPACING_S = 10.0
"""From Milvus 2.4 on, more than one flush of a collection within this time is refused by default."""


def flush_spacing_s(server: ServerInfo) -> float:
    """The least time between two flushes that this server allows: none on Lite and before 2.4."""
    return 0.0 if server.lite or (0, 0, 0) < server.number < (2, 4, 0) else LIMITED_SPACING_S


@dataclass(frozen=True, slots=True)
class FlushState:
    """What the decision when to flush is made from; times are of one monotonic clock, in seconds."""

    last_began: float
    """When the last flush began; before the first one, when the governor started."""
    waiting: bool = False
    """Something was acknowledged since the last flush began."""
    rows: int = 0
    """Rows acknowledged since then."""
    requested: bool = False
    closing: bool = False
    failures: int = 0
    """Attempts of the flush in hand that failed."""
    not_before: float = float("-inf")


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    """How often to flush."""

    durability: Literal["flush", "ack"] = "flush"
    """`flush`: a receipt is durable by a flush that began after the ack; `ack`: at once, flushes only tidy up."""
    interval_s: float = 30.0
    rows: int | None = None
    """Flush as soon as so many rows wait: Lite searches such rows one by one, about 40 µs each."""
    first_retry_s: float = 1.0
    longest_retry_s: float = 30.0

    def __post_init__(self) -> None:
        if self.interval_s <= 0:
            raise UsageError(f"milvus.flush_interval is {self.interval_s} s: write more than 0")
        if self.rows is not None and self.rows < 1:
            raise UsageError(f"flush after {self.rows} rows: write at least 1")

    def due_at(self, state: FlushState, spacing_s: float) -> float | None:
        """When the next flush should begin, possibly in the past; None: not before something is acknowledged."""
        if state.failures:
            return state.not_before
        if not state.waiting:
            return None
        if state.closing:
            return state.last_began
        pressing = state.requested or (self.rows is not None and state.rows >= self.rows)
        return state.last_began + (spacing_s if pressing else max(self.interval_s, spacing_s))

    def after_failure(self, state: FlushState, now: float, *, jitter: float) -> FlushState:
        """The flush in hand failed: try again later, with `jitter` in [0, 1) over the upper half of the wait."""
        longest = min(self.longest_retry_s, self.first_retry_s) if state.closing else self.longest_retry_s
        wait = min(longest, self.first_retry_s * 2.0 ** min(state.failures, 30)) * (0.5 + jitter / 2)
        return replace(state, failures=state.failures + 1, not_before=now + wait)


@dataclass(slots=True)
class _Round:
    """One flush in hand: what it makes durable, and the collections it has still to do."""

    receipts: list[Receipt]
    collections: list[str]
    told: bool
    """The marker is to tell of it."""


class FlushGovernor:
    """Flushes the collections of one worker on a thread of its own.

    A receipt is durable when a flush of every collection has finished that began after its ack. `Unavailable` (a
    rate-limit answer, no answer, an outage) means later: no receipt is dropped. Any other error ends the thread and
    is raised by `check`. `on_durable` is called by this thread, with `ack` by the one that calls `acked`.

    With a marker, only the worker that `leads` flushes as time goes by; the others watch the marker. Who is asked to
    finish (`request`, `close`), or has waited too long, flushes whoever leads. The leader and who waited too long tell
    of their flushes by the marker.
    """

    def __init__(
        self,
        api: MilvusApi,
        collections: Sequence[str],
        policy: FlushPolicy,
        on_durable: Callable[[Sequence[Receipt]], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        marker: FlushMarker | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = api
        self._collections = tuple(collections)
        self._policy = policy
        self._on_durable = on_durable
        self._clock = clock
        self._spacing_s = flush_spacing_s(api.server)
        self._changed = threading.Condition()
        self._state = FlushState(last_began=clock())
        self._marker = marker
        self._leads = leads
        self._followed = Followed()
        self._look_at = clock()
        self._mark: Mark | None = None
        self._marked_at = clock()
        self._waiting_since: float | None = None
        self._receipts: list[Receipt] = []
        self._round: _Round | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def acked(self, receipt: Receipt, rows: int) -> None:
        """The server has answered for these records, of which `rows` rows were written; never blocks on a flush."""
        at_once = self._policy.durability == "ack"
        with self._changed:
            if not at_once:
                self._receipts.append(receipt)
            if self._waiting_since is None:
                self._waiting_since = self._clock()
            self._state = replace(self._state, waiting=True, rows=self._state.rows + rows)
            self._changed.notify_all()
        if at_once:
            self._on_durable([receipt])

    def request(self) -> None:
        """Flush as soon as the server allows it, not after the interval; nothing to do where all is durable."""
        with self._changed:
            if self._state.waiting and not self._state.requested:
                self._state = replace(self._state, requested=True)
                self._changed.notify_all()

    def pending(self) -> int:
        """Receipts that are not durable yet."""
        with self._changed:
            return len(self._receipts) + len(self._followed) + (len(self._round.receipts) if self._round else 0)

    def check(self) -> None:
        """Raise the error that ended the thread, if one did."""
        if self._error is not None:
            raise self._error

    def close(self, deadline_s: float) -> None:
        """Flush once more and stop; after `deadline_s` the rest stays pending and is read again by the next worker."""
        with self._changed:
            self._ended = deadline_s <= 0
            self._state = replace(self._state, closing=True)
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(min(max(deadline_s, 0.0), threading.TIMEOUT_MAX))
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._wait_until_due():
                if self._follows():
                    self._look()
                else:
                    self._flush()
        except BaseException as error:
            with self._changed:
                self._error = error
            log.error("flush.stopped", error_type=type(error).__name__, error=str(error))

    def _wait_until_due(self) -> bool:
        """Block until a flush is due; False: the thread is to end."""
        with self._changed:
            while not self._ended:
                due = self._policy.due_at(self._state, self._spacing_s)
                if due is not None and self._follows():
                    due = self._look_at
                if due is None and self._state.closing:
                    return False
                wait = None if due is None else due - self._clock()
                if wait is not None and wait <= 0:
                    return True
                self._changed.wait(wait)
            return False

    def _follows(self) -> bool:
        """Whether somebody else's flush is waited for."""
        state = self._state
        if self._marker is None or state.requested or state.closing or self._round is not None or self._leads():
            return False
        return not self._overdue()

    def _overdue(self) -> bool:
        if self._waiting_since is None:
            return False
        now, interval_s = self._clock(), max(self._policy.interval_s, self._spacing_s)
        silent_s = now - max(self._waiting_since, self._marked_at)
        return silent_s > SILENT_ROUNDS * interval_s or now - self._waiting_since > OVERDUE_ROUNDS * interval_s

    def _look(self) -> None:
        """Read the marker; what it shows to be durable is settled."""
        assert self._marker is not None  # see _follows  # noqa: S101
        with self._changed:
            acked, self._receipts = self._receipts, []
            self._look_at = self._clock() + min(self._policy.interval_s / 2, LONGEST_LOOK_S)
        durable: list[Receipt] = []
        try:
            mark = self._marker.read() if self._policy.durability == "flush" else None
        except Unavailable as error:
            log.warning("flush.marker_unread", error_type=type(error).__name__, error=str(error))
            with self._changed:
                self._receipts = acked + self._receipts
            return
        with self._changed:
            if mark != self._mark:
                self._mark, self._marked_at = mark, self._clock()
            durable = self._followed.look(mark, acked)
            if durable or not len(self._followed):
                self._waiting_since = self._clock() if self._receipts or len(self._followed) else None
            if self._waiting_since is None:
                self._state = FlushState(self._state.last_began, closing=self._state.closing)
        if durable:
            self._on_durable(durable)

    def _flush(self) -> None:
        began = self._clock()
        current = self._begin(began)
        try:
            while current.collections:
                self._api.flush(current.collections[0])
                del current.collections[0]
            if self._marker is not None and current.told:
                self._marker.advance()
        except Unavailable as error:
            self._try_later(current, error)
            return
        failpoints.reached("flushed")
        if current.receipts:
            self._on_durable(current.receipts)
        with self._changed:
            self._round = None
            self._marked_at = self._clock()
            self._waiting_since = self._clock() if self._receipts else None
            self._state = replace(self._state, failures=0)
        log.debug("flush.done", collections=self._collections, seconds=round(self._clock() - began, 3))

    def _begin(self, began: float) -> _Round:
        """Take what is acknowledged by now; what comes later may miss this flush and waits for the next."""
        with self._changed:
            if self._round is None:
                self._round = _Round([], list(self._collections), told=self._leads() or self._overdue())
            if len(self._round.collections) == len(self._collections):
                self._round.receipts += self._followed.take() + self._receipts
                self._receipts = []
                self._state = FlushState(began, closing=self._state.closing, failures=self._state.failures)
            else:
                self._state = replace(self._state, last_began=began)
            return self._round

    def _try_later(self, current: _Round, error: Unavailable) -> None:
        with self._changed:
            now = self._clock()
            jitter = random.random()  # noqa: S311 - spreads workers that fail together, guards nothing
            self._state = self._policy.after_failure(self._state, now, jitter=jitter)
            failures, wait = self._state.failures, self._state.not_before - now
        log.warning(
            "flush.postponed",
            collections=current.collections,
            failures=failures,
            next_in_s=round(wait, 1),
            error_type=type(error).__name__,
            error=str(error),
        )
