"""The writer for `upsert` mode: exactly the current rows of every document, also after a repetition from any point.

The order of the calls is the protocol (docs/architecture.md): intent in the ledger, new rows, surplus rows, final
ledger row. So at any time the rows of a document are within its footprint (L1), and a ledger row that is not pending
describes exactly the rows that exist (L2).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from typing_extensions import override

from pipeline import failpoints
from pipeline.errors import NotLoaded, RowsRefused, Unavailable
from pipeline.records import Chunk, Delete, EmbeddedPut, Position, Put
from pipeline.store.collection.opening import open_ledger
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.partition_names import Partitioning
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.append_writer import DEFAULT_POLICY, DocumentRows, Unfinished, Writer, too_many
from pipeline.store.writing.application import Application, Step
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.llama_nodes import with_nodes
from pipeline.store.writing.protocol.decisions import (
    Applied,
    Change,
    Decision,
    DocumentHashes,
    Earlier,
    Entry,
    Key,
    Refusal,
    WritePlan,
    advanced,
    compare_entry,
    decide,
    final,
    intent,
    surplus,
)
from pipeline.store.writing.redo_check import RedoCheck
from pipeline.store.writing.requests.upsert_requests import RowGroup, WritePolicy
from pipeline.store.writing.rows import check_storable, content_hash, document_rows, row_hash, row_ids, row_sizes
from pipeline.store.writing.vector_reuse import Vectors, stored_vectors


class UpsertWriter(Writer):
    """The `Writer` that keeps exactly one current version of every document, guarded by the ledger."""

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        partitions: MilvusPartitions,
        partitioning: Partitioning,
        policy: WritePolicy = DEFAULT_POLICY,
        *,
        fingerprint: str,
        ledger: Ledger | None = None,
        durable: Callable[[Position], bool] = lambda _: False,
        verify: bool = True,
        nodes: bool = False,
    ) -> None:
        """`durable` and `verify`: see `RedoCheck`. `nodes`: rows have LlamaIndex's fields."""
        self._api = api
        self._collection = collection
        self._partitions = partitions
        self._partitioning = partitioning
        self._nodes = nodes
        self._fingerprint = with_nodes(fingerprint) if nodes else fingerprint
        self._ledger = ledger or Ledger(api, collection, policy)
        self._redo = RedoCheck(api, collection, self._ledger, partitioning, durable=durable, verify=verify)
        self._rows: DocumentRows[Key] = DocumentRows(api, collection, partitions, partitioning, policy)
        # Documents with a row stored by the batch that is being applied, over all its repetitions.
        self._touched: set[Key] = set()

    @override
    def forget(self) -> None:
        self._ledger.forget()
        self._partitions.forget()
        self._redo.forget()

    # --- plan --------------------------------------------------------------------------------------------------

    @override
    def plan(self, operations: Sequence[Change], folded: Sequence[Earlier] = ()) -> WritePlan:
        # Every operation ends in exactly one of these cases:
        #
        # 1. Refused: a value cannot be stored, or its Milvus partition would be one too many.
        # 2. In flight: an earlier plan holds the key, so this one is decided in `apply`; until then it counts as 5.
        # 3. STALE: the ledger has a newer version, so there is nothing to do.
        # 4. UNCHANGED or ADVANCE: the content is stored; for a newer record only the ledger row changes.
        #    Where this is a redo, the rows are compared with the ledger first; if they differ, this is a 5.
        # 5. WRITE: the rows change. A put is embedded, a delete deletes.
        by_key = {operation.key: operation for operation in operations}
        if len(by_key) != len(operations):
            raise ValueError("a key is repeated in one batch; fold the operations first")
        hashes, refused = self._hashes(operations)
        for operation, *_ in refused:
            del by_key[operation.key]
        with self._distrusting():
            entries = self._ledger.read([operation.key for operation in operations])
            failpoints.hit("ledger_read")
            decisions = self._classify(by_key, entries, hashes)
            rewrite = self._redo.damaged(decisions, entries, folded)
            decisions |= dict.fromkeys(rewrite, Decision.WRITE)
            writes = [by_key[key] for key, decision in decisions.items() if decision is Decision.WRITE]
            without_partition = self._create_partitions(writes, hashes)
        refused += without_partition
        left_out = {operation.key for operation, *_ in without_partition}
        writes = [operation for operation in writes if operation.key not in left_out]
        advances = [by_key[key] for key, decision in decisions.items() if decision in (Decision.ADVANCE, Decision.RANK)]
        in_flight = [operation.key for operation in (*writes, *advances)]
        self._ledger.cache({key: entries[key] for key in in_flight})
        stored = {key: entry for key, (entry, _) in entries.items() if entry is not None}
        outcomes = list(decisions.values())
        return WritePlan(
            to_embed=[operation for operation in writes if isinstance(operation, Put)],
            deletes=[operation for operation in writes if isinstance(operation, Delete)],
            advances=advances,
            unchanged=outcomes.count(Decision.UNCHANGED) + len(advances),
            stale=outcomes.count(Decision.STALE),
            refused=refused,
            hashes=hashes,
            stored={put.key: stored[put.key] for put in writes if isinstance(put, Put) and put.key in stored},
            by_arrival=sum(compare_entry(stored[op.key], op).by_arrival for op in writes if op.key in stored),
            in_flight=in_flight,
            rewrite=rewrite,
            earlier=self._redo.places(folded),
            pending=frozenset(key for key, entry in stored.items() if entry.pending),
        )

    @override
    def unfinished(self, keys: Collection[Key], doubted: Collection[Key]) -> Mapping[Key, Unfinished]:
        with self._distrusting():
            return self._redo.unfinished(keys, doubted)

    @override
    def reusable(self, plan: WritePlan, chunks: Sequence[Sequence[Chunk]]) -> Sequence[Vectors]:
        return stored_vectors(self._api, self._collection, plan, chunks, self._fingerprint)

    def _hashes(self, operations: Sequence[Change]) -> tuple[dict[Key, DocumentHashes], list[Refusal]]:
        """Hashes and Milvus partition of every put; and the operations that cannot be stored."""
        hashes: dict[Key, DocumentHashes] = {}
        refused: list[Refusal] = []
        for operation in operations:
            try:
                check_storable(operation.key, operation.version)
                if isinstance(operation, Put):
                    document = operation.document
                    place = self._partitioning.place(document.event_time, operation.timestamp_ms)
                    hashes[operation.key] = DocumentHashes(content_hash(document.text), row_hash(document), place)
            except ValueError as error:
                refused.append((operation, "not_storable", str(error)))
        return hashes, refused

    def _classify(
        self,
        by_key: Mapping[Key, Change],
        entries: Mapping[Key, tuple[Entry | None, bool]],
        hashes: Mapping[Key, DocumentHashes],
    ) -> dict[Key, Decision]:
        """What to do with each operation, given its ledger entry and whether an earlier plan holds the key."""
        return {
            key: Decision.WRITE if in_flight else decide(entry, by_key[key], hashes.get(key), self._fingerprint)
            for key, (entry, in_flight) in entries.items()
            if key in by_key
        }

    def _create_partitions(self, writes: Sequence[Change], hashes: Mapping[Key, DocumentHashes]) -> list[Refusal]:
        """Create missing Milvus partitions; returns the puts whose partition would be one too many."""
        puts = [operation for operation in writes if isinstance(operation, Put)]
        full = self._partitions.ensure(self._partitioning.needed(puts))
        return [(put, *too_many(place)) for put in puts if (place := hashes[put.key].milvus_partition) in full]

    # --- apply -------------------------------------------------------------------------------------------------

    @override
    def apply(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> Applied:
        with self._distrusting():
            half_written = {key: self._ledger.entry(key) for key in plan.restoring if key in plan.in_flight}
            self._ledger.refresh(plan.in_flight, half_written)
            whole = {key for key, entry in half_written.items() if _finished(entry, self._ledger.entry(key))}
            work = self._steps(plan, puts, whole)
            failpoints.hit("intent_unwritten")
            self._begin(work)
            failpoints.hit("intent_written")
            written = self._write_rows(work)
            failpoints.hit("rows_written")
            deleted = self._delete_surplus(work)
            failpoints.hit("surplus_deleted")
            self._finish(work)
            failpoints.hit("ledger_final")
            entries = {key: self._ledger.entry(key) for key in plan.in_flight}
        self._touched.difference_update(plan.in_flight)
        self._ledger.release(plan.in_flight)
        done = [step.put is not None for _, step in work.accepted()]
        return Applied(
            rows_written=written,
            rows_deleted=deleted,
            written=sum(done),
            deleted=len(done) - sum(done),
            unchanged=work.unchanged,
            stale=work.stale,
            refused=[(work.steps[key].operation, *refusal) for key, refusal in work.refused.items()],
            set_aside=[(work.steps[key].operation, words) for key, words in work.set_aside.items()],
            instead=list(work.instead.values()),
            unfinished=frozenset(key for key, entry in entries.items() if entry is not None and entry.pending),
        )

    def _steps(self, plan: WritePlan, puts: Sequence[EmbeddedPut], whole: Collection[Key]) -> Application:
        """Decide again, with the ledger entries that the batches before this one have written.

        `whole`: documents that need no restoration any more. The worker of another Kafka partition was writing them,
        and a record with their key that is rejected here took that for a write that was cut off.
        """
        work = Application(rewritten=plan.rewrite, fallback=plan.fallback)
        for operation in plan.advances:
            entry = self._ledger.entry(operation.key)
            if entry is not None:
                work.advanced.append(advanced(entry, operation))
        changes: list[tuple[Change, EmbeddedPut | None]] = [(delete, None) for delete in plan.deletes]
        changes += [(item.put, item) for item in puts]
        for operation, put in changes:
            key = operation.key
            if key in whole:
                work.unchanged += 1
                continue
            hashes = plan.hashes[key] if put is not None else None
            entry = self._ledger.entry(key)
            decision = decide(entry, operation, hashes, self._fingerprint)
            if decision not in (Decision.STALE, Decision.RANK) and key in plan.rewrite:
                decision = Decision.WRITE  # nobody has written the key since: it was in no other plan
            match decision:
                case Decision.STALE:
                    work.stale += 1
                case Decision.UNCHANGED:
                    work.unchanged += 1
                case Decision.ADVANCE | Decision.RANK if entry is not None:
                    work.unchanged += 1
                    work.advanced.append(advanced(entry, operation))
                case _:
                    rows = {hashes.milvus_partition: len(put.chunks)} if put is not None and hashes is not None else {}
                    work.steps[key] = Step(
                        operation, hashes, put, rows, self._redo.beyond(entry, plan.earlier.get(key, {}))
                    )
        return work

    def _begin(self, work: Application) -> None:
        intents = [self._intent(key, step) for key, step in work.steps.items()]
        work.refused.update(self._ledger.write([entry for entry in intents if entry is not None]))

    def _intent(self, key: Key, step: Step) -> Entry | None:
        entry = self._ledger.entry(key)
        needed = intent(entry, step.operation, step.place, step.beyond)
        if needed is None and entry is not None and entry.pending and self._ledger.doubtful(key):
            return entry  # the row that says so may be gone
        return needed

    def _write_rows(self, work: Application) -> int:
        groups: dict[str, list[RowGroup[Key]]] = {}
        puts = []
        for key, step in work.accepted():
            if step.put is not None and step.hashes is not None:
                puts.append(step.put.put)
                partition = step.hashes.milvus_partition
                rows = document_rows(step.put, partition, nodes=self._nodes)
                group = RowGroup(key, rows, row_sizes(step.put, nodes=self._nodes))
                groups.setdefault(partition, []).append(group)
        sent = self._rows.upsert(groups, puts, self._touched)
        work.refused.update(sent.refused)
        work.set_aside.update(sent.set_aside)
        for key in (*sent.refused, *sent.set_aside):
            delete = work.fallback.get(key)
            if (
                delete is not None
                and decide(self._ledger.entry(key), delete, None, self._fingerprint) is Decision.WRITE
            ):
                work.instead[key] = delete
        return sent.rows

    def _delete_surplus(self, work: Application) -> int:
        """Delete exactly the rows that may exist and are not of the new version, each in its Milvus partition."""
        ids: dict[str, list[str]] = {}
        for key, step in work.accepted():
            entry = self._ledger.entry(key)
            if entry is not None:
                for partition, chunks in surplus(entry.footprint, step.place).items():
                    ids.setdefault(partition, []).extend(row_ids(*key, partition, chunks))
        for partition, partition_ids in ids.items():
            self._rows.delete(partition, partition_ids)
        return sum(map(len, ids.values()))

    def _finish(self, work: Application) -> None:
        entries = list(work.advanced)
        entries += [
            final(step.operation, step.hashes, step.place, self._fingerprint, self._ledger.entry(key))
            for key, step in work.accepted()
        ]
        never_stored = []
        for key in self._undoable(work):
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

    def _undoable(self, work: Application) -> Iterator[Key]:
        """Keys of refused and set aside documents with an intent in the ledger, of which no row was changed.

        A document that was deleted instead is finished. If a row was changed, or the document was pending before, the
        entry stays pending (`Applied.unfinished`).
        """
        for key in (*work.refused, *work.set_aside):
            entry = self._ledger.entry(key)
            changed = key in self._touched or key in work.rewritten or key in work.instead
            if entry is not None and entry.pending and not changed and self._ledger.before(key)[1]:
                yield key

    @contextmanager
    def _distrusting(self) -> Iterator[None]:
        """After an outage or an unknown outcome, make the ledger distrust what was read before."""
        try:
            yield
        except NotLoaded:
            self._ledger.invalidate()
            # The client waits for a server that restarts and loads again, so somebody has released the ledger.
            open_ledger(self._api, self._collection)
            raise
        except Unavailable:
            self._ledger.invalidate()
            raise


def _finished(before: Entry | None, now: Entry | None) -> bool:
    """Whether somebody else has finished the change that was begun."""
    return now is not None and not now.pending and now != before
