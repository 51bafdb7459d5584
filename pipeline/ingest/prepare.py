"""Stage 1 of the ingest flow: decode, fold, plan, chunk."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline.chunking import Chunker
from pipeline.ingest.context import FlowContext
from pipeline.ingest.decoding import PatientDecoder
from pipeline.ingest.restore import DocumentRestorer, Verdict
from pipeline.ingest.stages import Barrier, Decoded, Planned, Refused, Submitted, folded_deletes, sizes_of
from pipeline.ingest.write_modes import WriteMode
from pipeline.records import Delete, Put, Rejected
from pipeline.store import Earlier, Key, WritePlan, Writer


class Preparer:
    """Turns submitted batches into planned ones, one at a time, on one thread."""

    def __init__(
        self,
        context: FlowContext,
        *,
        decoder: PatientDecoder,
        chunker: Chunker,
        writer: Writer,
        mode: WriteMode,
        restorer: DocumentRestorer | None,
    ) -> None:
        """`restorer` None: rejected records go to the dead letters, whatever they leave."""
        self._context = context
        self._decoder = decoder
        self._chunker = chunker
        self._writer = writer
        self._mode = mode
        self._restorer = restorer

    def run(self) -> None:
        """Prepare batches until the first queue is closed."""
        queues = self._context.queues
        while (entry := queues.incoming.get()) is not None:
            if isinstance(entry, Barrier):
                self._forget_stored(entry)
            else:
                queues.to_embed.put(self._plan(self._decode(entry)))
        queues.to_embed.close()

    def _forget_stored(self, barrier: Barrier) -> None:
        """Drop what the writer remembers of the store, once every batch before the assignment is acknowledged.

        Later batches must wait for this: they would be planned with ledger entries that another worker may have
        changed.
        """
        self._context.queues.to_embed.put(barrier)
        self._context.queues.passed.get()
        self._writer.forget()

    def _decode(self, submitted: Submitted) -> Decoded:
        """Raises TooManyRejected before any rejected record of the batch is sent."""
        context = self._context
        now_ms = int(context.wall_clock() * 1000)
        records = context.fence.still_owned(submitted.number, submitted.batch.records)
        undecided = [record for record in records if record.position not in submitted.rejected]
        decoded = [self._decoder.decode(record, now_ms) for record in undecided]
        rejected = [operation for operation in decoded if isinstance(operation, Rejected)]
        context.rejections.check("decode", undecided, rejected)
        operations: Sequence[Put | Delete] = [op for op in decoded if not isinstance(op, Rejected)]
        folded = self._mode.fold(operations)
        resolved = set(folded.resolved)
        waited = [submitted.rejected[record.position] for record in records if record.position in submitted.rejected]
        verdict = self._decide_rejected([*waited, *rejected], folded.operations)
        context.rejections.send(verdict.send, submitted.number)
        final = [*verdict.send, *(entry.rejected for entry in verdict.restoring)]
        positions = {rejection.position for rejection in rejected}
        return Decoded(
            submitted,
            records=[record for record in undecided if record.position not in positions] if positions else undecided,
            operations=[*folded.operations, *verdict.operations],
            folded=[operation for operation in operations if operation.position in resolved] if resolved else (),
            rejected=frozenset(rejection.position for rejection in final),
            restoring=verdict.restoring,
            restored={entry.key: entry.rejected.position[:2] for entry in verdict.restoring},
            postponed=verdict.postponed,
        )

    def _decide_rejected(self, rejected: Sequence[Rejected | Refused], operations: Sequence[Put | Delete]) -> Verdict:
        if self._restorer is None or not rejected:
            return Verdict(send=[entry.rejected if isinstance(entry, Refused) else entry for entry in rejected])
        return self._restorer.decide(rejected, {operation.key for operation in operations})

    def _plan(self, decoded: Decoded) -> Planned:
        context = self._context
        folded = self._folded(decoded)
        plan = context.breaker.call("plan", lambda: self._writer.plan(decoded.operations, folded))
        plan = replace(plan, restoring=decoded.restored.keys())
        plan = self._with_folded_deletes(decoded, plan, folded)
        context.metrics.by_arrival.inc(plan.by_arrival)
        unfinished = self._unfinished(decoded, plan)
        refused = context.rejections.refuse(decoded.submitted, plan.refused, "write", unfinished)
        chunks = self._chunker.chunk([put.document.text for put in plan.to_embed])
        reusable = context.breaker.call("reuse", lambda: self._writer.reusable(plan, chunks))
        return Planned(decoded, plan, refused, chunks, reusable, sizes_of(chunks, reusable), unfinished)

    def _with_folded_deletes(self, decoded: Decoded, plan: WritePlan, folded: Sequence[Earlier]) -> WritePlan:
        """Plan the deletes of `folded_deletes`, those of refused puts at once and the others for the later stages."""
        if fallback := folded_deletes(decoded, {put.key for put in plan.to_embed}):
            plan = replace(plan, fallback={delete.key: delete for delete in fallback})
        deletes = folded_deletes(decoded, {operation.key for operation, *_ in plan.refused})
        if not deletes:
            return plan
        newest = {delete.key: delete.position for delete in deletes}
        before = [
            one for one in folded if newest.get(one.operation.key, one.operation.position) != one.operation.position
        ]
        return plan.joined(self._context.breaker.call("plan", lambda: self._writer.plan(deletes, before)))

    def _unfinished(self, decoded: Decoded, plan: WritePlan) -> Collection[Key]:
        """Documents between two versions whose operation here was possibly begun by an earlier owner."""
        if self._restorer is None or not plan.pending:
            return ()
        maybe_written = self._context.bounds.maybe_written
        return {one.key for one in decoded.operations if one.key in plan.pending and maybe_written(one.position)}

    def _folded(self, decoded: Decoded) -> Sequence[Earlier]:
        """The operations folded away, and the chunks of those that an earlier owner may have written.

        Its batches had other bounds: what is folded now may have rows, and after a loss the ledger does not know them.
        """
        bounds = self._context.bounds
        written = [one for one in decoded.folded if bounds.maybe_written(one.position)]
        puts = [one for one in written if isinstance(one, Put)]
        cut = self._chunker.chunk([put.document.text for put in puts])
        chunks = dict.fromkeys((one.position for one in written), 0)
        chunks |= {put.position: len(document) for put, document in zip(puts, cut, strict=True)}
        return [Earlier(one, chunks.get(one.position)) for one in decoded.folded]
