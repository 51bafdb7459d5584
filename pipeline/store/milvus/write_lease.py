"""Until when this worker certainly owns the documents it writes: no write may be under way after that."""

import math
from collections.abc import Callable

from pipeline.errors import LeaseExpired

LeftS = Callable[[], float]
"""Seconds from now for which nobody else can own them."""

SHORTEST_S = 0.5
"""A call that is given less time than this only makes trouble."""
_SENDS = 2
"""pymilvus sends a call whose connection broke a second time, with the whole deadline again."""


class Lease:
    """Bounds the calls that change rows; without `bind` it never ends, as for a process that owns all it writes."""

    def __init__(self) -> None:
        self._left_s: LeftS = lambda: math.inf

    def bind(self, left_s: LeftS) -> None:
        """From now on calls end before `left_s` is over; it is asked by the thread that makes the call."""
        self._left_s = left_s

    def bounded(self, timeout_s: float) -> float:
        """The deadline of a call about to be made, at most `timeout_s`. Raises LeaseExpired where no time is left."""
        left_s = self._left_s() / _SENDS
        if left_s < SHORTEST_S:
            raise LeaseExpired(_TOO_LATE)
        return min(timeout_s, left_s)

    def check(self, timeout_s: float) -> None:
        """Raise LeaseExpired unless a call that is sent now is over in time: packing it may have taken long."""
        if self._left_s() < timeout_s:
            raise LeaseExpired(_TOO_LATE)


_TOO_LATE = (
    "nothing was written: the last heartbeat that Kafka has answered is too long ago (or the Kafka partition was "
    "revoked), so another worker may own these records by now"
)
