"""What both writers share, and the one for `append` mode, where every record is a document of its own."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.errors import NotFound
from pipeline.records import Chunk, Delete, EmbeddedPut, Put
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.partitions import Granularity, MilvusPartitions, partition_name
from pipeline.store.writing.protocol import Applied, Change, Refusal, WritePlan
from pipeline.store.writing.rows import append_rows, row_sizes
from pipeline.store.writing.upsert_requests import K, RowGroup, Sent, WritePolicy, upsert_groups
from pipeline.store.writing.vector_reuse import Vectors

DEFAULT_POLICY = WritePolicy()


class Writer(Protocol):
    """Stores micro-batches. One thread may plan while another applies; plans are applied in the order they were made.

    Both calls raise `Unavailable` while Milvus cannot be used, and may then be repeated with the same arguments for as
    long as it takes.
    """

    def plan(self, operations: Sequence[Change]) -> WritePlan:
        """Decide what is to be done. In upsert mode no key may stand twice among the operations."""

    def reusable(self, plan: WritePlan, chunks: Sequence[Sequence[Chunk]]) -> Sequence[Vectors]:
        """Vectors stored already for texts of these chunks (those of each document in `plan.to_embed`)."""

    def apply(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> Applied:
        """Do it; when it returns, Milvus has acknowledged. `puts`: those of `plan.to_embed` that could be embedded."""

    def forget(self) -> None:
        """Another worker may have written in the meantime. Call it with no plan in flight."""


class DocumentRows:
    """Upserts rows of documents into their Milvus partitions."""

    def __init__(self, api: MilvusApi, collection: str, partitions: MilvusPartitions, policy: WritePolicy) -> None:
        self._api = api
        self._collection = collection
        self._partitions = partitions
        self._policy = policy

    def upsert(self, groups: Mapping[str, Sequence[RowGroup[K]]], touched: set[K]) -> Sent[K]:
        """Upsert by Milvus partition; see `upsert_groups`."""
        sent: Sent[K] = Sent()
        for partition, some in groups.items():
            try:
                self._send(partition, some, sent, touched)
            except NotFound:
                # Retention dropped the Milvus partition after this worker saw it last.
                self._partitions.forget()
                if self._partitions.ensure({partition}):
                    refusal = too_many(partition)
                    sent.refused.update({group.owner: refusal for group in some})
                else:
                    self._send(partition, some, sent, touched)
        return sent

    def _send(self, partition: str, groups: Sequence[RowGroup[K]], sent: Sent[K], touched: set[K]) -> None:
        upsert_groups(self._api, self._collection, partition, groups, self._policy, sent=sent, touched=touched)


class AppendWriter:
    """Stores every record under ids made of its Kafka position: a redo writes the same rows, so no ledger is needed."""

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        partitions: MilvusPartitions,
        by: Granularity,
        policy: WritePolicy = DEFAULT_POLICY,
    ) -> None:
        self._rows = DocumentRows(api, collection, partitions, policy)
        self._partitions = partitions
        self._by = by

    def plan(self, operations: Sequence[Change]) -> WritePlan:
        """Every put is to be embedded, unless its Milvus partition cannot be made. A delete has nothing to name."""
        puts = [operation for operation in operations if isinstance(operation, Put)]
        deletes = [operation for operation in operations if isinstance(operation, Delete)]
        message = "a delete cannot be applied in append mode, where records are not versions of a document"
        refused: list[Refusal] = [(delete, "delete_in_append_mode", message) for delete in deletes]
        full = self._partitions.ensure({self._place(put) for put in puts})
        refused += [(put, *too_many(self._place(put))) for put in puts if self._place(put) in full]
        return WritePlan([put for put in puts if self._place(put) not in full], refused=refused)

    def reusable(self, plan: WritePlan, chunks: Sequence[Sequence[Chunk]]) -> Sequence[Vectors]:
        """Nothing: no record is a version of another."""
        return [{}] * len(chunks)

    def apply(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> Applied:
        """Upsert the rows; documents with a row that Milvus refuses are left out and told."""
        groups: dict[str, list[RowGroup[int]]] = {}
        for number, item in enumerate(puts):
            group = RowGroup(number, append_rows(item), row_sizes(item))
            groups.setdefault(self._place(item.put), []).append(group)
        sent = self._rows.upsert(groups, set())
        refused = [(puts[number].put, *refusal) for number, refusal in sent.refused.items()]
        return Applied(sent.rows, 0, written=len(puts) - len(refused), refused=refused)

    def forget(self) -> None:
        """See `Writer.forget`."""
        self._partitions.forget()

    def _place(self, put: Put) -> str:
        return partition_name(self._by, put.document.event_time)


def too_many(milvus_partition: str) -> tuple[str, str]:
    """Reason and message for a document whose Milvus partition cannot be made."""
    return (
        "too_many_partitions",
        f"Milvus partition {milvus_partition} would be one more than partitioning.max_partitions or the server allows: "
        "raise it, choose a coarser partitioning.by, or prune old partitions",
    )
