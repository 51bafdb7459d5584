"""The clock of the lease: it goes on while the machine is suspended, and notices that the machine was paused."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

JUMP_S = 3.0
"""More seconds than a wall clock is moved against the other one between two heartbeats while nothing is wrong."""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def suspend_clock() -> float:
    """Return seconds on a clock that goes on while the machine is suspended; on Linux time.monotonic does not."""
    return time.clock_gettime(_CLOCK)


class Beat(NamedTuple):
    """The moment at which a request that restarts the session left, on both clocks."""

    at: float
    """Of the clock that goes on."""
    wall: float


NEVER = Beat(-math.inf, 0.0)


class LeaseClock:
    """The times of heartbeats.

    A hypervisor that pauses a machine stops every clock of it but the wall clock, which is set right afterwards. So a
    wall clock that moved against the other one shows time in which another worker may have taken over.
    """

    def __init__(self, now: Callable[[], float] = suspend_clock, wall: Callable[[], float] = time.time) -> None:
        self.now = now
        self._wall = wall

    def beat(self) -> Beat:
        """Return the present moment."""
        return Beat(self.now(), self._wall())

    def certain(self, beat: Beat) -> float:
        """Return the time of a heartbeat; -inf if the wall clock has jumped since, so that it proves nothing."""
        now = self.beat()
        jump = (now.wall - beat.wall) - (now.at - beat.at)
        return beat.at if abs(jump) <= JUMP_S else -math.inf
