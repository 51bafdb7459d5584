"""Milvus in memory, with the semantics measured on a real 2.3.5 server, and faults on demand.

Surprises of real servers are kept. An upsert replaces a row only in the Milvus partition it names, so an id may be
in two of them, and then a query answers either copy. A delete with a partition removes only there. One bad row refuses
the whole request. VARCHAR limits count bytes.
"""

import math
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import failpoints
from pipeline.errors import (
    MilvusAway,
    MilvusStreamError,
    NotFound,
    NotLoaded,
    RecordRejected,
    RequestTooLarge,
    UsageError,
)
from pipeline.store.milvus.api import (
    DEFAULT_PARTITION,
    CollectionInfo,
    CollectionSpec,
    Hit,
    Row,
    ServerInfo,
    VectorSearch,
)
from pipeline.store.milvus.write_lease import Lease, LeftS
from tests.support.fakes.milvus_expressions import parse
from tests.support.fakes.milvus_values import best_hits, checked, projected, row_size, scores_of

MAX_REQUEST_BYTES = 64 * 1024 * 1024
MAX_TOP_K = 16_384
CALL_S = 10.0
"""Deadline of a call: what a lease may shorten."""

_HEX = re.compile(r"[0-9a-f]{1,64}")

Rows = dict[str, dict[str, Any]]
Hook = Callable[[str, str, Literal["before", "after"]], None]
"""`(operation, collection, when)`: called around every call's effect; may raise, as a crash does."""

OnWrite = Callable[[str, str, Mapping[str, dict[str, Any] | None]], None]
"""Collection, Milvus partition, and the rows that a write is about to change as they are: None for no row."""


@dataclass(slots=True)
class _Failure:
    operation: str
    error: BaseException
    applied: bool
    collection: str | None

    def hits(self, operation: str, collection: str) -> bool:
        return self.operation == operation and self.collection in (None, collection)


@dataclass(frozen=True, slots=True)
class _Undo:
    """One write: its number and time, and what the rows it changed were before."""

    number: int
    at: float
    partition: str
    before: Mapping[str, dict[str, Any] | None]


@dataclass(slots=True)
class _Collection:
    spec: CollectionSpec
    partitions: dict[str, Rows] = field(default_factory=lambda: {DEFAULT_PARTITION: {}})
    released: set[str] = field(default_factory=set)
    undo: deque[_Undo] = field(default_factory=deque)
    """The last writes, newest last; how a stale read goes back in time."""


class FakeMilvus:
    """Implements `MilvusServerApi`.

    `staleness_writes`: a read without `strong` misses this many of the collection's last writes, unless they are older
    than `staleness_s` by `clock`.
    `down`: every call raises `MilvusAway`; when it becomes True, every connection breaks.
    `gate`: cleared, every call waits until it is set again. `on_write`: called before each write.
    `refusal`: what `check_serving` raises. `hook`: a `Hook`. `calls`: all calls, as (operation, collection, rows or
    ids).
    """

    def __init__(
        self,
        *,
        staleness_writes: int = 0,
        staleness_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        max_partitions: int = 4096,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        seed: int = 0,
        server: ServerInfo | None = None,
    ) -> None:
        self.staleness_writes = staleness_writes
        self._down = False
        self._lost: list[Callable[[], None]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.hook: Hook | None = None
        self.refusal: MilvusStreamError | None = None
        self.calls: list[tuple[str, str, int]] = []
        self.flushes = 0
        self.on_write: list[OnWrite] = []
        self._staleness_s = staleness_s
        self._clock = clock
        self._max_partitions = max_partitions
        self._max_request_bytes = max_request_bytes
        self._random = random.Random(seed)
        self._server = server or ServerInfo("v2.3.5-lite", (2, 3, 5), lite=False)
        self._collections: dict[str, _Collection] = {}
        self._failures: list[_Failure] = []
        self._lock = threading.RLock()
        self._closed = False
        self._writes = 0
        self._lease = Lease()

    @property
    def down(self) -> bool:
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        broke, self._down = down and not self._down, down
        for lost in self._lost if broke else ():
            lost()

    def check_reachable(self) -> None:
        if self.down:
            raise MilvusAway("the server cannot be reached")

    def check_serving(self, collection: str) -> None:
        self.check_reachable()
        if self.refusal is not None:
            raise self.refusal

    def on_lost(self, lost: Callable[[], None]) -> None:
        self._lost.append(lost)

    # --- faults and inspection ---------------------------------------------------------------------------------

    def fail_next(
        self, operation: str, error: BaseException, *, applied: bool = False, collection: str | None = None
    ) -> None:
        """Let the next such call raise; with `applied` it has its effect first, as when the answer is lost."""
        self._failures.append(_Failure(operation, error, applied, collection))

    def stored(self, collection: str) -> dict[str, Rows]:
        """Milvus partition -> id -> row: the truth, whatever is stale or down."""
        with self._lock:
            return {name: dict(rows) for name, rows in self._get(collection).partitions.items()}

    def put_back(self, collection: str, partition: str, identifier: str, row: dict[str, Any] | None) -> None:
        """Make a row what it was before, behind the back of every client: None removes it."""
        with self._lock:
            rows = self._get(collection).partitions[partition]
            if row is None:
                rows.pop(identifier, None)
            else:
                rows[identifier] = row

    @contextmanager
    def _call(self, operation: str, collection: str = "", size: int = 0) -> Iterator[None]:
        self.gate.wait()
        if self.hook is not None and not self.down:
            self.hook(operation, collection, "before")  # without the lock: it may hold one call up, and no other
        with self._lock:
            self.calls.append((operation, collection, size))
            if self.down or self._closed:
                raise MilvusAway(f"{operation}: the server cannot be reached")
            failure = next((failure for failure in self._failures if failure.hits(operation, collection)), None)
            if failure is not None:
                self._failures.remove(failure)
                if not failure.applied:
                    raise failure.error
            yield
            if failure is not None:
                raise failure.error
            if self.hook is not None:
                self.hook(operation, collection, "after")

    # --- collections and partitions ----------------------------------------------------------------------------

    @property
    def server(self) -> ServerInfo:
        return self._server

    def collections(self) -> list[str]:
        with self._call("list_collections"):
            return sorted(self._collections)

    def describe(self, collection: str) -> CollectionInfo | None:
        with self._call("describe", collection):
            held = self._collections.get(collection)
            if held is None:
                return None
            spec = held.spec
            return CollectionInfo(spec.name, spec.description, spec.fields, spec.dynamic, dict(spec.indexes))

    def create_collection(self, spec: CollectionSpec) -> None:
        with self._call("create_collection", spec.name):
            self._collections.setdefault(spec.name, _Collection(spec)).released.clear()

    def drop_collection(self, collection: str) -> None:
        with self._call("drop_collection", collection):
            self._collections.pop(collection, None)

    def partitions(self, collection: str) -> list[str]:
        with self._call("list_partitions", collection):
            return sorted(self._get(collection).partitions.keys() - {DEFAULT_PARTITION})

    def create_partition(self, collection: str, partition: str) -> None:
        with self._call("create_partition", collection):
            held = self._get(collection)
            if not re.fullmatch(r"[A-Za-z0-9_]{1,255}", partition):
                raise UsageError(f"invalid partition name {partition!r}")
            if partition not in held.partitions and len(held.partitions) >= self._max_partitions:
                raise RecordRejected("too_many_partitions", f"partition number exceeds {self._max_partitions}")
            held.partitions.setdefault(partition, {})
        failpoints.hit("partition_created")

    def drop_partition(self, collection: str, partition: str) -> None:
        with self._call("drop_partition", collection):
            held = self._collections.get(collection)
            if held is not None:
                held.partitions.pop(partition, None)
                held.released.discard(partition)

    def loaded_partitions(self, collection: str) -> list[str]:
        with self._call("load_state", collection):
            held = self._get(collection)
            return sorted(held.partitions.keys() - held.released - {DEFAULT_PARTITION})

    def load_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        with self._call("load_partitions", collection):
            self._partitions_named(self._get(collection), partitions)
            self._get(collection).released.difference_update(partitions)

    def release_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        with self._call("release_partitions", collection):
            if not self._server.capabilities.needs_load:
                raise UsageError("Milvus Lite keeps every partition loaded")
            self._partitions_named(self._get(collection), partitions)
            self._get(collection).released.update(partitions)

    def index_progress(self, collection: str, field: str = "vector") -> tuple[int, int]:
        with self._call("describe_index", collection):
            if field not in self._get(collection).spec.indexes:
                raise NotFound(f"collection {collection!r} has no index on {field!r}")
            return sum(len(rows) for rows in self._get(collection).partitions.values()), 0

    def clock_ms(self) -> int | None:
        with self._call("clock"):
            return time.time_ns() // 1_000_000 if self._server.capabilities.has_clock else None

    def instant(self) -> int | None:
        with self._call("clock"):
            return self._writes if self._server.capabilities.has_clock else None

    # --- rows --------------------------------------------------------------------------------------------------

    def fence(self, left_s: LeftS) -> None:
        self._lease.bind(left_s)

    def unfenced(self) -> AbstractContextManager[None]:
        return self._lease.waived()

    def upsert(self, collection: str, partition: str | None, rows: Sequence[Row]) -> None:
        if len({row["id"] for row in rows}) != len(rows):
            raise ValueError("an id occurs twice in one upsert; fold the rows first")
        if not rows:
            return
        self._lease.bounded(CALL_S)
        with self._call("upsert", collection, len(rows)):
            held, there = self._partition(collection, partition)
            self._check_size(sum(row_size(row) for row in rows))
            stored = [checked(row, held.spec) for row in rows]
            self._write(held, partition or DEFAULT_PARTITION, there, {row["id"]: row for row in stored})

    def delete(self, collection: str, partition: str | None, ids: Sequence[str]) -> None:
        if not all(_HEX.fullmatch(identifier) for identifier in ids):
            raise ValueError("a row id is not a lower-case hex digest of at most 64 characters")
        if not ids:
            return
        self._lease.bounded(CALL_S)
        with self._call("delete", collection, len(ids)):
            held, there = self._partition(collection, partition)
            self._write(held, partition or DEFAULT_PARTITION, there, dict.fromkeys(ids))

    def _write(self, held: _Collection, name: str, there: Rows, changes: Mapping[str, dict[str, Any] | None]) -> None:
        self._writes += 1
        before = {identifier: there.get(identifier) for identifier in changes}
        for on_write in self.on_write:
            on_write(held.spec.name, name, before)
        held.undo.append(_Undo(self._writes, self._clock(), name, before))
        while len(held.undo) > self.staleness_writes:
            held.undo.popleft()
        for identifier, row in changes.items():
            if row is None:
                there.pop(identifier, None)
            else:
                there[identifier] = row

    def query(
        self,
        collection: str,
        expression: str,
        fields: Sequence[str],
        *,
        partitions: Sequence[str] | None = None,
        strong: bool = False,
        since: int | None = None,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> list[dict[str, Any]]:
        with self._call("query", collection):
            held = self._get(collection)
            if list(fields) == ["count(*)"]:
                return [{"count(*)": len(self._matching(held, expression, partitions, strong=strong, since=since))}]
            if not expression and limit is None:
                raise UsageError("empty expression should be used with limit")
            copies: dict[str, list[dict[str, Any]]] = {}
            for row in self._matching(held, expression, partitions, strong=strong, since=since):
                copies.setdefault(row["id"], []).append(row)
            found = [self._random.choice(rows) for rows in copies.values()]
            return [projected(row, {"id", *fields}, held.spec) for row in found[:limit]]

    def search(self, collection: str, search: VectorSearch) -> list[list[Hit]]:
        by_words = not isinstance(search.queries, np.ndarray)
        if by_words and not self._server.capabilities.bm25:
            raise UsageError(f"keyword search needs Milvus 2.5 or newer, or Lite; the server is {self._server.version}")
        with self._call("search", collection, len(search.queries)):
            held = self._get(collection)
            rows = self._matching(held, search.expression, search.partitions, strong=search.strong, since=search.since)
            if isinstance(search.queries, np.ndarray):
                return self._nearest(held.spec, rows, search, search.queries)
            return [self._sharing_words(held.spec, rows, search, text) for text in search.queries]

    def _nearest(
        self, spec: CollectionSpec, rows: list[dict[str, Any]], search: VectorSearch, vectors: NDArray[np.float32]
    ) -> list[list[Hit]]:
        metric = spec.indexes[search.anns_field].metric
        dimension = next(info.dimension for info in spec.fields if info.name == search.anns_field)
        limit, fields = search.limit, search.fields
        if not 1 <= limit <= MAX_TOP_K or (len(vectors) and vectors.shape[1] != dimension):
            raise UsageError(f"topk [{limit}] is invalid, or the vectors do not have {dimension} dimensions")
        matrix = np.array([row[search.anns_field] for row in rows], dtype=np.float32).reshape(len(rows), dimension or 0)
        return [
            best_hits(rows, scores_of(matrix, vector, metric), spec, metric=metric, limit=limit, fields=fields)
            for vector in vectors
        ]

    def _sharing_words(
        self, spec: CollectionSpec, rows: list[dict[str, Any]], search: VectorSearch, text: str
    ) -> list[Hit]:
        """Scores are the number of words shared, not BM25: more of them is better, which is all that is promised."""
        words = set(text.lower().split())
        shared = np.array([len(words & set(row["text"].lower().split())) for row in rows], dtype=np.float32)
        matching = np.flatnonzero(shared)
        sign = -1.0 if self._server.capabilities.bm25_scores_are_negative else 1.0
        best = best_hits(
            [rows[i] for i in matching],
            shared[matching],
            spec,
            metric="IP",
            limit=search.limit,
            fields=search.fields,
        )
        return [Hit(hit.id, sign * hit.score, hit.fields) for hit in best]

    def count(self, collection: str, *, partitions: Sequence[str] | None = None) -> int:
        with self._call("count", collection):
            return len(self._matching(self._get(collection), "", partitions, strong=True))

    def flush(self, collection: str) -> None:
        with self._call("flush", collection):
            self._get(collection)
            self.flushes += 1

    def close(self) -> None:
        self._closed = True

    # --- inside ------------------------------------------------------------------------------------------------

    def _get(self, collection: str) -> _Collection:
        if collection not in self._collections:
            raise NotFound(f"there is no collection {collection!r}")
        return self._collections[collection]

    def _partition(self, collection: str, partition: str | None) -> tuple[_Collection, Rows]:
        held = self._get(collection)
        return held, self._partitions_named(held, [partition or DEFAULT_PARTITION])[0]

    def _partitions_named(self, held: _Collection, names: Sequence[str]) -> list[Rows]:
        missing = [name for name in names if name not in held.partitions]
        if missing:
            raise NotFound(f"partition not found[partition={missing[0]}]")
        return [held.partitions[name] for name in names]

    def _check_size(self, size: int) -> None:
        if size > self._max_request_bytes:
            raise RequestTooLarge(f"received message larger than max ({size} vs. {self._max_request_bytes})")

    def _matching(
        self,
        held: _Collection,
        expression: str,
        partitions: Sequence[str] | None,
        *,
        strong: bool,
        since: int | None = None,
    ) -> list[dict[str, Any]]:
        try:
            holds = parse(expression)
        except ValueError as error:
            raise UsageError(str(error)) from error
        names = list(held.partitions.keys() - held.released) if partitions is None else list(dict.fromkeys(partitions))
        self._partitions_named(held, names)
        if held.released.intersection(names):
            raise NotLoaded(f"partition not loaded[partition={sorted(held.released.intersection(names))}]")
        while held.undo and held.undo[0].at <= self._clock() - self._staleness_s:
            held.undo.popleft()
        unseen = [] if strong else [change for change in held.undo if since is None or change.number > since]
        view = _earlier(held, unseen) if unseen else held.partitions
        return [row for name in names for row in view.get(name, {}).values() if holds(row)]


def _earlier(held: _Collection, unseen: Sequence[_Undo]) -> dict[str, Rows]:
    """The rows as they were before the writes a stale read does not see."""
    view = {name: dict(rows) for name, rows in held.partitions.items()}
    for change in reversed(unseen):
        for identifier, row in change.before.items():
            if row is None:
                view.get(change.partition, {}).pop(identifier, None)
            else:
                view.setdefault(change.partition, {})[identifier] = row
    return view
