"""A value that is read beside the requests: they use the last one, and none waits for a read of another."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

import structlog

from pipeline.errors import MilvusStreamError, Unavailable

T = TypeVar("T")
log = structlog.get_logger(__name__)

RETRY_S = 30.0
"""After a read that failed, `last` does not start another one for so long."""


class Background(Generic[T]):
    """The last result of `read`, which runs on `thread`, once at a time. Any thread may call it."""

    def __init__(
        self,
        read: Callable[[], T],
        thread: Executor,
        *,
        ttl_s: float,
        what: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ttl_s`: how long a value, or an error, is used again. `what` is read, for the log."""
        self._read = read
        self._thread = thread
        self._ttl_s = ttl_s
        self._what = what
        self._clock = clock
        self._lock = threading.Lock()
        self._last: tuple[float, T] | None = None
        self._failed: tuple[float, BaseException] | None = None
        """The last read, if it failed."""
        self._reading: Future[T] | None = None

    def last(self) -> T | None:
        """The last value, None before there is one; where it is old, a read of a new one begins."""
        with self._lock:
            now = self._clock()
            old = self._last is None or now - self._last[0] >= self._ttl_s
            if old and (self._failed is None or now - self._failed[0] >= RETRY_S):
                self._begin()
            return None if self._last is None else self._last[1]

    async def now(self) -> T:
        """The value, at most `ttl_s` old. Requests that come at a time share a read, and raise what it raises."""
        with self._lock:
            now = self._clock()
            if self._failed is not None and now - self._failed[0] < self._ttl_s:
                raise self._failed[1]
            if self._last is not None and now - self._last[0] < self._ttl_s:
                return self._last[1]
            reading = self._begin()
        if reading is None:
            raise Unavailable("the query worker is closing")
        return await asyncio.shield(asyncio.wrap_future(reading))

    def _begin(self) -> Future[T] | None:
        """The read under way, or a new one; None after the thread was shut down. Called with the lock."""
        if self._reading is None:
            try:
                self._reading = self._thread.submit(self._run)
            except RuntimeError:
                return None
        return self._reading

    def _run(self) -> T:
        try:
            value = self._read()
        except BaseException as error:  # the edge of this thread: whoever waits gets the error, too
            with self._lock:
                self._reading = None
                first, self._failed = self._failed is None, (self._clock(), error)
            if first:
                why = str(error) if isinstance(error, MilvusStreamError) else type(error).__name__
                log.warning("freshness.unread", what=self._what, why=why, retried_in_s=RETRY_S)
            raise
        with self._lock:
            self._reading, self._failed, self._last = None, None, (self._clock(), value)
        return value
