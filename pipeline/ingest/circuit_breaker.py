"""Waiting for Milvus: an outage is no error of a record, so a call is repeated for as long as it takes."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog

from pipeline.errors import Stopped, Unavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")


class CircuitBreaker:
    """One circuit breaker for all stages of a worker.

    After a failure nobody calls until a pause is over, which doubles with every further failure; then one stage tries
    while the others wait for its result. So an outage sees one call at a time, however many stages there are.
    """

    def __init__(self, first_s: float, longest_s: float, on_retry: Callable[[str], None]) -> None:
        """`on_retry` is told the stage of every call that is to be repeated."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._on_retry = on_retry
        self._changed = threading.Condition()
        self._failures = 0
        self._retry_at = 0.0
        self._probing = False
        self._ended = False
        self._trouble: dict[str, str] = {}

    @property
    def trouble(self) -> Mapping[str, str]:
        """By stage: why it is waiting at the moment."""
        with self._changed:
            return dict(self._trouble)

    def persist(self, stage: str, call: Callable[[], T]) -> T:
        """The result of an idempotent call once it does not raise Unavailable. Raises Stopped after `end`."""
        while True:
            probing = self._admitted()
            try:
                result = call()
            except Unavailable as error:
                self._failed(stage, error, probing=probing)
            except BaseException:
                self._left(probing=probing)
                raise
            else:
                self._succeeded(stage, probing=probing)
                return result

    def end(self) -> None:
        """Wake whoever waits with Stopped."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _admitted(self) -> bool:
        """Wait until a call may be made; True: it is the one that tries whether Milvus is back."""
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

    def _failed(self, stage: str, error: Unavailable, *, probing: bool) -> None:
        self._on_retry(stage)
        with self._changed:
            if stage not in self._trouble:
                log.warning("milvus.unavailable", stage=stage, why=str(error), what="waiting and trying again")
            self._trouble[stage] = str(error)
            if probing or not self._failures:
                pause = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 30))
                self._failures += 1
                self._retry_at = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
            self._leave(probing)

    def _succeeded(self, stage: str, *, probing: bool) -> None:
        with self._changed:
            if self._trouble.pop(stage, None) is not None:
                log.info("milvus.available", stage=stage)
            if probing:
                self._failures = 0
            self._leave(probing)

    def _left(self, *, probing: bool) -> None:
        with self._changed:
            self._leave(probing)

    def _leave(self, probing: bool) -> None:
        if probing:
            self._probing = False
        self._changed.notify_all()
