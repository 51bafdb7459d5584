"""What the store, the ledger and the query side ask of a Milvus server; implemented by client.py and by a fake."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.store.milvus.write_lease import LeftS

Row = Mapping[str, Any]
"""Field name -> value; a vector is a float32 array of shape (dimension,). Undeclared names go to the dynamic field."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What kind of Milvus answered."""

    version: str
    """As the server reports it, e.g. `v2.3.5-lite`, `milvus_lite-3.2.2`, `3.0.2`."""
    number: tuple[int, int, int]
    """The version to compare with, e.g. (2, 3, 5)."""
    lite: bool
    """Milvus Lite: one embedded process with other limits and error codes. (PyPI's full 2.3.5 server is not Lite.)"""

    @property
    def bm25(self) -> bool:
        """Whether a BM25 function can fill a sparse field: Milvus 2.5 or newer, or Lite."""
        return self.lite or self.number >= (2, 5, 0)


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """One declared field of a collection."""

    name: str
    type: str
    """Milvus's name: VARCHAR, INT64, FLOAT_VECTOR, BOOL, SPARSE_FLOAT_VECTOR …"""
    primary: bool = False
    dimension: int | None = None
    max_length: int | None = None


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
    """One row found by a vector search."""

    id: str
    score: float
    """COSINE and IP: higher is nearer; L2: lower is nearer."""
    fields: Mapping[str, Any]


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


class MilvusApi(Protocol):
    """A Milvus server. Calls block, each within its deadline; names and expressions are already validated.

    Raises, from pipeline.errors: `Unavailable` (nothing happened, try later), `RateLimited`, `OutcomeUnknown` (a write
    without an answer), `RowsRefused` (the content of a row), `RequestTooLarge` (over 64 MiB), `NotFound` (collection or
    Milvus partition missing). Short outages are retried inside by one policy; what is raised has outlasted it.
    """

    @property
    def server(self) -> ServerInfo:
        """Version and kind of the server, asked once."""

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
        """From now on `upsert` and `delete` are only sent if they end within `left_s()`; else they raise LeaseExpired.

        What keeps a worker that was stopped or cut off from Kafka from writing over its successor's rows.
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
        """Rows that match; with `strong` every write acknowledged before the call is seen, else up to some 100 ms old.

        `since`: every write acknowledged before that `instant` is seen. An empty expression needs a limit. No order is
        promised. `$meta` as in `search`; `timeout` in seconds.
        """

    def instant(self) -> int | None:
        """This moment on the server's own clock, for `query(since=…)`; None where it does not tell (Lite)."""

    def search(
        self,
        collection: str,
        vectors: NDArray[np.float32],
        limit: int,
        *,
        field: str = "vector",
        expression: str = "",
        fields: Sequence[str] = (),
        partitions: Sequence[str] | None = None,
        params: Mapping[str, Any] | None = None,
        strong: bool = False,
        timeout: float | None = None,
    ) -> list[list[Hit]]:
        """The nearest rows of each query vector, shape (queries, dimension); best first. `timeout` in seconds.

        `$meta` among the fields stands for all metadata of the row, whatever its names.
        """

    def count(self, collection: str, *, partitions: Sequence[str] | None = None) -> int:
        """Rows that a strong read sees, deletes taken into account."""

    def flush(self, collection: str) -> None:
        """Seal and persist what was acknowledged before the call; returns when done. Never call it per batch."""

    def close(self) -> None:
        """Close the connection; further calls raise `Unavailable`."""


class MilvusServerApi(MilvusApi, Protocol):
    """What a real server offers beyond `MilvusApi`: keyword search, partition residency, index progress."""

    def search_text(
        self,
        collection: str,
        texts: Sequence[str],
        limit: int,
        *,
        expression: str = "",
        fields: Sequence[str] = (),
        partitions: Sequence[str] | None = None,
        strong: bool = False,
        timeout: float | None = None,
    ) -> list[list[Hit]]:
        """The rows that match each text best by BM25 on `text`; best first.

        Lite's scores are negative, lower is better. `UsageError` unless `server.bm25`; the collection needs the
        field `sparse`.
        """

    def loaded_partitions(self, collection: str) -> list[str]:
        """The Milvus partitions that searches cover, a subset of `partitions`. Lite: all of them."""

    def load_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        """Load them; returns when they can be searched. Lite: nothing to do."""

    def release_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        """Take them out of memory: rows are kept, searches no longer see them. Lite cannot: `UsageError`."""

    def index_progress(self, collection: str, field: str = "vector") -> tuple[int, int]:
        """Rows in the index and rows that wait for it, (indexed, pending); growing segments count in neither."""

    def clock_ms(self) -> int | None:
        """The server's clock in epoch milliseconds; None where it does not tell (Lite)."""
