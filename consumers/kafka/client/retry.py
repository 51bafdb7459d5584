"""Retries of a Kafka call until a deadline, for brokers that change a leader or coordinator."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

RETRY_S = 20.0
"""Time in which a broker that changes its leader or coordinator answers again."""
PAUSE_S = 0.2


def retry_until_deadline(
    call: Callable[[], T], retried: type[Exception] | tuple[type[Exception], ...], *, deadline_s: float = RETRY_S
) -> T:
    """Repeat the call after an error of the `retried` types; at the deadline the error is raised."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            return call()
        except retried:
            if time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE_S)
