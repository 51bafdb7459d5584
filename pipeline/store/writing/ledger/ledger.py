"""The ledger: one row a document, with its stored version and the places where rows of it may be."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.errors import UnlistedAnswer
from pipeline.records import KafkaPartition
from pipeline.store.collection.schema import ledger_name
from pipeline.store.milvus.api import MilvusApi, as_of
from pipeline.store.writing.ledger.entry_reads import KEYS_PER_QUERY, read_entries
from pipeline.store.writing.ledger.ledger_rows import entry_row
from pipeline.store.writing.protocol.decisions import NOWHERE, Entry, Key
from pipeline.store.writing.requests.upsert_requests import RowGroup, Sent, UpsertRequests, WritePolicy
from pipeline.store.writing.rows import ledger_id

STALENESS_S = 20.0
"""Any read sees every write older than this. Milvus promises 5 s (`common.gracefulTime`: the server answers only after
that time); four times that leaves room for another setting."""

_ROW_BYTES = 1024


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
    outages: int = 0
    """Calls of `invalidate` before the entry was read or written."""
    outdated: bool = False
    """Whether a batch may have written another entry since this one was read."""

    def hold(self, entry: Entry | None, outages: int) -> None:
        """Take the entry that is stored now."""
        self.entry, self.outages, self.outdated = entry, outages, False
        if entry is None or not entry.pending:
            self.before, self.settled = entry, True


class Ledger:
    """Reads and writes of ledger entries, with a cache of this worker's own writes while a read may miss them.

    One thread plans (`read`, `cache`, `forget`), one writes (`entry`, `write`, `remove`, `release`). A key in flight
    is answered from the cache, with what the writing thread has stored last.

    Usually all records of a document are in one Kafka partition, and so one worker writes its entry. Where they are
    not, entries of other workers are recognized by their position. Such an entry is never answered from the cache. Once
    one was seen, every entry is read again before a plan is applied, as of the server's present moment: another worker
    may have made it its own.
    """

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        policy: WritePolicy,
        *,
        staleness_s: float = STALENESS_S,
        max_cached: int = 200_000,
        owned: Callable[[], Collection[KafkaPartition]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`owned`: the Kafka partitions of this worker; None: nobody else writes while this ledger is in use."""
        self._api = api
        self._name = ledger_name(collection)
        self._requests: UpsertRequests[Key] = UpsertRequests(api, self._name, policy)
        self._staleness_s = staleness_s
        self._max_cached = max_cached
        self._owned = owned
        self._clock = clock
        self._wall_clock = wall_clock
        self._cached: dict[Key, _CachedEntry] = {}
        self._lock = threading.Lock()
        self._distrusted_until = clock() + staleness_s
        self._distrusts = 0
        self._outages = 0
        self._outages_read = 0
        """Of the planning thread: `_outages` when it last read."""
        self._since: int | None = None
        self._shared = False

    # --- the planning thread -----------------------------------------------------------------------------------

    def read(self, keys: Iterable[Key]) -> dict[Key, tuple[Entry | None, bool]]:
        """Each key's entry, and whether the key is in flight: then the entry may change before the plan is applied."""
        entries: dict[Key, tuple[Entry | None, bool]] = {}
        own: dict[Key, Entry | None] = {}
        with self._lock:
            now = self._clock()
            self._evict(now)
            unread = []
            for key in keys:
                cached = self._cached.get(key)
                if cached is not None and (cached.in_flight or self._owned is None):
                    entries[key] = cached.entry, cached.in_flight > 0
                    continue
                unread.append(key)
                if cached is not None:
                    own[key] = cached.entry
            distrusted = now < self._distrusted_until
            self._outages_read = self._outages
        stored = self._query(unread, **(self._consistency() if distrusted else {}))
        foreign = {key for key in unread if self._is_foreign(stored.get(key)) or self._is_foreign(own.get(key))}
        self._shared = self._shared or bool(foreign)
        # A row of this worker may be older than what it has written since; so may one of another worker.
        stored |= {key: entry for key, entry in own.items() if key not in foreign}
        stored |= self._query_now([key for key in own if key in foreign])
        entries.update({key: (stored.get(key), False) for key in unread})
        return entries

    def cache(self, entries: Mapping[Key, tuple[Entry | None, bool]]) -> None:
        """Put keys in flight, with what `read` has answered; they stay in the cache until `release`."""
        with self._lock:
            now = self._clock()
            for key, (entry, was_in_flight) in entries.items():
                cached = self._cached.get(key)
                # A key that was in flight when it was read may have been written since: what is cached is as new or
                # newer, and where nothing is cached any more, nobody knows.
                if cached is None or not (was_in_flight or cached.in_flight or cached.entry == entry):
                    settled = entry is None or not entry.pending
                    before, outages = entry if settled else None, self._outages_read
                    cached = _CachedEntry(entry, before, settled, now, outages=outages, outdated=was_in_flight)
                    self._cached[key] = cached
                cached.in_flight += 1

    def forget(self) -> None:
        """Drop all keys that are not in flight, because another worker may have written."""
        self._shared = False
        self.invalidate()

    # --- the writing thread ------------------------------------------------------------------------------------

    def refresh(self, keys: Iterable[Key], always: Collection[Key] = ()) -> None:
        """Read again those keys in flight whose entry may have been written since it was read, and these always."""
        outages = self._outages
        doubted = [key for key in keys if self._shared or key in always or self._is_doubted(self._cached[key])]
        stored = self._query_now(doubted)
        with self._lock:
            for key in doubted:
                self._cached[key].hold(stored[key], outages)

    def entry(self, key: Key) -> Entry | None:
        """The stored entry of a key in flight."""
        return self._cached[key].entry

    def before(self, key: Key) -> tuple[Entry | None, bool]:
        """The entry of a key in flight before the pending change, and whether it is known."""
        cached = self._cached[key]
        return cached.before, cached.settled

    def doubtful(self, key: Key) -> bool:
        """Whether Milvus may have lost the entry of a key in flight: it was out of reach since."""
        return self._cached[key].outages != self._outages

    def write(self, entries: Sequence[Entry]) -> dict[Key, tuple[str, str]]:
        """Store entries of keys in flight; returns the keys whose row Milvus refused, with reason and message."""
        now_ms = int(self._wall_clock() * 1000)
        entries = [
            entry._replace(written_ms=now_ms)
            if entry.state == "deleted" and not (entry.pending or entry.written_ms)
            else entry
            for entry in entries
        ]
        sent: Sent[Key] = Sent()
        outages = self._outages
        groups = [RowGroup((entry.tenant, entry.doc_id), (entry_row(entry),), (_ROW_BYTES,)) for entry in entries]
        self._requests.send(None, groups, sent=sent, touched=set())
        if sent.set_aside:
            raise UnlistedAnswer(next(iter(sent.set_aside.values())))
        with self._lock:
            for entry in entries:
                key = entry.tenant, entry.doc_id
                if key not in sent.refused:
                    self._cached[key].hold(entry, outages)
        return sent.refused

    def remove(self, keys: Sequence[Key]) -> None:
        """Delete the ledger rows of keys in flight, of documents that were never stored."""
        outages = self._outages
        ids = iter([ledger_id(*key) for key in keys])
        while page := list(islice(ids, KEYS_PER_QUERY)):
            self._api.delete(self._name, None, page)
        with self._lock:
            for key in keys:
                self._cached[key].hold(None, outages)

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
        """Trust nothing from before an outage or an assignment.

        Keys that are not in flight are dropped: another worker may have written them, or Milvus has lost what it had
        acknowledged. Reads see everything written before now, until they do so by themselves (`staleness_s`).
        """
        with self._lock:
            self._cached = {key: cached for key, cached in self._cached.items() if cached.in_flight}
            self._outages += 1
            self._distrust_until(self._clock() + self._staleness_s)

    def consistency(self) -> dict[str, Any]:
        """The options of a read of rows that must see as much as the reads of this ledger do now."""
        with self._lock:
            distrusted = self._clock() < self._distrusted_until
        return self._consistency() if distrusted else {}

    def _distrust_until(self, when: float) -> None:
        self._distrusted_until = max(self._distrusted_until, when)
        self._distrusts += 1
        self._since = None

    def _consistency(self) -> dict[str, Any]:
        """The options of a read that must see everything written before the last `invalidate`.

        All such reads use one instant, so that only the first one waits.
        """
        with self._lock:
            distrusts, since = self._distrusts, self._since
        if since is None:
            since = self._api.instant()
            with self._lock:
                if distrusts == self._distrusts:
                    self._since = since
        return as_of(since)

    def _is_doubted(self, cached: _CachedEntry) -> bool:
        return cached.outdated or self._is_foreign(cached.entry)

    def _is_foreign(self, entry: Entry | None) -> bool:
        """Whether another worker may be writing the document: the entry is of a Kafka partition that it owns."""
        if self._owned is None or entry is None:
            return False
        if entry.position == NOWHERE:
            return entry.pending
        return entry.position[:2] not in self._owned()

    def _query_now(self, keys: Sequence[Key]) -> dict[Key, Entry | None]:
        """Entries as of this moment on the server's clock."""
        if not keys:
            return {}
        stored = self._query(keys, **as_of(self._api.instant()))
        return {key: stored.get(key) for key in keys}

    def _query(self, keys: Sequence[Key], **consistency: Any) -> dict[Key, Entry | None]:
        """The stored entries; keys without one are left out."""
        return {**read_entries(self._api, self._name, keys, **consistency)}

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
