"""Administration of a server: collections, indexes and Milvus partitions, and whether they are loaded."""

from collections.abc import Sequence

from pymilvus import MilvusClient
from pymilvus.client.types import LoadState

from pipeline import failpoints
from pipeline.errors import MilvusStreamError, NotFound, Unavailable, UsageError
from pipeline.records import VECTOR_FIELD
from pipeline.store.milvus.api import DEFAULT_PARTITION, CollectionInfo, CollectionSpec, ServerInfo
from pipeline.store.milvus.calls import RetryingCaller
from pipeline.store.milvus.conversion import DESCRIPTION_PROPERTY, collection_info, sdk_schema
from pipeline.store.milvus.error_mapping import Call

LOAD_TIMEOUT_S = 300.0
"""Loading reads every segment: 41 s for 100 partitions of 400 rows on two cores."""
SCHEMA_TIMEOUT_S = 60.0
LATE_COLLECTION_WAITS_S = (0.1, 0.5, 1.0)
"""Before each check whether a collection that another worker is creating can be found."""
LATE_PARTITION_WAITS_S = (0.1, 0.5, 1.0)
"""2.3.5 now and then does not find a partition that several workers have just created at the same time."""
_COUNTER_BITS = 18


class CollectionAdmin:
    """The calls of `MilvusServerApi` that are not about rows."""

    def __init__(self, client: MilvusClient, server: ServerInfo, run: RetryingCaller) -> None:
        self._client = client
        self._server = server
        self._run = run

    @property
    def server(self) -> ServerInfo:
        """Version, kind and capabilities, read when the connection was opened."""
        return self._server

    def clock_ms(self) -> int | None:
        """The server's clock in epoch milliseconds; None from a server without a clock."""
        instant = self.instant()  # 46 bits of milliseconds, then 18 of a counter
        return None if instant is None else instant >> _COUNTER_BITS

    def instant(self) -> int | None:
        """This moment on the clock by which the server orders all writes; None from a server without a clock."""
        handler = getattr(self._client, "_handler", None)  # MilvusClient itself has no call for it
        if handler is None or not self._server.capabilities.has_clock:
            return None
        return int(self._run(Call("clock"), handler.alloc_timestamp)) or None

    # --- collections -------------------------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        return sorted(self._run(Call("list collections"), self._client.list_collections))

    def describe(self, collection: str) -> CollectionInfo | None:
        """The collection's schema and indexes, or None if there is none of that name.

        For an alias, the name in the result is the collection's own. Lite leaves out the parameters of an index.
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
        """Create collection and indexes and load it; completes what another worker or an earlier attempt began."""
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
        """Whether it exists after all: created by another worker, or by a call whose answer was lost."""
        for wait in LATE_COLLECTION_WAITS_S if self._server.capabilities.collection_appears_late else (0.0,):
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
        """Load the whole collection and wait until it is; nothing to do where it is loaded."""
        call = Call("load", collection, "schema")
        self._run(call, self._client.load_collection, collection, attempt_s=LOAD_TIMEOUT_S)
        self._remember_loaded(collection)

    def _remember_loaded(self, collection: str) -> None:
        """From now on "not loaded" means that the server was restarted and is loading it again."""
        if self._server.capabilities.reloads_after_restart:
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
        """Create it and make sure that it is loaded; success too if it exists.

        Raises `RecordRejected` ("too_many_partitions") where the server allows no more.
        """
        call = Call("create_partition", collection, "schema")
        try:
            self._run(call, self._client.create_partition, collection, partition, attempt_s=SCHEMA_TIMEOUT_S)
        except MilvusStreamError:
            # It exists (which Lite reports as some error), or the answer of an earlier attempt was lost.
            if partition not in self.partitions(collection):
                raise
        failpoints.hit("partition_created")
        if not self._server.capabilities.needs_load:
            return
        for wait in LATE_PARTITION_WAITS_S:
            try:
                self._see_loaded(collection, partition)
                return
            except NotFound:
                self._run.pause(wait)
        try:
            self._see_loaded(collection, partition)
        except NotFound as error:
            if partition in self.partitions(collection):  # a busy server takes longer: that must not end a worker
                raise Unavailable(f"Milvus lists partition {partition} and does not find it yet: {error}") from error
            raise

    def _see_loaded(self, collection: str, partition: str) -> None:
        """Load a new partition where it is not loaded with its collection, as where only some partitions were loaded.

        It must not become the only loaded partition of a collection that is released.
        """
        if self._loaded(collection) and not self._loaded(collection, partition):
            self.load_partitions(collection, [partition])

    def drop_partition(self, collection: str, partition: str) -> None:
        """Release and remove it with all rows; no error if it is gone already."""
        call = Call("drop_partition", collection, "schema")
        try:
            if self._server.capabilities.needs_load:
                names = [partition]
                self._run(call, self._client.release_partitions, collection, names, attempt_s=SCHEMA_TIMEOUT_S)
            self._run(call, self._client.drop_partition, collection, partition, attempt_s=SCHEMA_TIMEOUT_S)
        except NotFound:
            return

    def loaded_partitions(self, collection: str) -> list[str]:
        """The Milvus partitions that searches cover, a subset of `partitions`."""
        if not self._server.capabilities.needs_load:
            # After a restart Lite answers that none is loaded, and yet searches all of them.
            return self.partitions(collection)
        return [name for name in self.partitions(collection) if self._loaded(collection, name)]

    def _loaded(self, collection: str, partition: str = "") -> bool:
        call = Call("load state", collection)
        answer = self._run(call, self._client.get_load_state, collection, partition)
        return bool(answer["state"] == LoadState.Loaded)

    def load_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        """Load them; returns when they can be searched. Nothing to do on Lite, where all are loaded."""
        if partitions and self._server.capabilities.needs_load:
            call = Call("load", collection, "schema")
            self._run(call, self._client.load_partitions, collection, list(partitions), attempt_s=LOAD_TIMEOUT_S)

    def release_partitions(self, collection: str, partitions: Sequence[str]) -> None:
        """Take them out of memory: rows are kept, searches no longer see them. `UsageError` on Lite."""
        if not self._server.capabilities.needs_load:
            raise UsageError("Milvus Lite keeps every partition loaded: release needs a Milvus server")
        if partitions:
            call = Call("release", collection, "schema")
            self._run(call, self._client.release_partitions, collection, list(partitions), attempt_s=LOAD_TIMEOUT_S)

    def index_progress(self, collection: str, field: str = VECTOR_FIELD) -> tuple[int, int]:
        """Rows in the index and rows that wait for it: (indexed, pending)."""
        # For a name that it does not have, Lite answers all indexes.
        answer = None
        if field in self._indexed(collection):
            answer = self._run(Call("describe index", collection), self._client.describe_index, collection, field)
        if not answer:
            raise NotFound(f"collection {collection!r} has no index on {field!r}")
        return int(answer["indexed_rows"]), int(answer["pending_index_rows"])
