"""Repair of documents: the last record of each is written again, through the same writer as in ingest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import structlog

from consumers.audit.reading import ReplayedDecision, StoredReader
from consumers.audit.workspace import StoredDocument
from consumers.kafka import KafkaSettings, records_at
from pipeline.audit import AuditScope, Finding, RepairPlan, plan_repair
from pipeline.chunking import Chunker
from pipeline.embedding import Embedder
from pipeline.errors import NotFound, RateLimited, UsageError
from pipeline.records import Delete, EmbeddedPut, Position, Put
from pipeline.store import Ledger, MilvusServerApi, Writer, ledger_name

log = structlog.get_logger(__name__)

_BATCH = 200
"""Documents written at a time."""

Chosen = tuple[StoredDocument, Position, RepairPlan]


class Repairer:
    """Writes documents again from their last record, while the live group has no members: one writer a document.

    For each document:

    1. A pending ledger entry is written whose footprint covers all rows found.
    2. Rows that no footprint can cover (their id was computed for another Milvus partition) are deleted by id.
    3. The last operation goes through the writer, which deletes exactly the surplus.

    Rows of other programs are never touched.
    """

    batch = _BATCH

    def __init__(
        self,
        kafka: KafkaSettings,
        api: MilvusServerApi,
        collection: str,
        *,
        decision: ReplayedDecision,
        chunker: Chunker,
        model: Embedder,
        writer: Callable[[Ledger | None], Writer],
        active: Callable[[], bool],
        append: bool,
        flush: bool,
    ) -> None:
        """`writer` creates a writer with this ledger; `active`: whether the live group has members."""
        self._kafka = kafka
        self._api = api
        self._collection = collection
        self._decision = decision
        self._chunker = chunker
        self._model = model
        self._make_writer = writer
        self._active = active
        self._append = append
        self._flush = flush
        self._ledger = None if append else StoredReader(api, collection, append=append).ledger()
        self._writer = writer(self._ledger)

    def check(self) -> None:
        """Raise UsageError while ingest workers run, whose concurrent writes could be undone."""
        if self._active():
            raise UsageError(
                f"group {self._kafka.group_id} has running ingest workers, and --repair writes the same documents: a "
                "newer version could be undone. Stop the workers, repair, start them again; without --repair an audit "
                "may run beside them"
            )

    def repair(self, found: Sequence[tuple[StoredDocument, Finding]], scope: AuditScope) -> Mapping[bytes, str]:
        """Write these documents again; returns the keys of those that could not be, with a stable reason."""
        self.check()
        refused: dict[bytes, str] = {}
        chosen: list[Chosen] = []
        for document, finding in found:
            if not any(problem.repairable for problem in finding.problems):
                if finding.problems:
                    refused[document.key] = "not_repairable"
            elif finding.expected is None:
                refused[document.key] = "no_record"
            else:
                plan = plan_repair(finding.expected, document.entry, document.rows, scope)
                chosen.append((document, finding.expected.position, plan))
        operations = self._operations({position for _, position, _ in chosen})
        ready = [choice for choice in chosen if choice[1] in operations]
        refused |= {document.key: "record_gone" for document, position, _ in chosen if position not in operations}
        if ready:
            self._begin(ready)
            reasons = self._write([_ranked(operations[position], plan, scope) for _, position, plan in ready])
            refused |= {document.key: reasons[position] for document, position, _ in ready if position in reasons}
        return refused

    def finish(self) -> None:
        """Flush what was written, if ingest does."""
        if not self._flush:
            return
        for name in (self._collection, *(() if self._append else (ledger_name(self._collection),))):
            try:
                self._api.flush(name)
            except RateLimited as error:
                log.warning("audit.not_flushed", collection=name, why=str(error), what="the server flushes by itself")

    def _operations(self, positions: set[Position]) -> dict[Position, Put | Delete]:
        operations: dict[Position, Put | Delete] = {}
        for record in records_at(self._kafka, positions):
            operation, _ = self._decision.operation(record)
            if isinstance(operation, Put | Delete):
                operations[record.position] = operation
        return operations

    def _begin(self, chosen: Sequence[Chosen]) -> None:
        """Write the pending entries first: after a crash, the next audit finds these documents and repairs them."""
        if self._ledger is not None:
            intents = {document.name: plan.intent for document, _, plan in chosen}
            stored = self._ledger.read(intents)
            self._ledger.cache({key: entry for key, (entry, _) in stored.items()})
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

    def _write(self, operations: Sequence[Put | Delete]) -> dict[Position, str]:
        plan = self._writer.plan(operations)
        chunked = self._chunker.chunk([put.document.text for put in plan.to_embed])
        vectors = self._model.embed([chunk for document in chunked for chunk in document])
        refused = {operation.position: reason for operation, reason, _ in plan.refused}
        puts, start = [], 0
        for put, chunks in zip(plan.to_embed, chunked, strict=True):
            own = vectors[start : start + len(chunks)]
            start += len(chunks)
            if np.all(np.isfinite(own)):
                puts.append(EmbeddedPut(put, chunks, own))
            else:
                refused[put.position] = "vector_not_finite"
        applied = self._writer.apply(plan, puts)
        refused |= {operation.position: "refused_by_milvus" for operation, _ in applied.set_aside}
        return refused | {operation.position: reason for operation, reason, _ in applied.refused}


def _ranked(operation: Put | Delete, plan: RepairPlan, scope: AuditScope) -> Put | Delete:
    topic_id = scope.topic_ids.get(operation.position.topic, "")
    rank = None if plan.rank is None else replace(plan.rank, topic_id=topic_id)
    return replace(operation, topic_id=topic_id, rank=rank)
