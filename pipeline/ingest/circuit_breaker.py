"""A circuit breaker shared by all stages of a worker.

A Milvus outage says nothing about a record, so calls are repeated until they succeed or the worker stops.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog

from pipeline.backoff import Backoff
from pipeline.errors import Stopped, Unavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")


class CircuitBreaker:
    """Limits an outage to one call at a time, however many stages there are.

    After a failure no stage calls until a wait is over. Then one stage probes while the others wait for its result;
    every failed probe makes the next wait longer.
    """

    def __init__(self, backoff: Backoff, on_retry: Callable[[str], None]) -> None:
        """`on_retry` gets the stage of every call that will be repeated."""
        self._backoff = backoff
        self._on_retry = on_retry
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
        """Call an idempotent function until it does not raise Unavailable. Raises Stopped after `end`."""
        while True:
            probing = self._admit()
            try:
                result = function()
            except Unavailable as error:
                self._record_failure(stage, error, probing=probing)
            except BaseException:
                with self._changed:
                    self._release(probing)
                raise
            else:
                self._record_success(stage, probing=probing)
                return result

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
                raise Stopped("ended while waiting for Milvus")
            return False

    def _record_failure(self, stage: str, error: Unavailable, *, probing: bool) -> None:
        self._on_retry(stage)
        with self._changed:
            if stage not in self._waiting:
                log.warning("milvus.unavailable", stage=stage, why=str(error), what="waiting and trying again")
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
                log.info("milvus.available", stage=stage)
            if probing:
                self._failures = 0
            self._release(probing)

    def _release(self, probing: bool) -> None:
        if probing:
            self._probing = False
        self._changed.notify_all()
