"""What is in Milvus, for `status`, `doctor` and `collections`: our collections, their rows by Milvus partition."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from consumers.cli.output import utc
from pipeline.errors import NotLoaded
from pipeline.store import (
    DEFAULT_PARTITION,
    CollectionInfo,
    MilvusServerApi,
    in_order,
    interval,
    ledger_name,
    read_ledger_of,
    read_stamp,
)

_COUNTS_AT_A_TIME = 8
"""A strong count waits 0.2 s for the server's time tick; waiting together costs nothing."""


@dataclass(frozen=True, slots=True)
class PartitionRows:
    """One Milvus partition."""

    name: str
    rows: int | None
    """None: it is not loaded, so it cannot be counted and searches do not see it."""

    def as_dict(self) -> dict[str, Any]:
        """`name`, `from`, `to` (RFC 3339; null: any time), `rows`, `loaded`."""
        held = interval(self.name)
        begin, end = (utc(moment) for moment in held) if held else (None, None)
        return {"name": self.name, "from": begin, "to": end, "rows": self.rows, "loaded": self.rows is not None}


@dataclass(frozen=True, slots=True)
class OwnCollection:
    """A collection made by milvus-stream, its ledger folded in. At least one of the two is there."""

    name: str
    info: CollectionInfo | None
    """None: only a ledger is left of it."""
    ledger: str | None

    @property
    def model(self) -> Mapping[str, Any] | None:
        """The stamp of the model its vectors are of."""
        return None if self.info is None else read_stamp(self.info)


def own_collections(api: MilvusServerApi) -> list[OwnCollection]:
    """The collections with our stamp, by name, also those of which only the ledger is left."""
    stamped: dict[str, CollectionInfo] = {}
    ledgers: dict[str, str] = {}
    for name in api.collections():
        info = api.describe(name)
        if info is None:
            continue
        owner = read_ledger_of(info)
        if owner is not None:
            ledgers[owner] = name
        elif read_stamp(info) is not None:
            stamped[name] = info
    return [OwnCollection(name, stamped.get(name), ledgers.get(name)) for name in sorted({*stamped, *ledgers})]


def partition_rows(api: MilvusServerApi, collection: str) -> list[PartitionRows]:
    """Rows of each Milvus partition, the earliest first; `_default` only where it holds any or is the only one."""
    names = in_order(api.partitions(collection))
    loaded = set(api.loaded_partitions(collection))

    def count(name: str) -> PartitionRows:
        try:
            return PartitionRows(name, api.count(collection, partitions=[name]))
        except NotLoaded:
            return PartitionRows(name, None)

    # First, because after a successful read "not loaded" is taken for a server that recovers, and waited for.
    default = count(DEFAULT_PARTITION)
    with ThreadPoolExecutor(_COUNTS_AT_A_TIME) as pool:
        found = list(pool.map(lambda name: count(name) if name in loaded else PartitionRows(name, None), names))
    return [*found, default] if default.rows or not found else found


def live_documents(api: MilvusServerApi, collection: str) -> int | None:
    """Documents by the ledger, deleted ones not counted; None where there is no ledger or it is not loaded."""
    ledger = ledger_name(collection)
    if api.describe(ledger) is None:
        return None
    try:
        return int(api.query(ledger, 'state == "live"', ["count(*)"], strong=True)[0]["count(*)"])
    except NotLoaded:
        return None
