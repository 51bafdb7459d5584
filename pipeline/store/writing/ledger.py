"""The ledger: one row a document, with its stored version and the places where rows of it may be."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import orjson

from pipeline.records import VECTOR_FIELD, Position
from pipeline.store.collection.schema import LEDGER_DIMENSION, ledger_name
from pipeline.store.milvus.api import MilvusApi, Row
from pipeline.store.milvus.expressions import ids_expression
from pipeline.store.writing.protocol import Entry, Key
from pipeline.store.writing.rows import ledger_id
from pipeline.store.writing.upsert_requests import RowGroup, Sent, WritePolicy, upsert_groups

ENTRY_FIELDS = (
    "id",
    "doc_id",
    "tenant",
    "topic",
    "kafka_partition",
    "kafka_offset",
    "record_time",
    "version",
    "versioned",
    "state",
    "footprint",
    "content_hash",
    "row_hash",
    "fingerprint",
    "topic_id",
    "pending",
)
KEYS_PER_QUERY = 1000
STALENESS_S = 20.0
"""Any read sees every write older than this. Milvus promises 5 s (`common.gracefulTime`: the server answers only after
that time); four times that leaves room for another setting."""

_VECTOR = np.ones(LEDGER_DIMENSION, dtype=np.float32)
_ROW_BYTES = 1024
_NO_RANK = (-1, -1, "")


def entry_row(entry: Entry) -> Row:
    """An entry as a row of the ledger.

    What came later has no column of its own, so that ledgers of older versions need no migration:

    1. A delete has the time when it was written in `content_hash`, 16 digits, so that it can be compared as text.
    2. The reset and the floor of a rank follow the hash in `row_hash`, where there are any. A worker of an older version
       finds another hash and writes the document again.
    """
    written = f"{entry.written_ms:016d}" if entry.state == "deleted" and entry.written_ms else ""
    rank = entry.reset_offset, entry.reset_ms, "" if entry.floor is None else entry.floor
    return {
        "id": ledger_id(entry.tenant, entry.doc_id),
        "doc_id": entry.doc_id,
        "tenant": entry.tenant or "",
        "topic": entry.position.topic,
        "kafka_partition": entry.position.partition,
        "kafka_offset": entry.position.offset,
        "record_time": entry.record_time,
        "version": entry.version,
        "versioned": entry.versioned,
        "state": entry.state,
        "footprint": orjson.dumps(entry.footprint).decode(),
        "content_hash": written or entry.content_hash,
        "row_hash": entry.row_hash + ("" if rank == _NO_RANK else ";{},{},{}".format(*rank)),
        "fingerprint": entry.fingerprint,
        "topic_id": entry.topic_id,
        "pending": entry.pending,
        VECTOR_FIELD: _VECTOR,
    }


def row_entry(row: Mapping[str, Any]) -> Entry:
    """The entry in a ledger row that was read with `ENTRY_FIELDS`."""
    doc_id = row["doc_id"]
    # No tenant is stored as ""; the id distinguishes it from a tenant of that name.
    no_tenant = None if row["id"] == ledger_id(None, doc_id) else ""
    hashed, _, rank = row["row_hash"].partition(";")
    reset_offset, reset_ms, floor = rank.split(",") if rank else _NO_RANK
    written = row["content_hash"] if row["state"] == "deleted" and row["content_hash"].isdigit() else ""
    return Entry(
        doc_id=doc_id,
        tenant=row["tenant"] or no_tenant,
        position=Position(row["topic"], row["kafka_partition"], row["kafka_offset"]),
        record_time=row["record_time"],
        version=row["version"],
        versioned=row["versioned"],
        state=row["state"],
        footprint=orjson.loads(row["footprint"]),
        content_hash="" if written else row["content_hash"],
        row_hash=hashed,
        fingerprint=row["fingerprint"],
        topic_id=row["topic_id"],
        pending=row["pending"],
        reset_offset=int(reset_offset),
        reset_ms=int(reset_ms),
        floor=int(floor) if floor else None,
        written_ms=int(written or 0),
    )


@dataclass(slots=True)
class _CachedEntry:
    """One key in the cache."""

    entry: Entry | None
    before: Entry | None
    """The last entry that was not pending: the one to restore if the change that was begun is refused."""
    settled: bool
    """Whether `before` is known: it is not for a document that was pending when it was read."""
    since: float
    in_flight: int = 0
    """Plans with this key that are not applied yet."""


class Ledger:
    """Reads and writes of ledger entries, with a cache of this worker's own writes while a read may miss them.

    One thread plans (`read`, `cache`, `forget`), one writes (`entry`, `write`, `remove`, `release`). A key in flight
    is answered from the cache, with what the writing thread has stored last. Only the worker that owns a document's
    Kafka partition may write its entry: all records of a document must be in one Kafka partition.
    """

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        policy: WritePolicy,
        *,
        staleness_s: float = STALENESS_S,
        max_cached: int = 200_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._name = ledger_name(collection)
        self._policy = policy
        self._staleness_s = staleness_s
        self._max_cached = max_cached
        self._clock = clock
        self._cached: dict[Key, _CachedEntry] = {}
        self._lock = threading.Lock()
        self._distrusted_until = clock() + staleness_s
        self._distrusts = 0
        self._since: int | None = None

    # --- the planning thread -----------------------------------------------------------------------------------

    def read(self, keys: Iterable[Key]) -> dict[Key, tuple[Entry | None, bool]]:
        """Each key's entry, and whether the key is in flight: then the entry may change before the plan is applied."""
        entries: dict[Key, tuple[Entry | None, bool]] = {}
        with self._lock:
            now = self._clock()
            self._evict(now)
            missing = []
            for key in keys:
                cached = self._cached.get(key)
                if cached is None:
                    missing.append(key)
                else:
                    entries[key] = cached.entry, cached.in_flight > 0
            distrusted = now < self._distrusted_until
        remaining = iter(missing)
        while page := list(islice(remaining, KEYS_PER_QUERY)):
            stored = self._query(page, **(self._consistency() if distrusted else {}))
            entries.update({key: (stored.get(key), False) for key in page})
        return entries

    def cache(self, entries: Mapping[Key, Entry | None]) -> None:
        """Put keys in flight, with the entries that `read` answered; they stay in the cache until `release`."""
        with self._lock:
            now = self._clock()
            for key, entry in entries.items():
                cached = self._cached.get(key)
                if cached is None:
                    settled = entry is None or not entry.pending
                    cached = self._cached[key] = _CachedEntry(entry, entry if settled else None, settled, now)
                cached.in_flight += 1

    def forget(self) -> None:
        """Drop all keys that are not in flight, because another worker may have written; see `invalidate`."""
        with self._lock:
            self._cached = {key: cached for key, cached in self._cached.items() if cached.in_flight}
        self.invalidate()

    # --- the writing thread ------------------------------------------------------------------------------------

    def entry(self, key: Key) -> Entry | None:
        """The stored entry of a key in flight."""
        return self._cached[key].entry

    def before(self, key: Key) -> tuple[Entry | None, bool]:
        """The entry of a key in flight before the pending change, and whether it is known."""
        cached = self._cached[key]
        return cached.before, cached.settled

    def write(self, entries: Sequence[Entry]) -> dict[Key, tuple[str, str]]:
        """Store entries of keys in flight; returns the keys whose row Milvus refused, with reason and message."""
        sent: Sent[Key] = Sent()
        groups = [RowGroup((entry.tenant, entry.doc_id), (entry_row(entry),), (_ROW_BYTES,)) for entry in entries]
        upsert_groups(self._api, self._name, None, groups, self._policy, sent=sent, touched=set())
        with self._lock:
            for entry in entries:
                key = entry.tenant, entry.doc_id
                if key not in sent.refused:
                    cached = self._cached[key]
                    cached.entry = entry
                    if not entry.pending:
                        cached.before, cached.settled = entry, True
        return sent.refused

    def remove(self, keys: Sequence[Key]) -> None:
        """Delete the ledger rows of keys in flight, of documents that were never stored."""
        ids = iter([ledger_id(*key) for key in keys])
        while page := list(islice(ids, KEYS_PER_QUERY)):
            self._api.delete(self._name, None, page)
        with self._lock:
            for key in keys:
                cached = self._cached[key]
                cached.entry, cached.before, cached.settled = None, None, True

    def release(self, keys: Iterable[Key]) -> None:
        """Record that a plan with these keys is applied; they stay in the cache while a read may miss its writes."""
        with self._lock:
            now = self._clock()
            for key in keys:
                cached = self._cached.pop(key)
                cached.in_flight -= 1
                cached.since = now
                self._cached[key] = cached

    # --- both --------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """Make reads see everything written before now, until they do so by themselves (`staleness_s`)."""
        with self._lock:
            self._distrust_until(self._clock() + self._staleness_s)

    def _distrust_until(self, when: float) -> None:
        self._distrusted_until = max(self._distrusted_until, when)
        self._distrusts += 1
        self._since = None

    def _consistency(self) -> dict[str, Any]:
        """The options of a read that must see everything written before the last `invalidate`.

        All such reads use one instant, so only the first waits until the server has passed it. A strong read waits
        every time, because it is as of its own moment (some 300 ms on 2.3.5).
        """
        with self._lock:
            distrusts, since = self._distrusts, self._since
        if since is None:
            since = self._api.instant()
            with self._lock:
                if distrusts == self._distrusts:
                    self._since = since
        return {"strong": True} if since is None else {"since": since}

    def _query(self, keys: Sequence[Key], **consistency: Any) -> dict[Key, Entry]:
        by_id = {ledger_id(*key): key for key in keys}
        rows = self._api.query(self._name, ids_expression(list(by_id)), ENTRY_FIELDS, **consistency)
        return {by_id[row["id"]]: row_entry(row) for row in rows}

    def _evict(self, now: float) -> None:
        """Drop expired keys and, over the limit, the oldest; until those would expire, reads must see their writes."""
        surplus = len(self._cached) - self._max_cached
        evicted: list[Key] = []
        for key, cached in self._cached.items():
            if cached.in_flight:
                continue
            expires = cached.since + self._staleness_s
            if expires > now:
                if len(evicted) >= surplus:
                    break
                self._distrust_until(expires)
            evicted.append(key)
        for key in evicted:
            del self._cached[key]
