"""The collections, indexes and Milvus partitions of a server: what is there, and whether it is loaded."""

from collections.abc import Sequence

from pymilvus import MilvusClient
from pymilvus.client.types import LoadState

from pipeline import failpoints
from pipeline.errors import MilvusStreamError, NotFound, UsageError
from pipeline.store.milvus.api import CollectionInfo, CollectionSpec, ServerInfo
from pipeline.store.milvus.calls import RetryingCaller
from pipeline.store.milvus.conversion import DESCRIPTION_PROPERTY, collection_info, sdk_schema
from pipeline.store.milvus.error_mapping import Call

DEFAULT_PARTITION = "_default"
LOAD_TIMEOUT_S = 300.0
"""Loading reads every segment: 41 s for 100 partitions of 400 rows on two cores."""
SCHEMA_TIMEOUT_S = 60.0
LITE_WAITS_S = (0.1, 0.5, 1.0)
"""Looks for a collection that Lite may be making for another worker at this moment."""
_COUNTER_BITS = 18


class CollectionAdmin:
    """The part of `MilvusServerApi` that is not about rows."""

    def __init__(self, client: MilvusClient, server: ServerInfo, run: RetryingCaller) -> None:
        self._client = client
        self._server = server
        self._run = run

    @property
    def server(self) -> ServerInfo:
        """Version and kind of the server, asked when the connection was opened."""
        return self._server

    def clock_ms(self) -> int | None:
        """The server's clock in epoch milliseconds: an instant has 46 bits of them, and 18 of a counter."""
        instant = self.instant()
        return None if instant is None else instant >> _COUNTER_BITS

    def instant(self) -> int | None:
        """See `MilvusApi.instant`. All writes get their place in the server's order by the clock asked here."""
        handler = getattr(self._client, "_handler", None)  # MilvusClient itself has no call for it
        if handler is None or self._server.lite:
            return None
        return int(self._run(Call("clock"), handler.alloc_timestamp)) or None

    # --- collections -------------------------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        return sorted(self._run(Call("list collections"), self._client.list_collections))

    def describe(self, collection: str) -> CollectionInfo | None:
        """The collection's schema and indexes, or None if there is none of that name.

        For an alias the name inside is the collection's own. Lite does not tell the parameters of an index.
        """
        call = Call("describe", collection)
        try:
            raw = self._run(call, self._client.describe_collection, collection)
            names = self._run(call, self._client.list_indexes, collection)
            indexes = [self._run(call, self._client.describe_index, collection, name) for name in names]
        except NotFound:
            return None
        return collection_info(raw, {str(index["field_name"]): index for index in indexes if index})

    def create_collection(self, spec: CollectionSpec) -> None:
        """Create collection and indexes and load it, finishing what another worker or an earlier try began."""
        call = Call("create_collection", spec.name, "schema")
        try:
            self._run(
                call,
                self._client.create_collection,
                spec.name,
                schema=sdk_schema(spec),
                properties={DESCRIPTION_PROPERTY: spec.description},
                consistency_level="Bounded",
                attempt_s=SCHEMA_TIMEOUT_S,
            )
        except MilvusStreamError:
            if not self._appears(spec.name):
                raise
        self._create_indexes(spec)
        self.load_collection(spec.name)

    def _appears(self, collection: str) -> bool:
        """Whether it is there after all: made by another worker, or by a call whose answer was lost."""
        # Lite refuses a name as soon as its folder is there, and finds the collection only some milliseconds later.
        for wait in LITE_WAITS_S if self._server.lite else (0.0,):
            self._run.pause(wait)
            if self.describe(collection) is not None:
                return True
        return False

    def _create_indexes(self, spec: CollectionSpec) -> None:
        call = Call("create_index", spec.name, "schema")
        for field in spec.indexes.keys() - self._indexed(spec.name):
            wanted = spec.indexes[field]
            index = self._client.prepare_index_params()
            index.add_index(
                field,
                index_name=field,
                index_type=wanted.type,
                metric_type=wanted.metric,
                params=dict(wanted.params),
            )
            try:
                self._run(call, self._client.create_index, spec.name, index, attempt_s=SCHEMA_TIMEOUT_S)
            except MilvusStreamError:
                if field not in self._indexed(spec.name):
                    raise

    def _indexed(self, collection: str) -> set[str]:
        info = self.describe(collection)
        return set(info.indexes) if info is not None else set()

    def load_collection(self, collection: str) -> None:
        """Bring the whole collection into memory and wait for it; nothing to do where it is there."""
        call = Call("load", collection, "schema")
        self._run(call, self._client.load_collection, collection, attempt_s=LOAD_TIMEOUT_S)
        if not self._server.lite:
            self._run.loaded(collection)

    def drop_collection(self, collection: str) -> None:
        """Remove the collection with all rows; no error if it is gone already."""
        call = Call("drop_collection", collection, "schema")
        self._run(call, self._client.drop_collection, collection, attempt_s=SCHEMA_TIMEOUT_S)
        self._run.forget(collection)

    # --- Milvus partitions -------------------------------------------------------------------------------------

    def partitions(self, collection: str) -> list[str]:
        """Names of the collection's Milvus partitions without `_default`, sorted."""
        names = self._run(Call("list partitions", collection), self._client.list_partitions, collection)
        return sorted(name for name in names if name != DEFAULT_PARTITION)

    def create_partition(self, collection: str, partition: str) -> None:
        """Create it and see it loaded; success too if it exists.

        Raises `RecordRejected` ("too_many_partitions") where the server has no room for another one.
        """
        call = Call("create_partition", collection, "schema")
        try:
            self._run(call, self._client.create_partition, collection, partition, attempt_s=SCHEMA_TIMEOUT_S)
        except MilvusStreamError:
            # Lite refuses a name that exists, in words that say nothing; elsewhere an answer may have been lost.
            if partition not in self.partitions(collection):
                raise
        failpoints.hit("partition_created")
        if self._server.lite:
            return
        # Milvus loads a new partition with a loaded collection, but not with one of which only parts were loaded.
        # Of a collection that is not loaded at all it must not become the only part.
        if self._loaded(collection) and not self._loaded(collection, partition):
            self.load_partitions(collection, [partition])

    def drop_partition(self, collection: str, partition: str) -> None:
        """Release and remove it with all rows; no error if it is gone already."""
        call = Call("drop_partition", collection, "schema")
        try:
            if not self._server.lite:
                names = [partition]
                self._run(call, self._client.release_partitions, collection, names, attempt_s=SCHEMA_TIMEOUT_S)
            self._run(call, self._client.drop_partition, collection, partition, attempt_s=SCHEMA_TIMEOUT_S)
        except NotFound:
            return

    def loaded_partitions(self, collection: str) -> list[str]:
        """The Milvus partitions that searches cover, a subset of `partitions`."""
        if self._server.lite:
            # After a restart it says that none is loaded, and yet searches all of them once the collection is.
            return self.partitions(collection)
        return [name for name in self.partitions(collection) if self._loaded(collection, name)]

    def _loaded(self, collection: str, partition: str = "") -> bool:
        call = Call("load state", collection)
        answer = self._run(call, self._client.get_load_state, collection, partition)
        return bool(answer["state"] == LoadState.Loaded)

    def load_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        """Load them; returns when they can be searched. Lite, where all are loaded: nothing to do."""
        if partitions and not self._server.lite:
            call = Call("load", collection, "schema")
            self._run(call, self._client.load_partitions, collection, list(partitions), attempt_s=LOAD_TIMEOUT_S)

    def release_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        """Take them out of memory: rows are kept, searches no longer see them. `UsageError` on Lite."""
        if self._server.lite:
            raise UsageError("Milvus Lite keeps every partition loaded: release needs a Milvus server")
        if partitions:
            call = Call("release", collection, "schema")
            self._run(call, self._client.release_partitions, collection, list(partitions), attempt_s=LOAD_TIMEOUT_S)

    def index_progress(self, collection: str, field: str = "vector") -> tuple[int, int]:
        """Rows in the index and rows that wait for it: (indexed, pending)."""
        # Asked for by a name it does not have, Lite answers all indexes at once.
        answer = None
        if field in self._indexed(collection):
            answer = self._run(Call("describe index", collection), self._client.describe_index, collection, field)
        if not answer:
            raise NotFound(f"collection {collection!r} has no index on {field!r}")
        return int(answer["indexed_rows"]), int(answer["pending_index_rows"])
