"""Check of stored rows: whether exactly the rows are there of which the ledger speaks.

A ledger row proves what its worker has written. After Milvus has lost what was not flushed (power failure), the
ledger row may be there without the rows, or rows that were deleted may be back.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

from pipeline.errors import NotFound
from pipeline.records import Position
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.milvus.expressions import ids_expression
from pipeline.store.writing.protocol import Entry, Key
from pipeline.store.writing.rows import row_ids

_IDS_PER_QUERY = 1000
_FIELDS = ("id", "kafka_topic", "kafka_partition", "kafka_offset")


class RowCheck:
    """Compares the rows of documents with their ledger entries, by id in each Milvus partition. Raises Unavailable."""

    def __init__(self, api: MilvusApi, collection: str) -> None:
        self._api = api
        self._collection = collection

    def damaged(self, entries: Mapping[Key, Entry], **consistency: Any) -> set[Key]:
        """Keys whose rows are not exactly those of their entry, none of which is pending.

        1. A row of the footprint is missing, is there twice, or is of another record than the entry's.
        2. A row of a former place is there.

        A Milvus partition that does not exist proves nothing: retention drops partitions with their rows.
        `consistency`: options of the first queries; what they find is confirmed by strong ones.
        """
        suspects = self._differing(entries, consistency)
        # A read may be older than the ledger row: the two collections advance on their own.
        return self._differing({key: entries[key] for key in suspects}, {"strong": True}) if suspects else set()

    def _differing(self, entries: Mapping[Key, Entry], consistency: Mapping[str, Any]) -> set[Key]:
        damaged: set[Key] = set()
        for partition, owners in _ids_by_partition(entries).items():
            ids = iter(owners)
            while page := list(islice(ids, _IDS_PER_QUERY)):
                try:
                    damaged |= self._damaged_page(partition, page, owners, entries, consistency)
                except NotFound:
                    break
        return damaged

    def _damaged_page(
        self,
        partition: str,
        ids: Sequence[str],
        owners: Mapping[str, tuple[Key, bool]],
        entries: Mapping[Key, Entry],
        consistency: Mapping[str, Any],
    ) -> set[Key]:
        rows = self._query(partition, ids, _FIELDS, consistency)
        positions = {
            row["id"]: Position(row["kafka_topic"], row["kafka_partition"], row["kafka_offset"]) for row in rows
        }
        damaged: set[Key] = set()
        for identifier in ids:
            key, expected = owners[identifier]
            position = positions.get(identifier)
            if position != (written_at(entries[key]) if expected else None):
                damaged.add(key)
        if self._api.server.capabilities.stores_repeated_ids:
            repeated = self._repeated(partition, ids, len(positions), consistency)
            damaged.update(owners[identifier][0] for identifier in repeated)
        return damaged

    def _repeated(
        self, partition: str, ids: Sequence[str], distinct: int, consistency: Mapping[str, Any]
    ) -> Collection[str]:
        """Ids with several rows in the Milvus partition, or a few more; `distinct`: rows that a query answers."""
        if int(self._query(partition, ids, ["count(*)"], consistency)[0]["count(*)"]) <= distinct:
            return ()
        if len(ids) == 1:
            return ids
        middle = len(ids) // 2
        repeated: list[str] = []
        for half in (ids[:middle], ids[middle:]):
            rows = self._query(partition, half, ["id"], consistency)
            repeated += self._repeated(partition, half, len(rows), consistency)
        return repeated or ids  # an answer left rows out for the sake of a repeated id: all of them are doubtful

    def _query(
        self, partition: str, ids: Sequence[str], fields: Sequence[str], consistency: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        return self._api.query(
            self._collection, ids_expression(list(ids)), fields, partitions=[partition], **consistency
        )


def written_at(entry: Entry) -> Position:
    """The record that wrote the rows of the entry; the entry's own may be a newer one of the same content."""
    return entry.written_at or entry.position


def _ids_by_partition(entries: Mapping[Key, Entry]) -> dict[str, dict[str, tuple[Key, bool]]]:
    """Milvus partition -> id -> its document, and whether the row must be there (else it must not)."""
    owners: dict[str, dict[str, tuple[Key, bool]]] = {}
    for key, entry in entries.items():
        for partition, chunks in entry.footprint.items():
            ids = row_ids(*key, partition, range(chunks))
            owners.setdefault(partition, {}).update(dict.fromkeys(ids, (key, True)))
        for partition, chunks in entry.former.items():
            ids = row_ids(*key, partition, range(entry.footprint.get(partition, 0), chunks))
            owners.setdefault(partition, {}).update(dict.fromkeys(ids, (key, False)))
    return owners
