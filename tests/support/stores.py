"""A collection with its ledger, marks and writers on any Milvus, and what is in it partition by partition."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.records import Delete, Put
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.opening import open_collection, open_ledger, open_marks
from pipeline.store.collection.schema import ledger_name, marks_name
from pipeline.store.milvus.api import MilvusApi, MilvusServerApi
from pipeline.store.partition_names import Partitioning
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.append_writer import AppendWriter, Writer
from pipeline.store.writing.ledger.ledger_rows import ENTRY_FIELDS, row_entry
from pipeline.store.writing.protocol.decisions import Applied, Entry
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.upsert_writer import UpsertWriter
from tests.support.documents import DIMENSION, embed_all
from tests.support.names import unique


@dataclass(frozen=True, slots=True)
class Store:
    """One collection on one server."""

    api: MilvusApi
    name: str

    def upsert_writer(
        self, *, fingerprint: str = "model", max_partitions: int = 1000, nodes: bool = False
    ) -> UpsertWriter:
        """A new worker's writer: it remembers nothing."""
        partitions, rule = self.partitions(max_partitions), Partitioning("day")
        return UpsertWriter(self.api, self.name, partitions, rule, fingerprint=fingerprint, nodes=nodes)

    def append_writer(self, policy: WritePolicy | None = None, *, nodes: bool = False) -> AppendWriter:
        policy = policy or WritePolicy()
        return AppendWriter(self.api, self.name, self.partitions(), Partitioning("day"), policy, nodes=nodes)

    def partitions(self, max_partitions: int = 1000) -> MilvusPartitions:
        return MilvusPartitions(self.api, self.name, max_partitions)

    def rows(self) -> dict[str, dict[tuple[str, int], str]]:
        """Milvus partition -> (doc_id, chunk) -> text, asked one partition at a time; empty ones left out."""
        found: dict[str, dict[tuple[str, int], str]] = {}
        for partition in self.api.partitions(self.name):
            rows = self.api.query(
                self.name, "chunk >= 0", ["doc_id", "chunk", "text"], partitions=[partition], strong=True
            )
            if rows:
                found[partition] = {(row["doc_id"], row["chunk"]): row["text"] for row in rows}
        return found

    def count(self) -> int:
        """Rows, every copy counted."""
        return self.api.count(self.name)

    def ledger_entries(self) -> list[Entry]:
        """Every entry."""
        rows = self.api.query(f"{self.name}__ledger", "kafka_partition >= -1", ENTRY_FIELDS, strong=True)
        return [row_entry(row) for row in rows]

    def ledger(self) -> dict[str, Entry]:
        """doc_id -> entry, where there is one tenant."""
        return {entry.doc_id: entry for entry in self.ledger_entries()}


def make_store(api: MilvusApi, name: str, *, dimension: int = DIMENSION) -> Store:
    """Create collection, ledger and marks."""
    open_collection(api, name, {"name": "model"}, dimension, IndexSettings("FLAT", "COSINE", {}), create=True)
    open_ledger(api, name)
    open_marks(api, name)
    return Store(api, name)


@contextmanager
def temporary_store(api: MilvusServerApi, prefix: str) -> Iterator[Store]:
    """A store on a real server, removed with the block."""
    made = make_store(api, unique(prefix))
    yield made
    for name in (made.name, ledger_name(made.name), marks_name(made.name)):
        api.drop_collection(name)


def write(writer: Writer, operations: Sequence[Put | Delete]) -> Applied:
    """Plan, embed and apply one batch."""
    plan = writer.plan(operations)
    return writer.apply(plan, embed_all(plan.to_embed))
