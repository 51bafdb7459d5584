"""A circuit breaker shared by all stages of a worker.

A Milvus outage says nothing about a record, so calls are repeated until they succeed or the worker stops. Only a call
that Milvus refuses in words that no table lists, while it answers others, ends the worker: nothing else would end it.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog

from pipeline.backoff import Backoff
from pipeline.errors import MilvusStreamError, Stopped, Unavailable, UnlistedAnswer

log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RefusalLimit:
    """When answers in unlisted words end the worker. Longer than a server takes to restart and recover."""

    times: int
    over_s: float


@dataclass(slots=True)
class _Unlisted:
    """Answers in unlisted words that one stage got in a row."""

    first_s: float
    times: int = 0


class CircuitBreaker:
    """Limits an outage to one call at a time, however many stages there are.

    After a failure no stage calls until a wait is over. Then one stage probes while the others wait for its result;
    every failed probe makes the next wait longer.
    """

    def __init__(
        self,
        backoff: Backoff,
        on_retry: Callable[[str], None],
        *,
        other_call: Callable[[], object],
        limit: RefusalLimit,
        clock: Callable[[], float] = time.monotonic,
        server: str = "milvus",
    ) -> None:
        """`on_retry` gets the stage of every call that will be repeated; `other_call` shows whether the server answers.

        It is any cheap read, and raises Unavailable. `server`: what is called, for the log.
        """
        self._backoff = backoff
        self._on_retry = on_retry
        self._other_call = other_call
        self._limit = limit
        self._clock = clock
        self._server = server
        self._unlisted: dict[str, _Unlisted] = {}
        self._changed = threading.Condition()
        self._failures = 0
        self._retry_at = 0.0
        self._probing = False
        self._ended = False
        self._waiting: dict[str, str] = {}

    @property
    def waiting_reasons(self) -> Mapping[str, str]:
        """By stage: why it is waiting at the moment."""
        with self._changed:
            return dict(self._waiting)

    def call(self, stage: str, function: Callable[[], T]) -> T:
        """Call an idempotent function until it does not raise Unavailable. Raises Stopped after `end`.

        Raises MilvusStreamError where Milvus refuses the call in unlisted words and answers others (`RefusalLimit`).
        """
        while True:
            probing = self._admit()
            try:
                result = self._attempt(stage, function)
            except Unavailable as error:
                self._record_failure(stage, error, probing=probing)
            except BaseException:
                with self._changed:
                    self._release(probing)
                raise
            else:
                self._record_success(stage, probing=probing)
                return result

    def _attempt(self, stage: str, function: Callable[[], T]) -> T:
        try:
            result = function()
        except UnlistedAnswer as error:
            if self._goes_on(stage):
                self._other_call()
                raise MilvusStreamError(
                    f"stage {stage}: Milvus refuses a call again and again in words that milvus-stream does not know, "
                    f"and answers others: {error}. Nothing was skipped. See what the words say, and correct it in "
                    "Milvus or in the settings; a restart repeats the call"
                ) from error
            raise
        except Unavailable:
            self._unlisted.pop(stage, None)
            raise
        self._unlisted.pop(stage, None)
        return result

    def _goes_on(self, stage: str) -> bool:
        """Count one more such answer; whether the limit is reached."""
        with self._changed:
            now = self._clock()
            unlisted = self._unlisted.setdefault(stage, _Unlisted(now))
            unlisted.times += 1
            return unlisted.times >= self._limit.times and now - unlisted.first_s >= self._limit.over_s

    def end(self) -> None:
        """Wake every waiting stage with Stopped."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _admit(self) -> bool:
        """Wait until a call may be made; True if it is the probe."""
        with self._changed:
            while not self._ended and self._failures:
                wait = self._retry_at - time.monotonic()
                if not self._probing and wait <= 0:
                    self._probing = True
                    return True
                self._changed.wait(None if self._probing else wait)
            if self._ended:
                raise Stopped(f"ended while waiting for {self._server}")
            return False

    def _record_failure(self, stage: str, error: Unavailable, *, probing: bool) -> None:
        self._on_retry(stage)
        with self._changed:
            if stage not in self._waiting:
                log.warning(f"{self._server}.unavailable", stage=stage, why=str(error), what="waiting and trying again")
            self._waiting[stage] = str(error)
            # Calls that were under way when the outage began fail together: they count as one failure.
            if probing or not self._failures:
                self._failures += 1
                jitter = random.random()  # noqa: S311 - spreads workers that fail together, guards nothing
                self._retry_at = time.monotonic() + self._backoff.delay_s(self._failures, jitter)
            self._release(probing)

    def _record_success(self, stage: str, *, probing: bool) -> None:
        with self._changed:
            if self._waiting.pop(stage, None) is not None:
                log.info(f"{self._server}.available", stage=stage)
            if probing:
                self._failures = 0
            self._release(probing)

    def _release(self, probing: bool) -> None:
        if probing:
            self._probing = False
        self._changed.notify_all()
