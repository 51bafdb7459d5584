"""What an audit found is mended as ingest would have written it: the last record again, through the same writer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import structlog

from consumers.audit.reading import ReplayedDecision, StoredReader
from consumers.audit.workspace import StoredDocument
from consumers.kafka import KafkaSettings, records_at
from pipeline.audit.findings import AuditScope, Finding, RepairPlan, mending
from pipeline.chunking import Chunker
from pipeline.embedding import Embedder
from pipeline.errors import NotFound, RateLimited, UsageError
from pipeline.records import Delete, EmbeddedPut, Position, Put
from pipeline.store import MilvusServerApi, Writer
from pipeline.store.collection.schema import ledger_name
from pipeline.store.writing.ledger import Ledger

log = structlog.get_logger(__name__)

_BATCH = 200
"""Documents written at a time."""

Chosen = tuple[StoredDocument, Position, RepairPlan]


class Repairer:
    """Writes documents anew from their last record. Only while the live group has no members: one writer a document.

    Per document: a pending ledger row whose footprint covers all rows found, then the last operation through the
    writer, which deletes the surplus exactly. Rows of ours that no footprint can cover (an id made for another Milvus
    partition) are deleted by id where they were found; ids that are not ours never.
    """

    batch = _BATCH

    def __init__(
        self,
        kafka: KafkaSettings,
        api: MilvusServerApi,
        collection: str,
        *,
        acceptance: ReplayedDecision,
        chunker: Chunker,
        model: Embedder,
        writer: Callable[[Ledger | None], Writer],
        active: Callable[[], bool],
        append: bool,
        flush: bool,
    ) -> None:
        """`writer` makes one that uses the ledger given; `active`: whether the live group has members."""
        self._kafka = kafka
        self._api = api
        self._collection = collection
        self._acceptance = acceptance
        self._chunker = chunker
        self._model = model
        self._make_writer = writer
        self._active = active
        self._append = append
        self._flush = flush
        self._ledger = None if append else StoredReader(api, collection, append=append).ledger()
        self._writer = writer(self._ledger)

    def check(self) -> None:
        """Raise UsageError while ingest workers run: what they write at the same moment could be undone."""
        if self._active():
            raise UsageError(
                f"group {self._kafka.group_id} has running ingest workers, and --repair writes the same documents: a "
                "newer version could be undone. Stop the workers, repair, start them again; without --repair an audit "
                "may run beside them"
            )

    def mend(self, found: Sequence[tuple[StoredDocument, Finding]], view: AuditScope) -> Mapping[bytes, str]:
        """Write these documents anew; the result is those that could not be, with a stable word for the reason."""
        self.check()
        refused: dict[bytes, str] = {}
        chosen: list[Chosen] = []
        for stored, verdict in found:
            if not any(problem.mendable for problem in verdict.problems):
                if verdict.problems:
                    refused[stored.key] = "not_mendable"
            elif verdict.wanted is None:
                refused[stored.key] = "no_record"
            else:
                mend = mending(verdict.wanted, stored.entry, stored.rows, view)
                chosen.append((stored, verdict.wanted.position, mend))
        operations = self._operations({position for _, position, _ in chosen})
        ready = [each for each in chosen if each[1] in operations]
        refused |= {stored.key: "record_gone" for stored, position, _ in chosen if position not in operations}
        if ready:
            self._begin(ready)
            why = self._write([_of_topic(operations[position], view) for _, position, _ in ready])
            refused |= {stored.key: why[position] for stored, position, _ in ready if position in why}
        return refused

    def finish(self) -> None:
        """Make what was written as durable as ingest does."""
        if not self._flush:
            return
        for name in (self._collection, *(() if self._append else (ledger_name(self._collection),))):
            try:
                self._api.flush(name)
            except RateLimited as error:
                log.warning("audit.not_flushed", collection=name, why=str(error), what="the server flushes by itself")

    def _operations(self, positions: set[Position]) -> dict[Position, Put | Delete]:
        found: dict[Position, Put | Delete] = {}
        for record in records_at(self._kafka, positions):
            operation, _ = self._acceptance.operation(record)
            if isinstance(operation, Put | Delete):
                found[record.position] = operation
        return found

    def _begin(self, chosen: Sequence[Chosen]) -> None:
        """Ledger rows first: from here on a crash leaves documents pending, which the next audit finds and mends."""
        if self._ledger is not None:
            intents = {stored.name: mend.intent for stored, _, mend in chosen}
            known = self._ledger.read(intents)
            self._ledger.hold({key: entry for key, (entry, _) in known.items()})
            self._ledger.write(list(intents.values()))
            self._ledger.release(intents)
        strays: dict[str, list[str]] = {}
        for _, _, mend in chosen:
            for partition, ids in mend.strays.items():
                strays.setdefault(partition, []).extend(ids)
        for partition, ids in strays.items():
            for start in range(0, len(ids), 1000):
                try:
                    self._api.delete(self._collection, partition, ids[start : start + 1000])
                except NotFound:
                    break  # the Milvus partition is gone, and the rows with it

    def _write(self, operations: Sequence[Put | Delete]) -> dict[Position, str]:
        plan = self._writer.plan(operations)
        chunked = self._chunker.chunk([put.document.text for put in plan.to_embed])
        vectors = self._model.embed([chunk for document in chunked for chunk in document])
        refused = {operation.position: reason for operation, reason, _ in plan.refused}
        puts, at = [], 0
        for put, chunks in zip(plan.to_embed, chunked, strict=True):
            own = vectors[at : at + len(chunks)]
            at += len(chunks)
            if np.all(np.isfinite(own)):
                puts.append(EmbeddedPut(put, chunks, own))
            else:
                refused[put.position] = "vector_not_finite"
        applied = self._writer.apply(plan, puts)
        return refused | {operation.position: reason for operation, reason, _ in applied.refused}


def _of_topic(operation: Put | Delete, view: AuditScope) -> Put | Delete:
    return replace(operation, topic_id=view.topic_ids.get(operation.position.topic, ""))
