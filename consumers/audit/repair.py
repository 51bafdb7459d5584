"""Repair of documents: the last record of each is written again, through the same writer as in ingest."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.audit.reading import ReplayedDecision, StoredReader
from consumers.audit.workspace import StoredDocument
from consumers.kafka import LiveGroup
from pipeline.audit import AuditScope, Finding, RepairPlan, plan_repair
from pipeline.chunking import Chunker
from pipeline.embedding import Embedder
from pipeline.errors import LeaseExpired, NotFound, RateLimited, UsageError
from pipeline.records import Chunk, Delete, EmbeddedPut, Position, Put, SourceRecord
from pipeline.store import Ledger, MilvusServerApi, Writer, ledger_name

log = structlog.get_logger(__name__)

_BATCH = 200
"""Documents written at a time."""

Chosen = tuple[StoredDocument, Put | Delete, RepairPlan]
Vectors = Mapping[Position, tuple[Sequence[Chunk], NDArray[np.float32]]]


class Repairer:
    """Writes documents again from their last record, while the live group has no members: one writer a document.

    Embedding takes long, so it comes first. Then, within one absence of workers (see LiveGroup), for each document:

    1. Its ledger entry is read again. A document that has changed since it was compared is left as it is.
    2. A pending ledger entry is written whose footprint covers all rows found.
    3. Rows that no footprint can cover (their id was computed for another Milvus partition) are deleted by id.
    4. The last operation goes through the writer, which deletes exactly the surplus.

    Rows of other programs are never touched.
    """

    batch = _BATCH

    def __init__(
        self,
        group_id: str,
        api: MilvusServerApi,
        collection: str,
        *,
        records_at: Callable[[Collection[Position]], Iterable[SourceRecord]],
        decision: ReplayedDecision,
        chunker: Chunker,
        model: Embedder,
        writer: Callable[[Ledger | None], Writer],
        live: LiveGroup,
        check_member: Callable[[], None],
        append: bool,
        flush: bool,
    ) -> None:
        """`group_id`: of the live group; `records_at` reads the records at these positions again.

        `writer` creates a writer with this ledger; `check_member` raises if another job may write the collection.
        """
        self._group_id = group_id
        self._records_at = records_at
        self._api = api
        self._collection = collection
        self._decision = decision
        self._chunker = chunker
        self._model = model
        self._live = live
        self._check_member = check_member
        self._absence = 0
        """The absence of workers in which the documents of the batch were read the last time."""
        self._append = append
        self._flush = flush
        self._ledger = None if append else StoredReader(api, collection).ledger()
        self._writer = writer(self._ledger)

    def check(self) -> None:
        """Raise UsageError while ingest workers run, whose concurrent writes could be undone; MembershipLost."""
        self._check_member()
        if not self._live.absent():
            raise UsageError(
                f"group {self._group_id} has running ingest workers, and --repair writes the same documents: a "
                "newer version could be undone. Stop the workers, repair, start them again; without --repair an audit "
                "may run beside them"
            )

    def left_s(self) -> float:
        """Return the seconds in which no worker begins to write, for each request. Raises LeaseExpired."""
        return self._live.left_s(self._absence)

    def repair(self, found: Sequence[tuple[StoredDocument, Finding]], scope: AuditScope) -> Mapping[bytes, str]:
        """Write these documents again; returns the keys of those that could not be, with a stable reason.

        Raises UsageError if workers have been started, MembershipLost.
        """
        refused: dict[bytes, str] = {}
        repairable: list[tuple[StoredDocument, Position, RepairPlan]] = []
        for document, finding in found:
            if not any(problem.repairable for problem in finding.problems):
                if finding.problems:
                    refused[document.key] = "not_repairable"
            elif finding.expected is None:
                refused[document.key] = "no_record"
            else:
                plan = plan_repair(finding.expected, document.entry, document.rows, scope)
                repairable.append((document, finding.expected.position, plan))
        operations = self._operations({position for _, position, _ in repairable}, scope)
        chosen: list[Chosen] = []
        for document, position, plan in repairable:
            if position in operations:
                chosen.append((document, _ranked(operations[position], plan), plan))
            else:
                refused[document.key] = "record_gone"
        vectors = self._embed([operation for _, operation, _ in chosen if isinstance(operation, Put)])
        self.check()
        self._absence = self._live.absence
        unchanged = self._unchanged(chosen)
        refused |= {document.key: "changed" for document, *_ in chosen if document.key not in unchanged}
        try:
            return refused | self._write([choice for choice in chosen if choice[0].key in unchanged], vectors)
        except LeaseExpired:
            self.check()
            raise

    def finish(self) -> None:
        """Flush what was written, if ingest does."""
        if not self._flush:
            return
        for name in (self._collection, *(() if self._append else (ledger_name(self._collection),))):
            try:
                self._api.flush(name)
            except RateLimited as error:
                log.warning("audit.not_flushed", collection=name, why=str(error), what="the server flushes by itself")

    def _operations(self, positions: set[Position], scope: AuditScope) -> dict[Position, Put | Delete]:
        operations: dict[Position, Put | Delete] = {}
        for record in self._records_at(positions):
            operation, _ = self._decision.operation(record)
            if isinstance(operation, Put | Delete):
                topic_id = scope.topic_ids.get(record.position.topic, "")
                operations[record.position] = replace(operation, topic_id=topic_id)
        return operations

    def _embed(self, puts: Sequence[Put]) -> Vectors:
        chunked = self._chunker.chunk([put.document.text for put in puts])
        vectors = self._model.embed([chunk for document in chunked for chunk in document])
        embedded, start = {}, 0
        for put, chunks in zip(puts, chunked, strict=True):
            embedded[put.position] = chunks, vectors[start : start + len(chunks)]
            start += len(chunks)
        return embedded

    def _unchanged(self, chosen: Sequence[Chosen]) -> set[bytes]:
        """Read the ledger again, as of now; the keys of the documents whose entry is the one that was compared."""
        if self._ledger is None:
            return {document.key for document, *_ in chosen}
        self._ledger.forget()
        stored = self._ledger.read(document.name for document, *_ in chosen)
        return {document.key for document, *_ in chosen if stored[document.name][0] == document.entry}

    def _write(self, chosen: Sequence[Chosen], vectors: Vectors) -> dict[bytes, str]:
        if not chosen:
            return {}
        self._begin(chosen)
        plan = self._writer.plan([operation for _, operation, _ in chosen])
        refused = {operation.position: reason for operation, reason, _ in plan.refused}
        puts = []
        for put in plan.to_embed:
            chunks, own = vectors[put.position]
            if np.all(np.isfinite(own)):
                puts.append(EmbeddedPut(put, chunks, own))
            else:
                refused[put.position] = "vector_not_finite"
        applied = self._writer.apply(plan, puts)
        refused |= {operation.position: "refused_by_milvus" for operation, _ in applied.set_aside}
        refused |= {operation.position: reason for operation, reason, _ in applied.refused}
        return {document.key: refused[op.position] for document, op, _ in chosen if op.position in refused}

    def _begin(self, chosen: Sequence[Chosen]) -> None:
        """Write the pending entries first: after a crash, the next audit finds these documents and repairs them."""
        if self._ledger is not None:
            intents = {document.name: plan.intent for document, _, plan in chosen}
            self._ledger.cache(self._ledger.read(intents))
            self._ledger.write(list(intents.values()))
            self._ledger.release(intents)
        strays: dict[str, list[str]] = {}
        for _, _, plan in chosen:
            for partition, ids in plan.strays.items():
                strays.setdefault(partition, []).extend(ids)
        for partition, ids in strays.items():
            for start in range(0, len(ids), 1000):
                try:
                    self._api.delete(self._collection, partition, ids[start : start + 1000])
                except NotFound:
                    break  # the Milvus partition was dropped with its rows


def _ranked(operation: Put | Delete, plan: RepairPlan) -> Put | Delete:
    rank = None if plan.rank is None else plan.rank._replace(topic_id=operation.topic_id)
    return replace(operation, rank=rank)
