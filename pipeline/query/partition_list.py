"""Which Milvus partitions there are, and which of them are not loaded, asked now and then."""

import threading
from collections.abc import Callable

from pipeline.store import MilvusServerApi


class PartitionList:
    """What the server said a moment ago. Used by many threads; none waits for another one's question."""

    def __init__(
        self,
        api: MilvusServerApi,
        collection: str,
        names_ttl_s: float,
        residency_ttl_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._collection = collection
        self._names_ttl_s = names_ttl_s
        self._residency_ttl_s = residency_ttl_s
        self._clock = clock
        self._names: tuple[float, tuple[str, ...]] | None = None
        self._released: frozenset[str] = frozenset()
        self._ask_again_at = clock()
        self._asking = threading.Lock()

    def names(self) -> tuple[str, ...]:
        """Names of the Milvus partitions, sorted. Raises NotFound, Unavailable."""
        now = self._clock()
        known = self._names
        if known is None or known[0] <= now:
            known = self._names = (now + self._names_ttl_s, tuple(sorted(self._api.partitions(self._collection))))
        return known[1]

    def released(self) -> frozenset[str]:
        """Those that were not loaded when last asked; a search that names none of them would miss them silently.

        One thread asks, which takes a call for each Milvus partition; the others go on with the last answer.
        """
        if self._clock() >= self._ask_again_at and self._asking.acquire(blocking=False):
            try:
                loaded = self._api.loaded_partitions(self._collection)
                self._released = frozenset(self.names()).difference(loaded)
                self._ask_again_at = self._clock() + self._residency_ttl_s
            finally:
                self._asking.release()
        return self._released

    def forget(self) -> None:
        """Ask again at the next use: something said before is not true any more."""
        self._names = None
        self._ask_again_at = self._clock()
