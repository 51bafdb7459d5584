"""The writer interface, and the writer for `append` mode, where every record is a separate document."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol

from typing_extensions import override

from pipeline.errors import NotFound
from pipeline.records import Chunk, Delete, EmbeddedPut, Position, Put
from pipeline.store.collection.stamp import AppendIds
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.partition_names import Partitioning
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.protocol.decisions import Applied, Change, Earlier, Entry, Key, Refusal, WritePlan
from pipeline.store.writing.requests.upsert_requests import K, RowGroup, Sent, UpsertRequests, WritePolicy
from pipeline.store.writing.rows import append_rows, row_sizes
from pipeline.store.writing.vector_reuse import Vectors

DEFAULT_POLICY = WritePolicy()


class Writer(Protocol):
    """Stores micro-batches: `plan` decides, `apply` writes.

    One thread may plan while another one applies. Plans are applied in the order in which they were made. A plan may be
    out of date when it is applied, because batches before it were applied since; then `apply` decides again.

    `plan` and `apply` raise `Unavailable` while Milvus cannot be used. They may be repeated with the same arguments any
    number of times.
    """

    def plan(self, operations: Sequence[Change], folded: Sequence[Earlier] = ()) -> WritePlan:
        """Decide what is to be done with each operation. Raises ValueError for a repeated key in upsert mode.

        `folded`: operations of the batch that were folded into these.
        """

    def reusable(self, plan: WritePlan, chunks: Sequence[Sequence[Chunk]]) -> Sequence[Vectors]:
        """Stored vectors for the texts of these chunks, which are those of each document in `plan.to_embed`."""

    def unfinished(self, keys: Collection[Key], doubted: Collection[Key]) -> Mapping[Key, "Unfinished"]:
        """Those of the documents whose rows are not those of one version: a change was begun and not finished.

        Of the `doubted` ones that no plan holds, the rows are compared with the ledger, too.
        """

    def apply(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> Applied:
        """Write rows and ledger; when it returns, Milvus has acknowledged. A refused document keeps its stored version.

        `puts`: those of `plan.to_embed` that could be embedded.
        """

    def forget(self) -> None:
        """Drop what is cached, because another worker may have written since. No plan may be in flight."""


class Unfinished(NamedTuple):
    """A document between two versions."""

    entry: Entry
    in_flight: bool
    """A plan that is not applied yet holds it and may finish it."""


class DocumentRows(Generic[K]):
    """Upserts and deletes of rows in their Milvus partitions, shared by both writers."""

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        partitions: MilvusPartitions,
        partitioning: Partitioning,
        policy: WritePolicy,
    ) -> None:
        self._api = api
        self._collection = collection
        self._partitions = partitions
        self._partitioning = partitioning
        self._max_ids = policy.max_rows
        self._requests: UpsertRequests[K] = UpsertRequests(api, collection, policy)

    def upsert(self, groups: Mapping[str, Sequence[RowGroup[K]]], puts: Iterable[Put], touched: set[K]) -> Sent[K]:
        """Upsert the groups of each Milvus partition, with the rows of these puts, as `UpsertRequests` does."""
        sent: Sent[K] = Sent()
        for partition, partition_groups in groups.items():
            try:
                self._requests.send(partition, partition_groups, sent=sent, touched=touched)
            except NotFound:
                # Retention has dropped the Milvus partition since this worker last read the list.
                self._partitions.forget()
                if self._partitions.ensure({partition: self._partitioning.needed(puts)[partition]}):
                    refusal = too_many(partition)
                    sent.refused.update({group.owner: refusal for group in partition_groups})
                else:
                    self._requests.send(partition, partition_groups, sent=sent, touched=touched)
        return sent

    def delete(self, partition: str, ids: Sequence[str]) -> None:
        """Delete these rows of a Milvus partition."""
        for start in range(0, len(ids), self._max_ids):
            try:
                self._api.delete(self._collection, partition, ids[start : start + self._max_ids])
            except NotFound:
                return  # the Milvus partition was dropped, and the rows with it


class AppendWriter(Writer):
    """The `Writer` that stores every record under ids made of its topic's id and its Kafka position.

    A repetition writes the same rows again, so no ledger is needed.
    """

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        partitions: MilvusPartitions,
        partitioning: Partitioning,
        policy: WritePolicy = DEFAULT_POLICY,
        *,
        append_ids: AppendIds = "topic-id",
        nodes: bool = False,
    ) -> None:
        """`append_ids`: as the collection's stamp says. `nodes`: rows have LlamaIndex's fields."""
        self._nodes = nodes
        self._with_topic_id = append_ids == "topic-id"
        self._rows: DocumentRows[Position] = DocumentRows(api, collection, partitions, partitioning, policy)
        self._partitions = partitions
        self._partitioning = partitioning

    @override
    def plan(self, operations: Sequence[Change], folded: Sequence[Earlier] = ()) -> WritePlan:
        puts = [operation for operation in operations if isinstance(operation, Put)]
        deletes = [operation for operation in operations if isinstance(operation, Delete)]
        message = "a delete cannot be applied in append mode, where records are not versions of a document"
        refused: list[Refusal] = [(delete, "delete_in_append_mode", message) for delete in deletes]
        full = self._partitions.ensure(self._partitioning.needed(puts))
        refused += [(put, *too_many(self._place(put))) for put in puts if self._place(put) in full]
        return WritePlan([put for put in puts if self._place(put) not in full], refused=refused)

    @override
    def reusable(self, plan: WritePlan, chunks: Sequence[Sequence[Chunk]]) -> Sequence[Vectors]:
        # No record is a version of another one.
        return [{}] * len(chunks)

    @override
    def unfinished(self, keys: Collection[Key], doubted: Collection[Key]) -> Mapping[Key, Unfinished]:
        # A repetition writes the same rows again, whatever is there.
        return {}

    @override
    def apply(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> Applied:
        groups: dict[str, list[RowGroup[Position]]] = {}
        by_position = {embedded.put.position: embedded.put for embedded in puts}
        for embedded in puts:
            topic_id = embedded.put.topic_id if self._with_topic_id else None
            rows, sizes = append_rows(embedded, topic_id, nodes=self._nodes), row_sizes(embedded, nodes=self._nodes)
            group = RowGroup(embedded.put.position, rows, sizes)
            groups.setdefault(self._place(embedded.put), []).append(group)
        sent = self._rows.upsert(groups, [embedded.put for embedded in puts], set())
        refused = [(by_position[position], *refusal) for position, refusal in sent.refused.items()]
        set_aside = [(by_position[position], words) for position, words in sent.set_aside.items()]
        written = len(puts) - len(refused) - len(set_aside)
        return Applied(sent.rows, 0, written=written, refused=refused, set_aside=set_aside)

    @override
    def forget(self) -> None:
        self._partitions.forget()

    def _place(self, put: Put) -> str:
        return self._partitioning.place(put.document.event_time, put.timestamp_ms)


def too_many(milvus_partition: str) -> tuple[str, str]:
    """Reason and message for a document whose Milvus partition cannot be created."""
    return (
        "too_many_partitions",
        f"Milvus partition {milvus_partition} would be one more than partitioning.max_partitions (less the reserve for "
        "event times near their record) or the server allows: correct the event time, raise the limit, or drop old "
        "Milvus partitions",
    )
