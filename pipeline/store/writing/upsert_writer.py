"""The writer for `upsert` mode: a redo from any point ends in exactly the current rows of every document.

The order of the calls is the protocol (docs/architecture.md): intent in the ledger, new rows, surplus rows, final
ledger row. So at any time the rows of a document are within its footprint (L1), and a ledger row that is not pending
tells exactly which rows there are (L2).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline import failpoints
from pipeline.errors import NotFound, NotLoaded, RowsRefused, Unavailable
from pipeline.records import Chunk, Delete, EmbeddedPut, Put
from pipeline.store.collection.opening import open_ledger
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.partitions import Granularity, MilvusPartitions, partition_name
from pipeline.store.writing.append_writer import DEFAULT_POLICY, DocumentRows, too_many
from pipeline.store.writing.ledger import Ledger
from pipeline.store.writing.protocol import (
    NOWHERE,
    Applied,
    Change,
    Decision,
    DocumentHashes,
    Entry,
    Footprint,
    Key,
    Refusal,
    WritePlan,
    advanced,
    comparable,
    decide,
    final,
    intent,
    surplus,
)
from pipeline.store.writing.rows import check_storable, content_hash, document_rows, row_hash, row_ids, row_sizes
from pipeline.store.writing.upsert_requests import RowGroup, WritePolicy
from pipeline.store.writing.vector_reuse import Vectors, stored_vectors


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation whose rows change."""

    operation: Change
    facts: DocumentHashes | None
    put: EmbeddedPut | None
    place: Footprint


@dataclass(slots=True)
class _Work:
    """One batch being applied."""

    steps: dict[Key, _Step] = field(default_factory=dict)
    advanced: list[Entry] = field(default_factory=list)
    refused: dict[Key, tuple[str, str]] = field(default_factory=dict)
    unchanged: int = 0
    stale: int = 0

    def going(self) -> Iterator[tuple[Key, _Step]]:
        """The steps not refused so far."""
        return ((key, step) for key, step in self.steps.items() if key not in self.refused)


class UpsertWriter:
    """Keeps exactly one current version of every document, guarded by the ledger. See `Writer`."""

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        partitions: MilvusPartitions,
        by: Granularity,
        policy: WritePolicy = DEFAULT_POLICY,
        *,
        fingerprint: str,
        ledger: Ledger | None = None,
    ) -> None:
        self._api = api
        self._collection = collection
        self._partitions = partitions
        self._by = by
        self._policy = policy
        self._fingerprint = fingerprint
        self._ledger = ledger or Ledger(api, collection, policy)
        self._rows = DocumentRows(api, collection, partitions, policy)
        # Documents of whom a row has been sent by the batch being applied, over all its repetitions.
        self._touched: set[Key] = set()

    def forget(self) -> None:
        """See `Writer.forget`."""
        self._ledger.forget()
        self._partitions.forget()

    # --- plan --------------------------------------------------------------------------------------------------

    def plan(self, operations: Sequence[Change]) -> WritePlan:
        """Read the ledger and compare: what is older than what is stored, or stored already, needs no work.

        A key that an earlier plan still has in flight is not settled here but when this plan is applied: only then is
        it known what the earlier one left. Raises ValueError where a key stands twice.
        """
        by_key = {operation.key: operation for operation in operations}
        if len(by_key) != len(operations):
            raise ValueError("a key stands twice in one batch; fold the operations first")
        facts, refused = self._facts(operations)
        for operation, *_ in refused:
            del by_key[operation.key]
        with self._distrusting():
            known = self._ledger.read(by_key)
            failpoints.hit("ledger_read")
            decisions = {
                key: Decision.WRITE if in_flight else decide(entry, by_key[key], facts.get(key), self._fingerprint)
                for key, (entry, in_flight) in known.items()
            }
            writes = [by_key[key] for key, decision in decisions.items() if decision is Decision.WRITE]
            homeless = self._homeless(writes, facts)
        refused += homeless
        left_out = {operation.key for operation, *_ in homeless}
        writes = [operation for operation in writes if operation.key not in left_out]
        advances = [by_key[key] for key, decision in decisions.items() if decision is Decision.ADVANCE]
        held = [operation.key for operation in (*writes, *advances)]
        self._ledger.hold({key: known[key][0] for key in held})
        settled = list(decisions.values())
        stored = {key: entry for key, (entry, _) in known.items() if entry is not None}
        return WritePlan(
            to_embed=[operation for operation in writes if isinstance(operation, Put)],
            deletes=[operation for operation in writes if isinstance(operation, Delete)],
            advances=advances,
            unchanged=settled.count(Decision.UNCHANGED) + len(advances),
            stale=settled.count(Decision.STALE),
            refused=refused,
            facts=facts,
            stored={put.key: stored[put.key] for put in writes if isinstance(put, Put) and put.key in stored},
            by_arrival=sum(_by_arrival(stored[change.key], change) for change in writes if change.key in stored),
            held=held,
        )

    def reusable(self, plan: WritePlan, chunks: Sequence[Sequence[Chunk]]) -> Sequence[Vectors]:
        """See `Writer.reusable`."""
        return stored_vectors(self._api, self._collection, plan, chunks, self._fingerprint)

    def _facts(self, operations: Sequence[Change]) -> tuple[dict[Key, DocumentHashes], list[Refusal]]:
        facts: dict[Key, DocumentHashes] = {}
        refused: list[Refusal] = []
        for operation in operations:
            try:
                check_storable(operation.key, operation.version)
                if isinstance(operation, Put):
                    document = operation.document
                    place = partition_name(self._by, document.event_time)
                    facts[operation.key] = DocumentHashes(content_hash(document.text), row_hash(document), place)
            except ValueError as error:
                refused.append((operation, "not_storable", str(error)))
        return facts, refused

    def _homeless(self, writes: Sequence[Change], facts: Mapping[Key, DocumentHashes]) -> list[Refusal]:
        """Create the Milvus partitions that are missing; the result is the puts whose partition cannot be made."""
        places = {
            operation.key: facts[operation.key].milvus_partition for operation in writes if operation.key in facts
        }
        full = self._partitions.ensure(set(places.values()))
        if not full:
            return []
        return [(put, *too_many(places[put.key])) for put in writes if places.get(put.key) in full]

    # --- apply -------------------------------------------------------------------------------------------------

    def apply(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> Applied:
        """Write the rows and the ledger; a document that Milvus refuses keeps what was stored of it before."""
        with self._distrusting():
            work = self._steps(plan, puts)
            failpoints.hit("intent_unwritten")
            self._begin(work)
            failpoints.hit("intent_written")
            written = self._write_rows(work)
            failpoints.hit("rows_written")
            deleted = self._delete_surplus(work)
            failpoints.hit("surplus_deleted")
            self._finish(work)
            failpoints.hit("ledger_final")
        self._touched.difference_update(plan.held)
        self._ledger.release(plan.held)
        done = [step.put is not None for _, step in work.going()]
        return Applied(
            rows_written=written,
            rows_deleted=deleted,
            written=sum(done),
            deleted=len(done) - sum(done),
            unchanged=work.unchanged,
            stale=work.stale,
            refused=[(work.steps[key].operation, *refusal) for key, refusal in work.refused.items()],
        )

    def _steps(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> _Work:
        """Compare again, now with what the batches before this one have left."""
        work = _Work()
        for operation in plan.advances:
            entry = self._ledger.entry(operation.key)
            if entry is not None:
                work.advanced.append(advanced(entry, operation))
        changes: list[tuple[Change, EmbeddedPut | None]] = [(delete, None) for delete in plan.deletes]
        changes += [(item.put, item) for item in puts]
        for operation, put in changes:
            key = operation.key
            facts = plan.facts[key] if put is not None else None
            entry = self._ledger.entry(key)
            match decide(entry, operation, facts, self._fingerprint):
                case Decision.STALE:
                    work.stale += 1
                case Decision.UNCHANGED:
                    work.unchanged += 1
                case Decision.ADVANCE if entry is not None:
                    work.unchanged += 1
                    work.advanced.append(advanced(entry, operation))
                case _:
                    place = {facts.milvus_partition: len(put.chunks)} if put is not None and facts is not None else {}
                    work.steps[key] = _Step(operation, facts, put, place)
        return work

    def _begin(self, work: _Work) -> None:
        intents = [intent(self._ledger.entry(key), step.operation, step.place) for key, step in work.steps.items()]
        work.refused.update(self._ledger.write([entry for entry in intents if entry is not None]))

    def _write_rows(self, work: _Work) -> int:
        groups: dict[str, list[RowGroup[Key]]] = {}
        for key, step in work.going():
            if step.put is not None and step.facts is not None:
                partition = step.facts.milvus_partition
                group = RowGroup(key, document_rows(step.put, partition), row_sizes(step.put))
                groups.setdefault(partition, []).append(group)
        sent = self._rows.upsert(groups, self._touched)
        work.refused.update(sent.refused)
        return sent.rows

    def _delete_surplus(self, work: _Work) -> int:
        """Delete exactly the rows that may be there and are not of the new version, each in its Milvus partition."""
        ids: dict[str, list[str]] = {}
        for key, step in work.going():
            entry = self._ledger.entry(key)
            if entry is not None:
                for partition, chunks in surplus(entry.footprint, step.place).items():
                    ids.setdefault(partition, []).extend(row_ids(*key, partition, chunks))
        for partition, some in ids.items():
            self._delete(partition, some)
        return sum(len(some) for some in ids.values())

    def _delete(self, partition: str, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), self._policy.max_rows):
            try:
                self._api.delete(self._collection, partition, ids[start : start + self._policy.max_rows])
            except NotFound:
                return  # the Milvus partition was dropped, and the rows with it

    def _finish(self, work: _Work) -> None:
        entries = list(work.advanced)
        entries += [final(step.operation, step.facts, step.place, self._fingerprint) for _, step in work.going()]
        never_stored = []
        for key in self._undoable(work.refused):
            before, _ = self._ledger.before(key)
            if before is None:
                never_stored.append(key)
            else:
                entries.append(before)
        self._ledger.remove(never_stored)
        refused = self._ledger.write(entries)
        if refused:
            reason = next(iter(refused.values()))[1]
            raise RowsRefused(f"Milvus refuses the ledger rows of {len(refused)} stored documents: {reason}")

    def _undoable(self, refused: Collection[Key]) -> Iterator[Key]:
        """Refused documents whose intent stands in the ledger though none of their rows was changed.

        Where one was changed, or the document was found pending, the entry stays pending: `audit` tells about it.
        """
        for key in refused:
            entry = self._ledger.entry(key)
            if entry is not None and entry.pending and key not in self._touched and self._ledger.before(key)[1]:
                yield key

    @contextmanager
    def _distrusting(self) -> Iterator[None]:
        """After an outage or an unknown outcome, what was read before is not relied on."""
        try:
            yield
        except NotLoaded:
            self._ledger.invalidate()
            # A server that restarts loads what was loaded, and the client waits for that: somebody released it.
            open_ledger(self._api, self._collection)
            raise
        except Unavailable:
            self._ledger.invalidate()
            raise


def _by_arrival(entry: Entry, operation: Change) -> bool:
    """Whether it is newer by arrival only; the entry of a document of which nothing was stored yet says nothing."""
    return entry.position != NOWHERE and not comparable(entry, operation)
