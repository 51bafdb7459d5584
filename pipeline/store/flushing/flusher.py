"""The flushes of one worker: what it has acknowledged, and which of it is durable by its own or another's flush."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from pipeline import failpoints
from pipeline.errors import Unavailable
from pipeline.records import Finished, KafkaPartition, Reached, Receipt
from pipeline.store.flushing.policy import FlushNeed, FlushPolicy, flush_spacing_s
from pipeline.store.flushing.positions import PositionStore, ReachedPositions
from pipeline.store.flushing.shared_marker import FlushCounts, FlushMarker, PendingOnPeer
from pipeline.store.flushing.states import (
    Flushing,
    Idle,
    OnAcked,
    OnDurable,
    OnFlush,
    StandingIn,
    State,
    after_ack,
    after_announcement,
    after_durable,
    ignore_flush,
    nothing_durable_since,
    takes_over,
)
from pipeline.store.milvus.api import MilvusApi
from pipeline.telemetry import FlushRole

log = structlog.get_logger(__name__)


class Flusher:
    """The flushes of one worker, without a thread: `step` does what is due at `due_at`.

    One thread calls `step`; the other methods may be called by any. A receipt is durable when a flush of every
    collection has finished that began after the ack.

    Without a marker the worker flushes for itself. With one, workers share flushes:

    1. The worker that `leads` flushes at intervals, and announces each flush by the marker.
    2. The others read the marker, and conclude from it which of their receipts are durable.
    3. A worker that sees no announcement for too long takes over: it flushes and announces, until another one does.
    4. A worker that was asked to finish flushes itself.

    Two workers that flush at the same time do no harm.

    With `positions`, the store also remembers how far each Kafka partition was acknowledged (`reached`): it is written
    before a flush, or before the marker is read, and becomes durable like rows.

    What is not durable when the connection to the server breaks may be lost, so `drop` forgets it.
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
        on_flush: OnFlush = ignore_flush,
        positions: PositionStore | None = None,
        on_acked: OnAcked | None = None,
    ) -> None:
        """`leads`: whether this worker is the one that flushes; may change at any time.

        `on_acked`: takes the receipts that are not durable by their acknowledgement, and brings them back to
        `acknowledged` together with the positions that they reach. So one flush is enough for both.
        """
        self._api = api
        self._collections = tuple(collections)
        self._policy = policy
        self._on_durable = on_durable
        self._clock = clock
        self._marker = marker
        self._leads = leads
        self._on_flush = on_flush
        self._positions = ReachedPositions(positions, clock)
        self._on_acked = on_acked
        self._spacing_s = flush_spacing_s(api.server)
        self._lock = threading.Lock()
        self._need = FlushNeed(last_began=clock())
        self._state: State = Idle()
        self._receipts: list[Finished] = []
        self._pending = PendingOnPeer()
        self._drops = 0
        self._drops_announced = 0
        self._marks: FlushCounts = {}
        self._read_marker_at = clock()

    # --- any thread --------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    def acked(self, receipt: Receipt, rows: int) -> None:
        """Record that the server has acknowledged these records, of which `rows` rows were written."""
        if self._policy.durability == "ack":
            with self._lock:
                self._wait_for_flush(rows)
            self._on_durable([receipt])
        elif self._on_acked is None:
            self.acknowledged([receipt], rows, {})
        else:
            self._on_acked(receipt, rows)

    def acknowledged(self, receipts: Sequence[Receipt], rows: int, reached: Mapping[KafkaPartition, Reached]) -> bool:
        """Record receipts, and how far each Kafka partition is acknowledged; whether `due_at` may be earlier now."""
        with self._lock:
            self._positions.reached(reached)
            self._receipts += receipts
            if not receipts and (self._need.waiting or not self._positions.unwritten):
                return False
            if receipts or self._policy.durability == "flush":
                self._wait_for_flush(rows)
            return True

    def _wait_for_flush(self, rows: int) -> None:
        self._state = after_ack(self._state, self._need.waiting, self._clock())
        self._need = replace(self._need, waiting=True, rows=self._need.rows + rows)

    def drop(self) -> None:
        """Forget what is not durable: the server may have lost it. It must be acknowledged again."""
        if self._policy.durability == "ack":
            return
        with self._lock:
            self._drops += 1
            dropped = len(self._receipts) + len(self._pending)
            self._receipts = []
            self._pending = PendingOnPeer()
            self._positions.forget()
            if isinstance(self._state, Flushing):  # a flush under way makes nothing of it durable
                dropped += len(self._state)
                self._state.pending.take()
                self._state.receipts.clear()
                self._state = self._state.before
        log.info("flush.dropped", receipts=dropped)

    def request(self) -> None:
        """Flush as soon as the server allows it; nothing to do where all is durable."""
        with self._lock:
            self._need = replace(self._need, requested=self._need.waiting)
            self._positions.request()

    def finish(self) -> None:
        """From now on flush at once whatever waits."""
        with self._lock:
            self._need = replace(self._need, closing=True)

    def pending(self) -> int:
        """Receipts that are not durable yet."""
        with self._lock:
            in_progress = len(self._state) if isinstance(self._state, Flushing) else 0
            return len(self._receipts) + len(self._pending) + in_progress

    def problem(self) -> str | None:
        """Why nothing became durable for too long; None while all is well, nothing waits, or no flush is waited for."""
        with self._lock:
            need, state, now = self._need, self._state, self._clock()
            waiting = need.waiting or bool(self._receipts or self._pending) or isinstance(state, Flushing)
        since = nothing_durable_since(state) if waiting and self._policy.durability == "flush" else None
        return None if since is None else self._policy.overdue(need, now - since, self._spacing_s)

    def due_at(self) -> float | None:
        """When `step` has something to do, possibly in the past; None: not before something is acknowledged."""
        with self._lock:
            due = self._flush_due_at()
            if self._policy.durability == "ack" and self._positions.unwritten:
                return self._positions.due_at if due is None else min(due, self._positions.due_at)
            return due

    def _flush_due_at(self) -> float | None:
        due = self._policy.due_at(self._need, self._spacing_s)
        reads_marker = self._follows() and not isinstance(self._state, StandingIn)
        return self._read_marker_at if due is not None and reads_marker else due

    # --- the thread that flushes -------------------------------------------------------------------------------

    def step(self) -> None:
        """Read the marker or flush. After `Unavailable` (a rate limit, an outage) it is repeated; no receipt is lost.

        Raises any other error of the server, and what `on_durable` raises.
        """
        if self._policy.durability == "ack":
            if written := self._positions.try_write(self._policy.read_interval_s):
                self._on_durable(written)
            due = self._flush_due_at()
            if due is None or due > self._clock():
                return
        if self._marker is not None and self._follows():
            self._read_marker(self._marker)
            if not self._takes_over():
                return
        self._flush()

    def _follows(self) -> bool:
        """Whether this worker relies on another one's flushes."""
        finishing = self._need.requested or self._need.closing
        return (
            self._marker is not None and not isinstance(self._state, Flushing) and not finishing and not self._leads()
        )

    def _takes_over(self) -> bool:
        now, due = self._clock(), self._policy.due_at(self._need, self._spacing_s)
        return due is not None and due <= now and takes_over(self._state, self._policy, now, self._spacing_s)

    # --- another worker's flushes ------------------------------------------------------------------------------

    def _read_marker(self, marker: FlushMarker) -> None:
        """Read the marker and report the receipts that it shows to be durable."""
        self._read_marker_at = self._clock() + self._policy.read_interval_s
        flushes = self._policy.durability == "flush"
        drops = self._drops
        try:
            written = self._positions.write() if flushes else []
            with self._lock:
                self._receipts += written if drops == self._drops else []
                acknowledged = len(self._receipts)
            marks = marker.read() if flushes else {}
        except Unavailable as error:
            with self._lock:
                self._need = replace(self._need, error=str(error))
            log.warning("flush.marker_unread", error_type=type(error).__name__, error=str(error))
            return
        with self._lock:
            if drops != self._drops:  # the receipts counted are gone, and others may be in their place
                return
            if any(count > self._marks.get(flusher, 0) for flusher, count in marks.items()):
                self._state = after_announcement(self._state, self._need.waiting, self._clock())
            self._marks = marks
            durable = self._pending.observe(marks, self._receipts[:acknowledged])
            del self._receipts[:acknowledged]
            if durable:
                self._need = replace(self._need, failures=0, error="")
            if durable or not self._pending:
                self._wait_or_rest()
        if durable:
            self._on_durable(durable)

    def _wait_or_rest(self) -> None:
        """Some receipts became durable: what remains waits from now on."""
        if not (remaining := bool(self._receipts or self._pending)):
            self._need = FlushNeed(self._need.last_began, waiting=self._positions.unwritten, closing=self._need.closing)
        self._state = after_durable(self._state, remaining or self._need.waiting, self._clock())

    # --- this worker's flushes ---------------------------------------------------------------------------------

    def _flush(self) -> None:
        began = self._clock()
        flushing = self._begin(began)
        marker = None if flushing.role == "finishing" else self._marker
        drops = self._drops
        try:
            if len(flushing.collections) == len(self._collections) and self._policy.durability == "flush":
                flushing.receipts += self._positions.write()
            if marker is not None:
                if self._drops_announced != drops:
                    self._drops_announced = drops
                    marker.restart()
                marker.begin()
            while flushing.collections:
                self._api.flush(flushing.collections[0])
                del flushing.collections[0]
        except Unavailable as error:
            self._try_later(flushing, error)
            return
        failpoints.hit("flushed")
        with self._lock:
            durable = flushing.pending.take() + flushing.receipts
            if drops != self._drops:  # the flush may have begun before the loss, and what came after it is not in it
                return
        if durable:
            self._on_durable(durable)
        with self._lock:
            self._state = after_durable(flushing.before, self._need.waiting, self._clock())
            self._need = replace(self._need, failures=0, error="")
        self._on_flush(flushing.role, True)
        log.debug("flush.done", role=flushing.role, collections=self._collections, seconds=self._clock() - began)
        if marker is not None:
            self._announce(marker)

    def _begin(self, began: float) -> Flushing:
        """Take over all receipts acknowledged by now; later ones may miss this flush and wait for the next."""
        with self._lock:
            if not isinstance(self._state, Flushing):
                self._state = Flushing(self._state, self._role(), self._pending, [], list(self._collections))
                self._pending = PendingOnPeer()
            flushing = self._state
            if len(flushing.collections) == len(self._collections):
                flushing.receipts += self._receipts
                self._receipts = []
                self._need = replace(self._need, last_began=began, waiting=False, rows=0, requested=False)
            else:  # continued after a failure: some collections were flushed before the newest acks
                self._need = replace(self._need, last_began=began)
            return flushing

    def _role(self) -> FlushRole:
        if self._marker is None or self._leads():
            return "leader"
        return "finishing" if self._need.requested or self._need.closing else "stand_in"

    def _announce(self, marker: FlushMarker) -> None:
        """Write the marker after a flush; a worker that does so without leading has taken over."""
        try:
            mark = marker.advance()
        except Unavailable as error:
            log.warning("flush.not_announced", error_type=type(error).__name__, error=str(error))
            return
        with self._lock:
            self._marks = {**self._marks, mark.flusher: mark.count}
            if self._leads():
                self._state = after_announcement(self._state, self._need.waiting, self._clock())
            else:
                self._state = StandingIn(self._clock())

    def _try_later(self, flushing: Flushing, error: Unavailable) -> None:
        with self._lock:
            now = self._clock()
            jitter = random.random()  # noqa: S311 - spreads workers that fail together, guards nothing
            self._need = replace(self._policy.after_failure(self._need, now, jitter=jitter), error=str(error))
            failures, wait = self._need.failures, self._need.not_before - now
            if flushing.role == "stand_in":  # another worker may succeed before the next attempt
                self._receipts[:0] = flushing.receipts
                self._pending = flushing.pending
                self._state = flushing.before
                self._need = replace(self._need, waiting=True)
        self._on_flush(flushing.role, False)
        log.warning(
            "flush.postponed",
            role=flushing.role,
            collections=flushing.collections,
            failures=failures,
            next_in_s=round(wait, 1),
            error_type=type(error).__name__,
            error=str(error),
        )
