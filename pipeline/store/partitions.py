"""The Milvus partitions of one collection: a cache of those that exist, and the creation of missing ones."""

from collections.abc import Callable, Collection, Mapping

import structlog

from pipeline.errors import RecordRejected, Unavailable, UsageError
from pipeline.store.milvus.api import DEFAULT_PARTITION, MilvusApi

log = structlog.get_logger(__name__)

MANY_PARTITIONS = 128
"""Beyond this, searches over all partitions slow down: 256 took 68 ms where 64 took 13 ms (12,800 rows, 2.3.5)."""
_MOST_RESERVED = 100


def reserved_partitions(max_partitions: int) -> int:
    """How many of the allowed Milvus partitions only event times near their record may take: a tenth, at most 100."""
    return min(_MOST_RESERVED, max(1, max_partitions // 10)) if max_partitions > 1 else 0


class MilvusPartitions:
    """A cache of the Milvus partitions of one collection; creates missing ones.

    Owned by the write stage. Two threads may create the same partition without harm; a name missing from the cache is
    looked up again.
    """

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        max_partitions: int = 1000,
        *,
        on_count: Callable[[int], None] | None = None,
    ) -> None:
        if max_partitions < 1:
            raise UsageError(f"partitioning.max_partitions is {max_partitions}: write at least 1")
        self._api = api
        self._collection = collection
        self._max = max_partitions
        self._on_count = on_count
        self._known: frozenset[str] | None = None
        self._warned = False

    @property
    def known(self) -> frozenset[str]:
        """Names in the cache, without `_default`."""
        return self._known or frozenset()

    def ensure(self, names: Mapping[str, bool]) -> frozenset[str]:
        """Create missing ones; returns the names refused because no further Milvus partition is left for them.

        The value says whether a record of the present needs the partition. The last tenth of `max_partitions`, the
        reserve, is for these, so that wrong dates do not take the place of today. They are never refused: raises
        Unavailable until there is room, and otherwise what `create_partition` raises.
        """
        missing = {name: near for name, near in names.items() if name != DEFAULT_PARTITION and name not in self.known}
        if not missing:
            return frozenset()
        # Other workers create partitions, and retention drops them: read the list before deciding.
        known = set(self._api.partitions(self._collection))
        refused = set()
        for name in sorted(missing.keys() - known, key=lambda name: (not missing[name], name)):
            limit = self._max if missing[name] else self._max - reserved_partitions(self._max)
            if len(known) < limit and self._create(name):
                known.add(name)
            elif missing[name]:
                self._remember(known)
                raise Unavailable(self._full(len(known), name))
            else:
                refused.add(name)
        self._remember(known)
        if refused:
            self._log_refused(refused)
        return frozenset(refused)

    def _create(self, name: str) -> bool:
        try:
            self._api.create_partition(self._collection, name)
        except RecordRejected:
            return False
        return True

    def forget(self) -> None:
        """Drop the cache: somebody else dropped a partition, so read the list again before the next write."""
        self._known = None

    def _full(self, count: int, name: str) -> str:
        limit = "partitioning.max_partitions" if count >= self._max else "the server"
        return (
            f"Milvus partition {name}, of records of the present, cannot be created: {self._collection} has {count}, "
            f"and {limit} allows no more. Nothing is lost, ingest waits: raise the limit, choose a coarser "
            "partitioning.by or tiers for a new collection, or drop old Milvus partitions"
        )

    def _log_refused(self, refused: Collection[str]) -> None:
        log.warning(
            "milvus.partitions_refused",
            collection=self._collection,
            refused=len(refused),
            first=min(refused),
            max_partitions=self._max,
            reserved=reserved_partitions(self._max),
        )

    def _remember(self, known: set[str]) -> None:
        self._known = frozenset(known)
        if self._on_count is not None:
            self._on_count(len(known))
        if len(known) > MANY_PARTITIONS and not self._warned:
            self._warned = True
            log.warning(
                "milvus.many_partitions",
                collection=self._collection,
                partitions=len(known),
                what="searches over all of them get slow; consider a coarser partitioning.by or a retention",
            )
