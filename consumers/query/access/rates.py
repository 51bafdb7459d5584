"""Token buckets: how many requests a key may send, each worker counting for itself."""

import time
from collections.abc import Callable, Collection

_ROUNDING = 1e-9
"""Whoever waits as long as it was said gets a token, whatever the last bit of a sum is."""


class TokenBucket:
    """A bucket that fills with `rate` tokens a second and holds those of one second, at least one."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate = rate
        self._clock = clock
        self._most = self._tokens = max(1.0, rate)
        self._filled_at = clock()

    def take(self) -> float:
        """Take a token and return 0; where there is none, return the seconds until there is one."""
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens >= 1 - _ROUNDING:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate


class Rates:
    """The buckets of the keys by their ids; used on one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, identifier: str, rate: float) -> float:
        """As `TokenBucket.take`; a bucket whose rate has changed begins full."""
        bucket = self._buckets.get(identifier)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[identifier] = TokenBucket(rate, self._clock)
        return bucket.take()

    def keep(self, identifiers: Collection[str]) -> None:
        """Forget the buckets of all others."""
        if len(self._buckets) > len(identifiers):
            self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in identifiers}
