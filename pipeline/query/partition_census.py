"""The rows of each Milvus partition and whether it is loaded, counted within a time budget."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import NotFound, NotLoaded
from pipeline.store import DEFAULT_PARTITION, MilvusServerApi, in_order, interval


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One Milvus partition as it was at a reading."""

    name: str
    from_ms: int | None
    """Its interval [from_ms, to_ms) in epoch milliseconds; None: it may hold any time."""
    to_ms: int | None
    rows: int | None
    """None: not loaded, or not counted yet."""
    loaded: bool
    """Whether searches cover it."""


class PartitionCensus:
    """Reads the Milvus partitions of a collection; for one thread.

    A count is a strong read, which waits some 0.2 s on a server. A reading counts for at most `budget_s`: first the
    partitions that were never counted, the latest first, then those whose count is the oldest. The others keep theirs.
    """

    def __init__(
        self,
        api: MilvusServerApi,
        collection: str,
        *,
        budget_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._collection = collection
        self._budget_s = budget_s
        self._clock = clock
        self._counts: dict[str, tuple[int, int]] = {}
        """By name: the number of the reading, and the rows."""
        self._readings = 0

    def read(self) -> tuple[PartitionState, ...]:
        """The partitions, the earliest first; `_default` last, only where it holds rows or is the only one.

        Raises NotFound, Unavailable; what was counted before is kept for the next reading.
        """
        deadline = self._clock() + self._budget_s
        self._readings += 1
        names = [*in_order(self._api.partitions(self._collection)), DEFAULT_PARTITION]
        loaded = {DEFAULT_PARTITION, *self._api.loaded_partitions(self._collection)}.intersection(names)
        self._counts = {name: count for name, count in self._counts.items() if name in loaded}
        latest_first = names[::-1]
        for name in sorted(latest_first, key=lambda name: self._counts.get(name, (0, 0))[0]):
            if self._clock() >= deadline:
                break
            if name in loaded and not self._count(name):
                loaded.discard(name)
        states = [self._state(name, name in loaded) for name in names]
        return tuple(states if states[-1].rows or len(states) == 1 else states[:-1])

    def _count(self, name: str) -> bool:
        """Count one partition; False: it has been released or dropped since the listing."""
        try:
            self._counts[name] = self._readings, self._api.count(self._collection, partitions=[name])
        except (NotLoaded, NotFound):
            self._counts.pop(name, None)
            return False
        return True

    def _state(self, name: str, loaded: bool) -> PartitionState:
        from_ms, to_ms = interval(name) or (None, None)
        count = self._counts.get(name)
        return PartitionState(name, from_ms, to_ms, count[1] if count is not None and loaded else None, loaded)
