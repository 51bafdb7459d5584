"""A value that a thread reads again when a page needs it and it is old; no page waits for it twice."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from pipeline.errors import MilvusStreamError

_FIRST_WAIT_S = 1.0
"""For the very first value; later pages show the last one."""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A value and when it was read."""

    value: T | None
    """None: nothing has been read yet."""
    read_ms: int
    """Epoch milliseconds; 0 without a value."""
    failed: bool
    """The newest attempt failed; the log says why."""


class Refreshed(Generic[T]):
    """The last value of `read`, which runs on a thread of its own, once at a time, at most every `ttl_s` seconds."""

    def __init__(
        self, read: Callable[[], T], ttl_s: float, *, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._ttl_s = ttl_s
        self._name = name
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._attempt: Future[None] | None = None
        self._expires_at = clock()
        self._reading: Reading[T] = Reading(None, 0, failed=False)

    async def latest(self) -> Reading[T]:
        """The last reading. Only while there is none, the attempt under way is waited for, for a second."""
        if (self._attempt is None or self._attempt.done()) and self._clock() >= self._expires_at:
            with suppress(RuntimeError):  # closed: the process ends
                self._attempt = self._thread.submit(self._refresh)
        if self._reading.value is None and self._attempt is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_WAIT_S):
                    await asyncio.shield(asyncio.wrap_future(self._attempt))
        return self._reading

    def close(self) -> None:
        """Begin no further reading."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _refresh(self) -> None:
        try:
            self._reading = Reading(self._read(), time.time_ns() // 1_000_000, failed=False)
        except MilvusStreamError as error:
            self._reading = Reading(self._reading.value, self._reading.read_ms, failed=True)
            _log.warning("page.unread", what=self._name, why=str(error))
        except Exception as error:
            # At the edge of the thread: a page without this panel is better than none.
            self._reading = Reading(self._reading.value, self._reading.read_ms, failed=True)
            _log.exception("page.unread", what=self._name, error=type(error).__name__)
        finally:
            self._expires_at = self._clock() + self._ttl_s
