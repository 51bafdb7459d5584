"""What one worker has acknowledged, and which of it is durable, by its own flushes or by another worker's."""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from pipeline import failpoints
from pipeline.errors import Unavailable
from pipeline.records import Receipt
from pipeline.store.flushing.policy import FlushPolicy, FlushState, flush_spacing_s
from pipeline.store.flushing.shared_marker import FlushMarker, Followed, Marks
from pipeline.store.milvus.api import MilvusApi
from pipeline.telemetry import FlushRole

log = structlog.get_logger(__name__)

OnDurable = Callable[[Sequence[Receipt]], None]
OnFlush = Callable[[FlushRole, bool], None]
"""Told of every round of flushes when it ends: why it was made, and whether it succeeded."""


@dataclass(slots=True)
class _Round:
    """One flush in hand: what it makes durable, and the collections it has still to do."""

    role: FlushRole
    followed: Followed
    receipts: list[Receipt]
    collections: list[str]

    def take(self) -> list[Receipt]:
        """All that it makes durable."""
        return self.followed.take() + self.receipts

    def __len__(self) -> int:
        return len(self.followed) + len(self.receipts)


class Flusher:
    """The flushes of one worker without their thread: `step` does what is due at `due_at`.

    `step` is called by one thread; the rest by any. A receipt is durable when a flush of every collection has finished
    that began after its ack.

    With a marker, only the worker that `leads` flushes as time goes by, and tells of it; the others watch the marker.
    One that has heard nothing for too long stands in: it flushes and tells until somebody else does. Who was asked to
    finish flushes itself, whoever leads. Two that flush at once do no harm.
    """

    def __init__(
        self,
        api: MilvusApi,
        collections: Sequence[str],
        policy: FlushPolicy,
        on_durable: OnDurable,
        clock: Callable[[], float],
        *,
        marker: FlushMarker | None,
        leads: Callable[[], bool],
        on_flush: OnFlush,
    ) -> None:
        self._api = api
        self._collections = tuple(collections)
        self._policy = policy
        self._on_durable = on_durable
        self._clock = clock
        self._marker = marker
        self._leads = leads
        self._on_flush = on_flush
        self._spacing_s = flush_spacing_s(api.server)
        self._lock = threading.Lock()
        self._state = FlushState(last_began=clock())
        self._receipts: list[Receipt] = []
        self._round: _Round | None = None
        self._followed = Followed()
        self._marks: Marks = {}
        self._told_at = clock()
        self._look_at = clock()
        self._waiting_since: float | None = None
        self._stands_in = False

    # --- any thread --------------------------------------------------------------------------------------------

    def acked(self, receipt: Receipt, rows: int) -> None:
        """The server has answered for these records, of which `rows` rows were written."""
        with self._lock:
            if self._policy.durability == "flush":
                self._receipts.append(receipt)
            if self._waiting_since is None:
                self._waiting_since = self._clock()
            self._state = replace(self._state, waiting=True, rows=self._state.rows + rows)

    def request(self) -> None:
        """Flush as soon as the server allows it; nothing to do where all is durable."""
        with self._lock:
            self._state = replace(self._state, requested=self._state.waiting)

    def finish(self) -> None:
        """Flush what waits at once, from now on."""
        with self._lock:
            self._state = replace(self._state, closing=True)

    def pending(self) -> int:
        """Receipts that are not durable yet."""
        with self._lock:
            return len(self._receipts) + len(self._followed) + (0 if self._round is None else len(self._round))

    def due_at(self) -> float | None:
        """When `step` has something to do, possibly in the past; None: not before something is acknowledged."""
        with self._lock:
            due = self._policy.due_at(self._state, self._spacing_s)
            return self._look_at if due is not None and self._follows() and not self._stands_in else due

    # --- the thread that flushes -------------------------------------------------------------------------------

    def step(self) -> None:
        """Look at the marker or flush. `Unavailable` (a rate limit, an outage) means later, and no receipt is dropped.

        Raises any other error of the server, and what `on_durable` raises.
        """
        if self._marker is not None and self._follows():
            self._look(self._marker)
            if not self._takes_over():
                return
        self._flush()

    def _follows(self) -> bool:
        """Whether somebody else flushes, as far as this worker knows."""
        state = self._state
        asked = state.requested or state.closing
        return self._marker is not None and self._round is None and not asked and not self._leads()

    def _takes_over(self) -> bool:
        now, due = self._clock(), self._policy.due_at(self._state, self._spacing_s)
        if due is None or due > now or self._waiting_since is None:
            return False
        return self._stands_in or self._policy.given_up(self._waiting_since, self._told_at, now, self._spacing_s)

    def _look(self, marker: FlushMarker) -> None:
        """Read the marker; what it shows to be durable is settled."""
        with self._lock:
            self._look_at = self._clock() + self._policy.look_s
            count = len(self._receipts)
        try:
            marks = marker.read() if self._policy.durability == "flush" else {}
        except Unavailable as error:
            log.warning("flush.marker_unread", error_type=type(error).__name__, error=str(error))
            return
        with self._lock:
            if any(told > self._marks.get(flusher, 0) for flusher, told in marks.items()):  # by somebody else
                self._told_at, self._stands_in = self._clock(), False
            self._marks = marks
            durable = self._followed.look(marks, self._receipts[:count])
            del self._receipts[:count]
            if durable:
                self._state = replace(self._state, failures=0)
            if durable or not self._followed:
                self._rest()
        if durable:
            self._on_durable(durable)

    def _rest(self) -> None:
        """Some receipts are durable: what is left waits from now on."""
        left = self._receipts or self._followed
        self._waiting_since = self._clock() if left else None
        if not left:
            self._state = FlushState(self._state.last_began, closing=self._state.closing)

    def _flush(self) -> None:
        began = self._clock()
        current = self._begin(began)
        marker = None if current.role == "finishing" else self._marker
        try:
            if marker is not None:
                marker.begin()
            while current.collections:
                self._api.flush(current.collections[0])
                del current.collections[0]
        except Unavailable as error:
            self._try_later(current, error)
            return
        failpoints.hit("flushed")
        if durable := current.take():
            self._on_durable(durable)
        with self._lock:
            self._round = None
            self._waiting_since = self._clock() if self._receipts else None
            self._state = replace(self._state, failures=0)
        self._on_flush(current.role, True)
        log.debug("flush.done", role=current.role, collections=self._collections, seconds=self._clock() - began)
        if marker is not None:
            self._tell(marker)

    def _begin(self, began: float) -> _Round:
        """Take what is acknowledged by now; what comes later may miss this flush and waits for the next."""
        with self._lock:
            if self._round is None:
                self._round = _Round(self._role(), self._followed, [], list(self._collections))
                self._followed = Followed()
            if len(self._round.collections) == len(self._collections):
                self._round.receipts += self._receipts
                self._receipts = []
                self._state = FlushState(began, closing=self._state.closing, failures=self._state.failures)
            else:
                self._state = replace(self._state, last_began=began)
            return self._round

    def _role(self) -> FlushRole:
        if self._marker is None or self._leads():
            return "leader"
        return "finishing" if self._state.requested or self._state.closing else "stand_in"

    def _tell(self, marker: FlushMarker) -> None:
        try:
            mark = marker.advance()
        except Unavailable as error:
            log.warning("flush.untold", error_type=type(error).__name__, error=str(error))
            return
        with self._lock:
            self._marks = {**self._marks, mark.flusher: mark.count}
            self._told_at, self._stands_in = self._clock(), not self._leads()

    def _try_later(self, current: _Round, error: Unavailable) -> None:
        with self._lock:
            now = self._clock()
            jitter = random.random()  # noqa: S311 - spreads workers that fail together, guards nothing
            self._state = self._policy.after_failure(self._state, now, jitter=jitter)
            failures, wait = self._state.failures, self._state.not_before - now
            if current.role == "stand_in":  # somebody else may succeed meanwhile
                self._receipts[:0] = current.receipts
                self._followed = current.followed
                self._round = None
                self._state = replace(self._state, waiting=True)
        self._on_flush(current.role, False)
        log.warning(
            "flush.postponed",
            role=current.role,
            collections=current.collections,
            failures=failures,
            next_in_s=round(wait, 1),
            error_type=type(error).__name__,
            error=str(error),
        )
