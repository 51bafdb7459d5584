"""The lease on writes: no write may be in flight when another worker could own the documents."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import LeaseExpired

LeftS = Callable[[], float]
"""Seconds from now during which no other worker can own the documents."""

SHORTEST_S = 0.5
"""A call with less time than this would only fail."""
_SENDS = 2
"""pymilvus sends a call whose connection broke a second time, with the whole deadline again."""


class Lease:
    """A limit for calls that change rows; without `bind` it never expires, as in a process that owns all it writes."""

    def __init__(self) -> None:
        self._left_s: LeftS = lambda: math.inf
        self._waived = threading.local()

    def bind(self, left_s: LeftS) -> None:
        """Make calls end within `left_s()`, which is called in the thread that makes the call."""
        self._left_s = left_s

    @contextmanager
    def waived(self) -> Iterator[None]:
        """Let this thread's calls pass inside the block: they change no document."""
        self._waived.now = True
        try:
            yield
        finally:
            self._waived.now = False

    def _left(self) -> float:
        return math.inf if getattr(self._waived, "now", False) else self._left_s()

    def bounded(self, timeout_s: float) -> float:
        """The deadline of the next call in seconds, at most `timeout_s`. Raises LeaseExpired where no time is left."""
        left_s = self._left() / _SENDS
        if left_s < SHORTEST_S:
            raise LeaseExpired(_TOO_LATE)
        return min(timeout_s, left_s)

    def check(self, timeout_s: float) -> None:
        """Raise LeaseExpired unless a call sent now ends in time: packing the request may have taken long."""
        if self._left() < timeout_s:
            raise LeaseExpired(_TOO_LATE)


_TOO_LATE = (
    "nothing was written: the last heartbeat that Kafka has answered is too long ago (or the Kafka partition was "
    "revoked), so another worker may own these records by now"
)
