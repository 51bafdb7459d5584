"""Waiting for a state instead of sleeping for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


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
