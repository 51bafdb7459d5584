"""One call to Milvus: a deadline for each attempt, attempts by one policy, an error of ours at the end."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import LeaseExpired, MilvusStreamError, Unavailable
from pipeline.store.milvus.error_mapping import Call, FailureKind, RetryPolicy, chain, classify, to_error
from pipeline.store.milvus.write_lease import Lease

T = TypeVar("T")

Observer = Callable[[str, float, MilvusStreamError | None], None]
"""Told of every call when it ends: operation, seconds with all attempts, and the error raised or None."""

_SHOWN_CHARACTERS = 300


def unobserved(operation: str, seconds: float, error: MilvusStreamError | None) -> None:
    """The observer for those who want none."""


class RetryingCaller:
    """Makes the calls of one connection; may be used by several threads.

    `failures` are the SDK's exceptions; anything else passes through as the bug it is.
    """

    def __init__(
        self,
        failures: tuple[type[Exception], ...],
        *,
        timeout_s: float,
        retry: RetryPolicy,
        observe: Observer = unobserved,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._failures = failures
        self._timeout_s = timeout_s
        self._retry = retry
        self._observe = observe
        self._clock = clock
        self._closed = threading.Event()
        self._sleep: Callable[[float], object] = sleep or self._closed.wait
        self._seen_loaded: set[str] = set()
        self.lease = Lease()

    @property
    def longest_s(self) -> float:
        """After this many seconds a call with the usual deadline has ended, if the SDK keeps the attempt's deadline."""
        return max(self._retry.total_s, self._timeout_s) + self._timeout_s

    def loaded(self, collection: str) -> None:
        """Remember that this collection was loaded: "not loaded" will mean that the server is recovering."""
        self._seen_loaded.add(collection)

    def forget(self, collection: str) -> None:
        """The collection is gone, or released on purpose."""
        self._seen_loaded.discard(collection)

    def pause(self, seconds: float) -> None:
        """Wait, at most until the connection is closed."""
        self._sleep(seconds)

    def close(self) -> None:
        """Fail every further call, and those that wait for another attempt."""
        self._closed.set()

    def __call__(
        self,
        call: Call,
        function: Callable[..., T],
        *arguments: Any,
        attempt_s: float | None = None,
        total_s: float | None = None,
        repeat: bool = True,
        leased: bool = False,
        **options: Any,
    ) -> T:
        """`function(*arguments, timeout=…, **options)` until it succeeds or the policy gives up.

        `attempt_s`: deadline of an attempt that is known to be slow. `total_s`: all attempts must end within it.
        `leased`: no attempt may outlive the lease; raises LeaseExpired instead.
        """
        began = self._clock()
        failed: MilvusStreamError | None = None
        try:
            attempt = 0
            while True:
                attempt += 1
                elapsed = self._clock() - began
                self._check_open(call)
                try:
                    timeout = self._attempt_timeout(attempt_s, total_s, elapsed)
                    if leased:
                        timeout = self.lease.bounded(timeout)
                    return function(*arguments, timeout=timeout, retry_on_rate_limit=False, **options)
                except self._failures as error:
                    self._check_open(call)
                    if leased and (expired := _lease_expired(error)):
                        raise expired from error
                    kind = classify(error)
                    wait = self._wait(call, kind, attempt, self._clock() - began, total_s) if repeat else None
                    if wait is None:
                        raise to_error(kind, call, error_text(error)) from error
                self._sleep(wait)
        except MilvusStreamError as error:
            failed = error
            raise
        finally:
            self._observe(call.operation, self._clock() - began, failed)

    def _attempt_timeout(self, attempt_s: float | None, total_s: float | None, elapsed_s: float) -> float:
        if total_s is not None:
            return max(total_s - elapsed_s, 0.001)
        if attempt_s is not None:
            return attempt_s
        # A collection that loads again is waited for longer than the usual total: a second always remains.
        return min(self._timeout_s, max(self._retry.total_s - elapsed_s, 1.0)) if elapsed_s > 0 else self._timeout_s

    def _wait(
        self, call: Call, kind: FailureKind, attempt: int, elapsed_s: float, total_s: float | None
    ) -> float | None:
        wait = self._retry.wait(
            kind,
            attempt,
            elapsed_s,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            was_loaded=call.collection in self._seen_loaded,
        )
        return None if wait is None or (total_s is not None and elapsed_s + wait >= total_s) else wait

    def _check_open(self, call: Call) -> None:
        if self._closed.is_set():
            raise Unavailable(f"{call.operation}: the connection to Milvus is closed")


def _lease_expired(error: BaseException) -> LeaseExpired | None:
    """What was raised while the request was packed; the SDK reports it as an error of its own."""
    return next((link for link in chain(error) if isinstance(link, LeaseExpired)), None)


def error_text(error: BaseException) -> str:
    """What the server or the SDK said, on one line and not too much of it."""
    code = getattr(error, "code", None)
    code = code() if callable(code) else code
    details = getattr(error, "details", None)
    said = details() if callable(details) else getattr(error, "message", error)
    text = " ".join(str(said).split())
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
    return f"{shown} (code {getattr(code, 'name', code)})"
