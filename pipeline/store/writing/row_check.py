"""Check of stored rows: whether exactly the rows are there of which the ledger speaks.

A ledger row proves what its worker has written. After Milvus has lost what was not flushed (power failure), the
ledger row may be there without the rows, or rows that were deleted may be back.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from pipeline.errors import NotFound, NotLoaded
from pipeline.records import Position
from pipeline.store.milvus.api import DEFAULT_PARTITION, MilvusApi, as_of
from pipeline.store.milvus.expressions import ids_expression
from pipeline.store.writing.protocol.decisions import Entry, Key
from pipeline.store.writing.rows import row_ids

_IDS_PER_QUERY = 1000
_FIELDS = ("id", "kafka_topic", "kafka_partition", "kafka_offset")


class _Expected(NamedTuple):
    """What must be true of one id."""

    key: Key
    partition: str
    identifier: str
    position: Position | None
    """The record that wrote its row; None: there must be none."""


class RowCheck:
    """Compares the rows of documents with their ledger entries, by id in each Milvus partition. Raises Unavailable."""

    def __init__(self, api: MilvusApi, collection: str) -> None:
        self._api = api
        self._collection = collection
        # A client waits a minute before it takes a Milvus partition for one that stays out of memory: once is enough.
        self._unreadable: set[str] = set()

    def damaged(self, entries: Mapping[Key, Entry], **consistency: Any) -> set[Key]:
        """Keys whose rows are not exactly those of their entry, none of which is pending.

        1. A row of the footprint is missing, is there twice, or is of another record than the entry's.
        2. A row of a former place is there.

        A Milvus partition that was dropped or released proves nothing: retention drops partitions with their rows.
        `consistency`: options of the first queries; what they find is confirmed as of now.
        """
        suspects = self._differing(entries, consistency)
        # A read may be older than the ledger row: the two collections advance on their own.
        if not suspects:
            return set()
        return self._differing({key: entries[key] for key in suspects}, as_of(self._api.instant()))

    def forget(self) -> None:
        """Drop what is known of Milvus partitions."""
        self._unreadable = set()

    def _differing(self, entries: Mapping[Key, Entry], consistency: Mapping[str, Any]) -> set[Key]:
        damaged: set[Key] = set()
        remaining = (one for one in _expectations(entries) if one.partition not in self._unreadable)
        while page := list(islice(remaining, _IDS_PER_QUERY)):
            damaged |= self._damaged_page(page, consistency)
        return damaged

    def _damaged_page(self, page: Sequence[_Expected], consistency: Mapping[str, Any]) -> set[Key]:
        partitions = {expected.partition for expected in page}
        try:
            return self._compare(page, partitions, consistency)
        except (NotFound, NotLoaded):
            if len(partitions) > 1:
                pages = ([one for one in page if one.partition == name] for name in partitions)
                return {key for part in pages for key in self._damaged_page(part, consistency)}
            if not self._is_unreadable(*partitions):
                raise
            self._unreadable |= partitions
            return set()

    def _is_unreadable(self, partition: str) -> bool:
        """Whether the Milvus partition was dropped, or released by an operator.

        A server that has been restarted has none loaded at first; the client's call has waited for that.
        """
        if partition not in self._api.partitions(self._collection):
            return partition != DEFAULT_PARTITION
        loaded = self._api.loaded_partitions(self._collection)
        return bool(loaded) and partition not in loaded

    def _compare(
        self, page: Sequence[_Expected], partitions: Collection[str], consistency: Mapping[str, Any]
    ) -> set[Key]:
        ids = [expected.identifier for expected in page]
        rows = self._query(ids, partitions, _FIELDS, consistency)
        found = {row["id"]: Position(row["kafka_topic"], row["kafka_partition"], row["kafka_offset"]) for row in rows}
        damaged = {expected.key for expected in page if found.get(expected.identifier) != expected.position}
        if self._api.server.capabilities.stores_repeated_ids:
            repeated = set(self._repeated(ids, partitions, len(found), consistency))
            damaged.update(expected.key for expected in page if expected.identifier in repeated)
        return damaged

    def _repeated(
        self, ids: Sequence[str], partitions: Collection[str], distinct: int, consistency: Mapping[str, Any]
    ) -> Sequence[str]:
        """Ids with several rows, and possibly a few more; `distinct`: rows that a query answers."""
        if int(self._query(ids, partitions, ["count(*)"], consistency)[0]["count(*)"]) <= distinct:
            return ()
        if len(ids) == 1:
            return ids
        middle = len(ids) // 2
        repeated: list[str] = []
        for half in (ids[:middle], ids[middle:]):
            rows = self._query(half, partitions, ["id"], consistency)
            repeated += self._repeated(half, partitions, len(rows), consistency)
        return repeated or ids  # an answer left rows out for the sake of a repeated id: all of them are doubtful

    def _query(
        self, ids: Sequence[str], partitions: Collection[str], fields: Sequence[str], consistency: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        expression = ids_expression(list(ids))
        return self._api.query(self._collection, expression, fields, partitions=sorted(partitions), **consistency)


def written_at(entry: Entry) -> Position:
    """The record that wrote the rows of the entry; the entry's own may be a newer one of the same content."""
    return entry.written_at or entry.position


def _expectations(entries: Mapping[Key, Entry]) -> Iterator[_Expected]:
    """Every row that must or must not be there, Milvus partition by Milvus partition."""
    of_partition: dict[str, list[_Expected]] = {}
    for key, entry in entries.items():
        for partition in entry.footprint.keys() | entry.former.keys():
            chunks = entry.footprint.get(partition, 0)
            total = max(chunks, entry.former.get(partition, 0))
            position = written_at(entry)
            of_partition.setdefault(partition, []).extend(
                _Expected(key, partition, identifier, position if chunk < chunks else None)
                for chunk, identifier in enumerate(row_ids(*key, partition, range(total)))
            )
    return chain.from_iterable(of_partition.values())
