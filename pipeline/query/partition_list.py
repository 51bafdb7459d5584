"""A cache of the Milvus partitions that exist, and of those that are not loaded."""

import threading
from collections.abc import Callable

import structlog

from pipeline.errors import MilvusStreamError
from pipeline.query.partition_index import PartitionIndex
from pipeline.store import MilvusServerApi

log = structlog.get_logger(__name__)


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
        self._released: frozenset[str] | None = None
        self._expires_at = clock()
        self._refreshing = threading.Lock()

    def listing(self, *, fresh: bool = False) -> PartitionIndex:
        """The Milvus partitions; `fresh`: as they are now. Raises NotFound, Unavailable."""
        now = self._clock()
        last = self._listing
        if last is not None and now < last[0] and not fresh:
            return last[1]
        names = tuple(self._api.partitions(self._collection))
        # The intervals of the same names are the same.
        index = last[1] if last is not None and last[1].names == names else PartitionIndex(names)
        self._listing = now + self._names_ttl_s, index
        return index

    def released(self) -> frozenset[str]:
        """Those that were not loaded at the last listing; a search that names none of them would miss them silently.

        A listing takes a call for each partition. Only the first, and one after `forget`, is waited for; a later one is
        made on a thread of its own while searches use the last. Raises NotFound, Unavailable.
        """
        released = self._released
        if released is None:
            with self._refreshing:  # the first thread lists, those that waited for it use its listing
                return self._list_released() if (others := self._last()) is None else others
        if self._clock() >= self._expires_at and self._refreshing.acquire(blocking=False):
            threading.Thread(target=self._refresh, name="partition-states", daemon=True).start()
        return released

    def forget(self) -> None:
        """Read again at the next use: the listing was wrong."""
        self._listing = self._released = None

    def _last(self) -> frozenset[str] | None:
        return self._released

    def _refresh(self) -> None:
        try:
            self._list_released()
        except MilvusStreamError as error:
            self._expires_at = self._clock() + self._names_ttl_s
            log.warning(
                "query.partition_states_unread", why=str(error), what="the last ones are used, and it is retried"
            )
        finally:
            self._refreshing.release()

    def _list_released(self) -> frozenset[str]:
        loaded = self._api.loaded_partitions(self._collection)
        released = self._released = frozenset(self.listing().names).difference(loaded)
        self._expires_at = self._clock() + self._residency_ttl_s
        return released
