"""Exponential backoff with jitter: the one formula for waiting before a failed call is repeated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first_s` up to `cap_s` (seconds).

    Half of each wait is fixed and half is random ("equal jitter"), so that workers that failed together do not all
    come back together. Pure: the caller brings the random number.
    """

    first_s: float
    cap_s: float

    def delay_s(self, failures: int, jitter: float) -> float:
        """Seconds to wait after the given number of failures in a row, counted from 1; `jitter` in [0, 1)."""
        longest = min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return longest * (0.5 + jitter / 2)
