"""The interface to a Milvus server; `client.py` implements it over pymilvus, the tests have one in memory."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.records import VECTOR_FIELD
from pipeline.store.milvus.capabilities import Capabilities, Version, capabilities_of
from pipeline.store.milvus.write_lease import LeftS

Row = Mapping[str, Any]
"""Field name -> value; a vector is a float32 array of shape (dimension,). Undeclared names go to the dynamic field."""


DEFAULT_PARTITION = "_default"
"""The Milvus partition that every collection has."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Version and kind of a server, and what follows from them."""

    version: str
    """As the server reports it, e.g. `v2.3.5-lite`, `milvus_lite-3.2.2`, `3.0.2`."""
    number: Version
    """The version to compare with, e.g. (2, 3, 5)."""
    lite: bool
    """Milvus Lite, one embedded process; for messages. (PyPI's full server 2.3.5 is not Lite, whatever it reports.)"""
    capabilities: Capabilities = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "capabilities", capabilities_of(self.number, lite=self.lite))


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """One declared field of a collection."""

    name: str
    type: str
    """Milvus's name: VARCHAR, INT64, FLOAT_VECTOR, BOOL, SPARSE_FLOAT_VECTOR …"""
    primary: bool = False
    dimension: int | None = None
    max_length: int | None = None
    nullable: bool = False
    """A row may leave it out, as with every field added to an existing collection."""


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """The index of one vector field."""

    type: str
    metric: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as the server describes it."""

    name: str
    description: str
    fields: tuple[FieldInfo, ...]
    dynamic: bool
    indexes: Mapping[str, IndexInfo]
    """By field name."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One row found by a search."""

    id: str
    score: float
    """By a vector: COSINE and IP higher is nearer, L2 lower. By words: BM25, higher is better, and on Lite negative, so
    lower is better. Of several searches fused: up to 1, higher is better.
    """
    fields: Mapping[str, Any]
    legs: Mapping[str, float] = field(default_factory=dict)
    """The scores of which `score` is made, where several searches were fused."""
    cosine: float | None = None
    """That of the vectors, where an index with the metric COSINE found the row."""


@dataclass(frozen=True, slots=True, eq=False)
class VectorSearch:
    """One search in a collection: what to find, among which rows, and what to return of them."""

    queries: NDArray[np.float32] | Sequence[str]
    """Vectors of shape (queries, dimension); or texts, which the server compares by BM25 with its sparse field."""
    limit: int
    """Rows for each query."""
    anns_field: str = VECTOR_FIELD
    """The column to search in; `sparse` for texts."""
    expression: str = ""
    """A filter; empty: all rows."""
    fields: Sequence[str] = ()
    """Columns to return; `$meta` is all metadata of a row, whatever its names."""
    partitions: Sequence[str] | None = None
    """Milvus partitions; None: all that are loaded."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a search in this type of index (`ef` …)."""
    strong: bool = False
    """See every write acknowledged before the call, not only those older than some 100 ms."""
    since: int | None = None
    """See every write acknowledged before this `MilvusApi.instant`."""
    timeout_s: float | None = None
    """Limit of all attempts together; None: the connection's own."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """What to create: fields, and one index for each vector field."""

    name: str
    description: str
    fields: tuple[FieldInfo, ...]
    dynamic: bool
    indexes: Mapping[str, IndexInfo]
    bm25: bool = False
    """Fill the field `sparse` from `text` by a BM25 function."""
    text_options: Mapping[str, Any] = field(default_factory=dict)
    """How the words of `text` are read: `enable_analyzer`, `analyzer_params`, `enable_match`."""


class MilvusApi(Protocol):
    """A Milvus server. Calls block, each within its deadline; names and expressions are already validated.

    Raises, from pipeline.errors: `Unavailable` (nothing happened, try later), `RateLimited`, `OutcomeUnknown` (a write
    without an answer), `RowsRefused` (the content of a row), `RequestTooLarge` (over 64 MiB), `NotFound` (collection or
    Milvus partition missing). Short outages are retried inside by one policy; what is raised has outlasted it.
    """

    @property
    def server(self) -> ServerInfo:
        """Version, kind and capabilities, read when the connection was opened."""

    def check_reachable(self) -> None:
        """Raise MilvusAway where the server is known not to answer; calls nothing. See `fail_fast` of `connect`."""

    def check_serving(self, collection: str) -> None:
        """Raise MilvusAway, or the last answer about the collection that the server cannot serve it; calls nothing."""

    def collections(self) -> list[str]:
        """Names of all collections."""

    def describe(self, collection: str) -> CollectionInfo | None:
        """The collection's schema and indexes, or None if there is none of that name."""

    def create_collection(self, spec: CollectionSpec) -> None:
        """Create collection and indexes and load it; success too if another worker did so at the same time."""

    def drop_collection(self, collection: str) -> None:
        """Remove the collection with all rows; no error if it is gone already."""

    def partitions(self, collection: str) -> list[str]:
        """Names of the collection's Milvus partitions without `_default`, sorted."""

    def create_partition(self, collection: str, partition: str) -> None:
        """Create it and see it loaded; success too if it exists."""

    def drop_partition(self, collection: str, partition: str) -> None:
        """Release and remove it with all rows; no error if it is gone already."""

    def fence(self, left_s: LeftS) -> None:
        """Send `upsert` and `delete` only if they end within `left_s()` seconds; otherwise they raise LeaseExpired.

        So a worker that was suspended or cut off from Kafka cannot overwrite the rows of its successor.
        """

    def unfenced(self) -> AbstractContextManager[None]:
        """Let this thread's writes pass the fence inside the block; for rows that are no document's."""

    def on_lost(self, lost: Callable[[], None]) -> None:
        """Call `lost` whenever the connection to the server breaks, also while it is idle; on any thread.

        A server that starts again after a loss of power may not have what was not flushed. A request that is refused or
        gets no answer in time does not count. Until a call is answered again, further failures are the same loss.
        """

    def upsert(self, collection: str, partition: str | None, rows: Sequence[Row]) -> None:
        """Store the rows, replacing those with the same `id` *in this Milvus partition*. No id twice in one call.

        All or nothing. `partition` None: the default one (the ledger has no time partitions).
        """

    def delete(self, collection: str, partition: str | None, ids: Sequence[str]) -> None:
        """Delete rows by `id` in this Milvus partition (Lite: everywhere). Ids are hex digests, never raw keys."""

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
        """Rows that match, in no particular order. An empty expression needs a limit.

        `strong`: the read sees every write acknowledged before the call; otherwise it may be some 100 ms old.
        `since`: it sees every write acknowledged before that `instant`.
        `timeout`: seconds for all attempts together; None: the connection's own. `$meta` as in `VectorSearch`.
        """

    def instant(self) -> int | None:
        """This moment on the server's clock, for `query(since=…)`; None from a server without a clock (Lite)."""

    def search(self, collection: str, search: VectorSearch) -> list[list[Hit]]:
        """The nearest rows of each query, best first. `UsageError` for texts where the server has no BM25."""

    def count(self, collection: str, *, partitions: Sequence[str] | None = None) -> int:
        """Rows that a strong read sees, deletes taken into account."""

    def flush(self, collection: str) -> None:
        """Seal and persist what was acknowledged before the call; returns when done. Never call it per batch."""

    def loaded_partitions(self, collection: str) -> list[str]:
        """The Milvus partitions that searches cover, a subset of `partitions`. Lite: all of them."""

    def close(self) -> None:
        """Close the connection; further calls raise `Unavailable`."""


class MilvusServerApi(MilvusApi, Protocol):
    """A Milvus server with what operators need too: which partitions are loaded, index progress, the server's clock."""

    def load_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        """Load them; returns when they can be searched. Lite: nothing to do."""

    def release_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        """Take them out of memory: rows are kept, searches no longer see them. Lite cannot: `UsageError`."""

    def index_progress(self, collection: str, field: str = VECTOR_FIELD) -> tuple[int, int]:
        """Rows in the index and rows that wait for it, (indexed, pending); growing segments count in neither."""

    def clock_ms(self) -> int | None:
        """The server's clock in epoch milliseconds; None from a server without a clock (Lite)."""


def as_of(instant: int | None) -> dict[str, Any]:
    """Options of `query` and `VectorSearch` for reads that see every write acknowledged before that instant.

    All reads with one instant wait once, until the server has passed it. A strong read waits every time, because it is
    as of its own moment (some 300 ms on 2.3.5); without an instant the reads are strong.
    """
    return {"strong": True} if instant is None else {"since": instant}
