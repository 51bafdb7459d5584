"""The ledger: one row per document that says what is stored of it and where rows of it may be."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import orjson

from pipeline.records import Position
from pipeline.store.collection.schema import LEDGER_DIMENSION, ledger_name
from pipeline.store.milvus.api import MilvusApi, Row
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
"""Any read has seen every write older than this. Milvus promises 5 s (`common.gracefulTime`, which the
server waits to reach before it answers); four times that leaves room for another setting."""

_VECTOR = np.ones(LEDGER_DIMENSION, dtype=np.float32)
_ROW_BYTES = 1024


def entry_row(entry: Entry) -> Row:
    """The ledger row of an entry."""
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
        "content_hash": entry.content_hash,
        "row_hash": entry.row_hash,
        "fingerprint": entry.fingerprint,
        "topic_id": entry.topic_id,
        "pending": entry.pending,
        "vector": _VECTOR,
    }


def row_entry(row: Mapping[str, Any]) -> Entry:
    """The entry of a ledger row read with `ENTRY_FIELDS`."""
    doc_id = row["doc_id"]
    # No tenant is stored as ""; the id tells it from a tenant of that name.
    no_tenant = None if row["id"] == ledger_id(None, doc_id) else ""
    return Entry(
        doc_id=doc_id,
        tenant=row["tenant"] or no_tenant,
        position=Position(row["topic"], row["kafka_partition"], row["kafka_offset"]),
        record_time=row["record_time"],
        version=row["version"],
        versioned=row["versioned"],
        state=row["state"],
        footprint=orjson.loads(row["footprint"]),
        content_hash=row["content_hash"],
        row_hash=row["row_hash"],
        fingerprint=row["fingerprint"],
        topic_id=row["topic_id"],
        pending=row["pending"],
    )


@dataclass(slots=True)
class _CachedEntry:
    """What this worker knows of one key."""

    entry: Entry | None
    before: Entry | None
    """The last entry that was not pending: what stands if the change that was begun comes to nothing."""
    settled: bool
    """Whether `before` is known: not for a document that was found pending."""
    since: float
    in_flight: int = 0
    """Plans that were made with this key and are not yet applied."""


class Ledger:
    """Reads and writes entries, and remembers this worker's own writes for as long as a read may miss them.

    One thread plans (`read`, `hold`, `forget`), one writes (`entry`, `write`, `remove`, `release`). A key in flight
    is answered from memory, with what the writing thread stored last. Only the worker that owns a document's Kafka
    partition may write it: records of one document must all be in one.
    """

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        policy: WritePolicy,
        *,
        staleness_s: float = STALENESS_S,
        max_remembered: int = 200_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._name = ledger_name(collection)
        self._policy = policy
        self._staleness_s = staleness_s
        self._max_remembered = max_remembered
        self._clock = clock
        self._held: dict[Key, _CachedEntry] = {}
        self._lock = threading.Lock()
        self._distrusted_until = clock() + staleness_s
        self._distrusts = 0
        self._since: int | None = None

    # --- the planning thread -----------------------------------------------------------------------------------

    def read(self, keys: Iterable[Key]) -> dict[Key, tuple[Entry | None, bool]]:
        """Each key's entry, and whether it is in flight: then the entry may change before the plan is applied."""
        found: dict[Key, tuple[Entry | None, bool]] = {}
        with self._lock:
            now = self._clock()
            self._evict(now)
            missing = []
            for key in keys:
                held = self._held.get(key)
                if held is None:
                    missing.append(key)
                else:
                    found[key] = held.entry, held.in_flight > 0
            distrusted = now < self._distrusted_until
        waiting = iter(missing)
        while some := list(islice(waiting, KEYS_PER_QUERY)):
            entries = self._query(some, **(self._consistency() if distrusted else {}))
            found.update({key: (entries.get(key), False) for key in some})
        return found

    def hold(self, entries: Mapping[Key, Entry | None]) -> None:
        """These keys are in flight now, until `release`; `entries` is what `read` answered."""
        with self._lock:
            now = self._clock()
            for key, entry in entries.items():
                held = self._held.get(key)
                if held is None:
                    settled = entry is None or not entry.pending
                    held = self._held[key] = _CachedEntry(entry, entry if settled else None, settled, now)
                held.in_flight += 1

    def forget(self) -> None:
        """Another worker may have written since: forget what is not in flight, and invalidate what is read."""
        with self._lock:
            self._held = {key: held for key, held in self._held.items() if held.in_flight}
        self.invalidate()

    # --- the writing thread ------------------------------------------------------------------------------------

    def entry(self, key: Key) -> Entry | None:
        """What is stored of a key in flight."""
        return self._held[key].entry

    def before(self, key: Key) -> tuple[Entry | None, bool]:
        """What was stored of a key in flight before the change that is pending, and whether that is known."""
        held = self._held[key]
        return held.before, held.settled

    def write(self, entries: Sequence[Entry]) -> dict[Key, tuple[str, str]]:
        """Store entries of keys in flight; the result is the keys whose row Milvus refused, with reason and message."""
        sent: Sent[Key] = Sent()
        groups = [RowGroup((entry.tenant, entry.doc_id), (entry_row(entry),), (_ROW_BYTES,)) for entry in entries]
        upsert_groups(self._api, self._name, None, groups, self._policy, sent=sent, touched=set())
        with self._lock:
            for entry in entries:
                key = entry.tenant, entry.doc_id
                if key not in sent.refused:
                    held = self._held[key]
                    held.entry = entry
                    if not entry.pending:
                        held.before, held.settled = entry, True
        return sent.refused

    def remove(self, keys: Sequence[Key]) -> None:
        """Delete the rows of keys in flight: nothing is stored of these documents, and nothing ever was."""
        ids = iter([ledger_id(*key) for key in keys])
        while some := list(islice(ids, KEYS_PER_QUERY)):
            self._api.delete(self._name, None, some)
        with self._lock:
            for key in keys:
                held = self._held[key]
                held.entry, held.before, held.settled = None, None, True

    def release(self, keys: Iterable[Key]) -> None:
        """A plan with these keys has been applied; they are remembered for as long as a read may miss its writes."""
        with self._lock:
            now = self._clock()
            for key in keys:
                held = self._held.pop(key)
                held.in_flight -= 1
                held.since = now
                self._held[key] = held

    # --- both --------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """From now on reads must see everything written before now; for a while they would not all by themselves."""
        with self._lock:
            self._distrust_until(self._clock() + self._staleness_s)

    def _distrust_until(self, when: float) -> None:
        self._distrusted_until = max(self._distrusted_until, when)
        self._distrusts += 1
        self._since = None

    def _consistency(self) -> dict[str, Any]:
        """For a read that must see everything written before the last invalidate.

        One instant serves all of them: only the first waits until the server has got past it. A strong read, which is
        as of its own moment, waits every time (some 300 ms on 2.3.5).
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
        expression = 'id in ["' + '","'.join(by_id) + '"]'
        rows = self._api.query(self._name, expression, ENTRY_FIELDS, **consistency)
        return {by_id[row["id"]]: row_entry(row) for row in rows}

    def _evict(self, now: float) -> None:
        """Forget the oldest; what is forgotten early must be seen by reads until its time is over."""
        surplus = len(self._held) - self._max_remembered
        gone: list[Key] = []
        for key, held in self._held.items():
            if held.in_flight:
                continue
            expires = held.since + self._staleness_s
            if expires > now:
                if len(gone) >= surplus:
                    break
                self._distrust_until(expires)
            gone.append(key)
        for key in gone:
            del self._held[key]
