"""Waiting for a state instead of sleeping for a time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Gate:
    """Holds whoever passes it until it is opened; for a call that a test wants under way."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        """Pass it, once it is open; AssertionError after 30 s."""
        self._entered.set()
        assert self._open.wait(30)

    def await_call(self) -> None:
        """Wait until somebody is held; AssertionError after 30 s."""
        assert self._entered.wait(30)

    def open(self) -> None:
        """Let everybody pass from now on."""
        self._open.set()


def eventually(probe: Callable[[], T | None], *, within: float = 10.0, every: float = 0.05, what: str = "") -> T:
    """Return the first truthy result of `probe`; AssertionError with the last result after `within` seconds.

    An AssertionError of the probe itself counts as "not yet" and is chained when the time is over.
    """
    deadline = time.monotonic() + within
    failure: AssertionError | None = None
    while True:
        last: T | None = None
        try:
            last = probe()
            failure = None
        except AssertionError as error:
            failure = error
        if last:
            return last
        if time.monotonic() >= deadline:
            reason = failure or f"last result {last!r}"
            raise AssertionError(f"{what or probe} did not come true within {within} s: {reason}") from failure
        time.sleep(every)
