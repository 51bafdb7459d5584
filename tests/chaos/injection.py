"""Faults inside a worker's process, switched by files: its calls to Milvus, and its wall clock.

A proxy on the wire cannot tell one gRPC call from another. These faults sit where the client gives a call to the
connection, so that everything above, the client's own retries included, is what runs in production.
"""

import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

HOLD_FLUSHES, REFUSE_FLUSHES, LIMIT_WRITES = "hold-flushes", "refuse-flushes", "limit-writes"
_FLUSHES = frozenset({"Flush", "GetFlushState"})
_WRITES = frozenset({"Upsert", "Insert", "Delete"})
_PRODUCT = ("pipeline.", "consumers.")
_AGAIN_S = 0.05
_EXPIRED = -1.0
"""A deadline that is over when the call begins: gRPC fails it and sends nothing."""
_RATE_LIMIT = "request is rejected by grpc RateLimiter middleware, please retry later: rate limit exceeded[rate=0]"


class Switches:
    """The files of a run by which its faults are switched on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def turn(self, name: str, *, on: bool) -> None:
        """Switch a fault of every worker on or off."""
        if on:
            (self.folder / name).touch()
        else:
            (self.folder / name).unlink(missing_ok=True)

    def on(self, name: str) -> bool:
        """Whether a fault is on."""
        return (self.folder / name).exists()

    def shift_clock(self, worker: str, seconds: float) -> None:
        """Let the wall clock of a worker be wrong by so much from now on."""
        fresh = self.folder / f"clock-{worker}.new"
        fresh.write_text(str(seconds))
        fresh.rename(self.folder / f"clock-{worker}")

    def clock_shift(self, worker: str) -> float:
        """Seconds by which the wall clock of a worker is wrong."""
        try:
            return float((self.folder / f"clock-{worker}").read_text())
        except FileNotFoundError:
            return 0.0


class FaultyCalls(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Holds, refuses or limits calls to Milvus while a switch is on."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._limited = 0
        self._lock = threading.Lock()

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """Send the call, or not."""
        method = details.method.rpartition("/")[2]
        if method in _FLUSHES:
            return self._flush(continuation, details, request)
        if method in _WRITES and self._switches.on(LIMIT_WRITES) and self._is_limited():
            return _limited(method)
        return continuation(details, request)

    def _flush(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        if self._switches.on(REFUSE_FLUSHES) and details.method.endswith("/Flush"):
            return _limited("Flush")
        began, timeout_s = time.monotonic(), details.timeout or math.inf
        held = self._hold(began + timeout_s)
        left_s = timeout_s - (time.monotonic() - began)
        call = continuation(_with_timeout(details, left_s if left_s > 0 else _EXPIRED), request)
        if not held and not self._switches.on(HOLD_FLUSHES):
            call.exception()  # waits for the answer, which may be held, too
        if self._hold(began + timeout_s):
            # Of a call that was held the outcome stays unknown: its answer came over a connection of the past.
            return continuation(_with_timeout(details, _EXPIRED), request)
        return call

    def _hold(self, deadline: float) -> bool:
        """Wait while flushes are held, at most until the deadline; whether they were."""
        held = False
        while self._switches.on(HOLD_FLUSHES) and time.monotonic() < deadline:
            held = True
            time.sleep(_AGAIN_S)
        return held

    def _is_limited(self) -> bool:
        """Two of three writes are."""
        with self._lock:
            self._limited += 1
            return self._limited % 3 != 0


def _with_timeout(details: Any, timeout_s: float) -> Any:
    return details if math.isinf(timeout_s) else details._replace(timeout=timeout_s)


class _Answer(grpc.Future):  # type: ignore[misc]
    """An answer that no server has sent."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def result(self, timeout: float | None = None) -> Any:
        return self._message

    def exception(self, timeout: float | None = None) -> None:
        return None

    def traceback(self, timeout: float | None = None) -> None:
        return None

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def code(self) -> Any:
        return grpc.StatusCode.OK

    def details(self) -> str:
        return ""

    def initial_metadata(self) -> tuple[Any, ...]:
        return ()

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()


def _limited(method: str) -> _Answer:
    """The answer of a server that limits the rate, as of Milvus 2.3.5."""
    from pymilvus.grpc_gen import common_pb2, milvus_pb2

    status = common_pb2.Status(error_code=common_pb2.RateLimit, code=8, reason=_RATE_LIMIT)
    kind = milvus_pb2.FlushResponse if method == "Flush" else milvus_pb2.MutationResult
    return _Answer(kind(status=status))


def inject_into_calls(switches: Switches) -> None:
    """Let every connection that is opened from now on meet the faults."""
    for name in ("insecure_channel", "secure_channel"):
        setattr(grpc, name, _opening(getattr(grpc, name), FaultyCalls(switches)))


def _opening(open_channel: Callable[..., Any], faulty: FaultyCalls) -> Callable[..., Any]:
    def opened(*arguments: Any, **options: Any) -> Any:
        return grpc.intercept_channel(open_channel(*arguments, **options), faulty)

    return opened


def inject_into_clock(switches: Switches, worker: str) -> None:
    """Let the wall clock that the product reads be wrong by what the switch says. Before it is imported.

    gRPC gets the right one: it gives its core deadlines by this clock, and the core has another source of it.
    """
    real_time, real_time_ns, real_clock = time.time, time.time_ns, time.clock_gettime
    read_at, shift_s = -math.inf, 0.0

    def shift() -> float:
        nonlocal read_at, shift_s
        if not str(sys._getframe(2).f_globals.get("__name__")).startswith(_PRODUCT):
            return 0.0
        if time.monotonic() - read_at > 0.1:
            read_at, shift_s = time.monotonic(), switches.clock_shift(worker)
        return shift_s

    time.time = lambda: real_time() + shift()
    time.time_ns = lambda: real_time_ns() + round(shift() * 1e9)
    time.clock_gettime = lambda clock: real_clock(clock) + (shift() if clock == time.CLOCK_REALTIME else 0)
