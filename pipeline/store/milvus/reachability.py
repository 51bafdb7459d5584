"""Whether a Milvus server answers: known from the calls, and from a probe while they say nothing.

A search that meets a server which is away waits for its own deadline, and so does the next one. With this view the
first call finds it out, all others fail at once, and go on at once when the server is back.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from pipeline.errors import MilvusAway, MilvusStreamError
from pipeline.store.milvus.error_mapping import Call, FailureKind, classify, is_broken_connection

log = structlog.get_logger(__name__)

SILENT_S = 1.0
"""Calls are under way and none was answered for so long: the server is probed."""
PROBE_S = 1.0
"""Deadline of a probe."""
INTERVAL_S = 0.5
"""Between two probes of a server that is away."""
SILENT_PROBES = 2
"""A busy server may miss one probe; after so many without an answer it is away."""

REFUSAL_S = 30.0
"""How long a refusal says something about the server: an operation may never be called again."""

Probe = Callable[[float], object]
"""A call that every server answers at once, with its deadline in seconds."""

_NO_ANSWER = frozenset({FailureKind.UNAVAILABLE, FailureKind.OUTCOME_UNKNOWN})


class Reachability:
    """The state of one connection; may be used by several threads.

    1. A call fails because no connection can be made: away at once.
    2. Calls are under way and no answer comes, as from a frozen server: away after probes without an answer. A slow
       server answers them.
    3. Anything is answered, a call or a probe: back.

    Nothing is sent while there are no calls and the server answered last.
    """

    def __init__(
        self,
        failures: tuple[type[Exception], ...],
        probe: Probe,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`failures`: the SDK's exceptions, as in `RetryingCaller`."""
        self._failures = failures
        self._probe = probe
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way = 0
        self._heard_at = clock()
        """The last answer, or the moment from which one is waited for."""
        self._away_since: float | None = None
        self._silent_probes = 0
        self._refusals: dict[Call, tuple[float, MilvusStreamError]] = {}
        """Calls that were last refused because the server could not serve them: when, and how."""
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="milvus-probe", daemon=True)

    def start(self) -> None:
        """Start the thread that probes."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; a probe under way is waited for."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raise MilvusAway where the server is away; calls nothing."""
        since = self._away_since
        if since is not None:
            away_s = max(self._clock() - since, 0.0)
            raise MilvusAway(f"Milvus is away since {away_s:.0f} s; the line milvus.away of the log says why", away_s)

    def check_serving(self, collection: str) -> None:
        """Raise MilvusAway as `check`, or a refusal of a moment ago of a call that has not succeeded since.

        Whoever has waited in vain for this collection learns from it that the server is starting, and not that it is
        slow. Refusals about another collection say nothing: a ledger may be released while its documents are loaded.
        """
        self.check()
        for call, (refused_at, refusal) in self._refusals.copy().items():
            if call.collection in (None, collection) and self._clock() - refused_at < REFUSAL_S:
                raise type(refusal)(str(refusal))  # a new one: each raise adds to the traceback

    def served(self, call: Call) -> None:
        """A call succeeded."""
        self._refusals.pop(call, None)
        self.answered()

    def refused(self, call: Call, refusal: MilvusStreamError) -> None:
        """A call met a server that cannot serve it now."""
        self._refusals[call] = self._clock(), refusal

    @contextmanager
    def calling(self) -> Iterator[None]:
        """One attempt of a call: an answer is waited for inside the block."""
        with self._lock:
            self._under_way += 1
            if self._under_way == 1:
                self._heard_at = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    def answered(self) -> None:
        """The server answered."""
        self._heard_at = self._clock()
        self._silent_probes = 0
        if self._away_since is not None:
            with self._lock:
                since, self._away_since = self._away_since, None
            if since is not None:
                log.info("milvus.back", away_s=round(self._clock() - since, 1))

    def failed(self, error: BaseException) -> None:
        """A call or a probe failed. A refusal is an answer; without a connection the server is away."""
        if is_broken_connection(error):
            self._leave("no connection can be made")
        elif classify(error) not in _NO_ANSWER:
            self.answered()

    def watch(self) -> float:
        """Probe where it is time to; returns the seconds until the next call of this."""
        away = self._away_since is not None
        silent = self._under_way > 0 and self._clock() - self._heard_at >= SILENT_S
        if not (away or silent):
            return SILENT_S
        try:
            self._probe(PROBE_S)
        except self._failures as error:
            self._silent_probes += 1
            self.failed(error)
            if self._silent_probes >= SILENT_PROBES:
                self._leave("it takes calls and answers none")
            return INTERVAL_S
        self.answered()
        return SILENT_S

    def _leave(self, why: str) -> None:
        with self._lock:
            new = self._away_since is None
            if new:
                self._away_since = self._clock()
        if new:
            log.warning("milvus.away", why=why, what="requests are answered 503 until it is back")
            self._wake.set()

    def _run(self) -> None:
        wait_s = SILENT_S
        while not self._closed.is_set():
            if self._wake.wait(wait_s):
                self._wake.clear()
                wait_s = INTERVAL_S
                continue
            try:
                wait_s = self.watch()
            except Exception:  # the edge of this thread: without it a server that was away would stay so for ever
                log.exception("milvus.probe_failed")
                wait_s = INTERVAL_S
