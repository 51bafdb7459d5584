"""A cache of the Milvus partitions that exist, and of those that are not loaded."""

import threading
from collections.abc import Callable

from pipeline.query.partition_index import PartitionIndex
from pipeline.store import MilvusServerApi


class PartitionList:
    """Listings of the last seconds, shared by many threads; none waits for a call that another one makes."""

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
        self._listing: tuple[float, PartitionIndex] | None = None
        self._released: frozenset[str] = frozenset()
        self._expires_at = clock()
        self._refreshing = threading.Lock()

    def listing(self) -> PartitionIndex:
        """The Milvus partitions. Raises NotFound, Unavailable."""
        now = self._clock()
        last = self._listing
        if last is not None and now < last[0]:
            return last[1]
        names = self._api.partitions(self._collection)
        known = last is not None and last[1].names == tuple(names)  # then their intervals are, too
        index = last[1] if known and last is not None else PartitionIndex(names)
        self._listing = now + self._names_ttl_s, index
        return index

    def released(self) -> frozenset[str]:
        """Those that were not loaded at the last listing; a search that names none of them would miss them silently.

        One thread refreshes the listing, which takes a call for each partition; the others use the last one.
        """
        if self._clock() >= self._expires_at and self._refreshing.acquire(blocking=False):
            try:
                loaded = self._api.loaded_partitions(self._collection)
                self._released = frozenset(self.listing().names).difference(loaded)
                self._expires_at = self._clock() + self._residency_ttl_s
            finally:
                self._refreshing.release()
        return self._released

    def forget(self) -> None:
        """Read again at the next use: the listing was wrong."""
        self._listing = None
        self._expires_at = self._clock()
