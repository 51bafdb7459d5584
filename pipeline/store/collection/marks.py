"""Marks: the named values by which the workers that fill one collection agree, in a collection of their own."""

import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import structlog

from pipeline.errors import Unavailable
from pipeline.records import VECTOR_FIELD
from pipeline.store.collection.schema import UNUSED_DIMENSION, ledger_name, marks_name
from pipeline.store.milvus.api import MilvusApi, as_of

log = structlog.get_logger(__name__)

MarkKind: TypeAlias = Literal["flush", "position", "stamp", "lease"]
Payload: TypeAlias = Mapping[str, Any]
NO_PAYLOAD: Payload = MappingProxyType({})

LEDGER_MARK_STATE = "marker"
"""In the column `state` of a ledger row that is a flush mark of a former version, and no document's."""
_LEDGER_MARK_PARTITION = -2
_READS = 3
_KEPT = 2
_VECTOR = np.ones(UNUSED_DIMENSION, dtype=np.float32)
_FIELDS = ("id", "name", "writer", "count", "payload", "written_ms")


@dataclass(frozen=True, slots=True)
class Mark:
    """The current value of a name."""

    name: str
    writer: str
    count: int
    """Rises with every write of the name."""
    payload: Payload
    written_ms: int
    """When it was written, epoch milliseconds of the writer's clock."""


class Marks:
    """The marks of one collection, as one worker reads and writes them. May be used by several threads.

    Every write of a name is a new row with a higher count, and a row is never changed. One row updated in place would
    be simpler, but Milvus 2.3.5 can lose the delete of an upsert that arrives while a flushed segment is loaded, and
    then answers the older row even to a strong read (measured: 8 after 12 was acknowledged).

    Of each name the two newest rows are kept: a server that loses the newest one with its power still has the other.
    """

    def __init__(self, api: MilvusApi, collection: str, wall_clock: Callable[[], float] = time.time) -> None:
        self._api = api
        self._name = marks_name(collection)
        self._wall_clock = wall_clock
        self._writer = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._rows: dict[tuple[MarkKind, str], dict[str, Mark]] = {}
        """By kind and name: the rows that are or may be there, by id; never empty, replaced and not changed."""
        self._counts: dict[tuple[MarkKind, str], int] = {}
        """The highest count seen or used: none is used twice, also after a server has lost rows."""

    def read(self, kind: MarkKind) -> Mapping[str, Mark]:
        """The newest mark of every name, as of the server's present moment. Raises Unavailable."""
        stored: dict[str, dict[str, Mark]] = defaultdict(dict)
        for row in self._answered(kind):
            mark = Mark(row["name"], row["writer"], row["count"], json.loads(row["payload"]), row["written_ms"])
            stored[mark.name][row["id"]] = mark
        with self._lock:
            for name, rows in stored.items():
                self._remember(kind, name, rows)
        return {name: max(rows.values(), key=_order) for name, rows in stored.items()}

    def write(self, kind: MarkKind, payloads: Mapping[str, Payload], *, fenced: bool = True) -> Mapping[str, Mark]:
        """Write values of these names; returns their marks. Raises Unavailable, also for an unknown outcome.

        A name that this object has not read or written counts from 1: read its kind first if it may be there.
        `fenced`: only while no other worker can own this one's documents.
        """
        if not payloads:
            return {}
        written_ms = int(self._wall_clock() * 1000)
        rows: dict[str, dict[str, Any]] = {}
        marks: dict[str, Mark] = {}
        surplus: dict[str, list[str]] = {}
        with self._lock:
            for name, payload in payloads.items():
                count = self._counts.get((kind, name), 0) + 1
                mark = marks[name] = Mark(name, self._writer, count, payload, written_ms)
                rows[name] = _row(kind, mark)
                # Before the call: after an unknown outcome the row may be there.
                self._remember(kind, name, {**self._rows.get((kind, name), {}), rows[name]["id"]: mark})
                known = self._rows[kind, name]
                surplus[name] = sorted(known, key=lambda row_id: _order(known[row_id]))[:-_KEPT]
        with nullcontext() if fenced else self._api.unfenced():
            self._api.upsert(self._name, None, list(rows.values()))
            self._delete(kind, surplus)
        return marks

    def forget(self, kind: MarkKind, names: Iterable[str]) -> None:
        """Delete all known rows of these names."""
        with self._lock:
            surplus = {name: list(self._rows.get((kind, name), {})) for name in names}
        self._delete(kind, surplus)

    def _remember(self, kind: MarkKind, name: str, rows: dict[str, Mark]) -> None:
        self._rows[kind, name] = rows
        highest = max(mark.count for mark in rows.values())
        self._counts[kind, name] = max(highest, self._counts.get((kind, name), 0))

    def _answered(self, kind: MarkKind) -> list[dict[str, Any]]:
        where = f'kind == "{kind}"'
        for _ in range(_READS):
            now = as_of(self._api.instant())  # both reads as of one moment: only the first one waits
            rows = self._api.query(self._name, where, _FIELDS, **now)
            # Where an id is stored twice, Milvus 2.3.5 leaves other rows out of the answer; a count shows that. It also
            # differs when a mark was written between the two reads.
            count = self._api.query(self._name, where, ["count(*)"], **now)[0]["count(*)"]
            if count <= len(rows):
                return rows
        raise Unavailable(f"{count} marks in {self._name} and only {len(rows)} answered")

    def _delete(self, kind: MarkKind, surplus: Mapping[str, list[str]]) -> None:
        """Delete rows that no longer count. They only cost space: what remains is deleted by a later write."""
        ids = [row_id for of_name in surplus.values() for row_id in of_name]
        if not ids:
            return
        try:
            self._api.delete(self._name, None, ids)
        except Unavailable as error:
            log.debug("marks.kept", marks=len(ids), error_type=type(error).__name__)
            return
        with self._lock:
            for name, gone in surplus.items():
                known = self._rows.pop((kind, name), {})
                kept = {row_id: mark for row_id, mark in known.items() if row_id not in gone}
                if kept:
                    self._rows[kind, name] = kept


def sweep_ledger_marks(api: MilvusApi, collection: str) -> None:
    """Delete the flush marks that former versions wrote into the ledger; nothing reads them. An outage puts it off."""
    name = ledger_name(collection)
    try:
        rows = api.query(name, f"kafka_partition == {_LEDGER_MARK_PARTITION}", ["id"], strong=True)
        api.delete(name, None, [row["id"] for row in rows])
    except Unavailable as error:
        log.debug("marks.kept", error_type=type(error).__name__)


def _order(mark: Mark) -> tuple[int, int, str]:
    """Highest for the newest mark of a name; two writers at one moment are separated by their clocks."""
    return mark.count, mark.written_ms, mark.writer


def _row(kind: MarkKind, mark: Mark) -> dict[str, Any]:
    key = json.dumps([kind, mark.name, mark.writer, mark.count])
    return {
        "id": blake2b(key.encode(), digest_size=20).hexdigest(),
        "kind": kind,
        "name": mark.name,
        "writer": mark.writer,
        "count": mark.count,
        "payload": json.dumps(dict(mark.payload), separators=(",", ":")),
        "written_ms": mark.written_ms,
        VECTOR_FIELD: _VECTOR,
    }
