"""Calls to Milvus: a deadline for each attempt, one retry policy, and the errors of `pipeline.errors`."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from pipeline.errors import LeaseExpired, MilvusStreamError, Unavailable
from pipeline.store.milvus.connection_watch import ConnectionWatch
from pipeline.store.milvus.error_mapping import Call, FailureKind, RetryPolicy, chain, classify, to_error
from pipeline.store.milvus.reachability import Reachability
from pipeline.store.milvus.write_lease import Lease

T = TypeVar("T")

Observer = Callable[[str, float, MilvusStreamError | None], None]
"""Called when a call ends with the operation, the seconds of all its attempts, and the error or None."""

_SHOWN_CHARACTERS = 300
_NOT_SERVING = frozenset({FailureKind.UNAVAILABLE, FailureKind.NOT_LOADED, FailureKind.RECOVERING})


def unobserved(operation: str, seconds: float, error: MilvusStreamError | None) -> None:
    """The observer that ignores all calls."""


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
        reachability: Reachability | None = None,
    ) -> None:
        """`reachability`: calls fail with MilvusAway, and are not repeated, while it says that the server is away."""
        self._failures = failures
        self._timeout_s = timeout_s
        self._retry = retry
        self._observe = observe
        self._clock = clock
        self._closed = threading.Event()
        self._sleep: Callable[[float], object] = sleep or self._closed.wait
        self._seen_loaded: set[str] = set()
        self.lease = Lease()
        self.watch = ConnectionWatch()
        self._reachability = reachability

    @property
    def longest_s(self) -> float:
        """Upper limit in seconds of a call with the usual deadline, if the SDK keeps the deadline of an attempt."""
        return max(self._retry.total_s, self._timeout_s) + self._timeout_s

    def loaded(self, collection: str) -> None:
        """Remember that this collection was loaded: from now on "not loaded" means that the server is recovering."""
        self._seen_loaded.add(collection)

    def forget(self, collection: str) -> None:
        """Forget that the collection was loaded: it was dropped or released."""
        self._seen_loaded.discard(collection)

    def pause(self, seconds: float) -> None:
        """Wait, at most until the connection is closed."""
        self._sleep(seconds)

    def close(self) -> None:
        """Fail every further call, and those that wait for another attempt."""
        self._closed.set()
        self.watch.close()
        if self._reachability is not None:
            self._reachability.close()

    def check_reachable(self) -> None:
        """Raise MilvusAway where the server is known to be away; calls nothing."""
        if self._reachability is not None:
            self._reachability.check()

    def check_serving(self, collection: str) -> None:
        """As `Reachability.check_serving`; calls nothing."""
        if self._reachability is not None:
            self._reachability.check_serving(collection)

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

        `attempt_s`: deadline of one attempt, for slow calls. `total_s`: deadline of all attempts together.
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
                self.check_reachable()
                try:
                    timeout = self._attempt_timeout(attempt_s, total_s, elapsed)
                    if leased:
                        timeout = self.lease.bounded(timeout)
                    with self._awaited():
                        answer = function(*arguments, timeout=timeout, retry_on_rate_limit=False, **options)
                    self._answered(call)
                    return answer
                except self._failures as error:
                    kind = self._failed(call, error)
                    self._check_open(call)
                    self.check_reachable()
                    if leased and (expired := _lease_expired(error)):
                        raise expired from error
                    wait = self._wait(call, kind, attempt, self._clock() - began, total_s) if repeat else None
                    if wait is None:
                        raise to_error(kind, call, error_text(error)) from error
                self._sleep(wait)
        except MilvusStreamError as error:
            failed = error
            raise
        finally:
            self._observe(call.operation, self._clock() - began, failed)

    def _awaited(self) -> AbstractContextManager[None]:
        return nullcontext() if self._reachability is None else self._reachability.calling()

    def _answered(self, call: Call) -> None:
        self.watch.answered()
        if self._reachability is not None:
            self._reachability.served(call)

    def _failed(self, call: Call, error: Exception) -> FailureKind:
        self.watch.failed(error)
        kind = classify(error)
        if self._reachability is not None:
            self._reachability.failed(error)
            if kind in _NOT_SERVING:
                self._reachability.refused(call, to_error(kind, call, error_text(error)))
        return kind

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
    """The LeaseExpired raised while the request was packed, which the SDK wraps into an error of its own."""
    return next((link for link in chain(error) if isinstance(link, LeaseExpired)), None)


def error_text(error: BaseException) -> str:
    """The text of the server or the SDK, on one line and shortened."""
    code = getattr(error, "code", None)
    code = code() if callable(code) else code
    details = getattr(error, "details", None)
    message = details() if callable(details) else getattr(error, "message", error)
    text = " ".join(str(message).split())
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
    return f"{shown} (code {getattr(code, 'name', code)})"
