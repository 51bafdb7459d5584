"""Stage 1 of the ingest flow: decode, fold, plan, chunk."""

from collections.abc import Sequence

from pipeline.chunking import Chunker
from pipeline.ingest.context import FlowContext
from pipeline.ingest.stages import Barrier, Decoded, Planned, Submitted
from pipeline.ingest.write_modes import WriteMode
from pipeline.intake import Decoder
from pipeline.records import Delete, Put, Rejected
from pipeline.store import Writer


class Preparer:
    """Turns submitted batches into planned ones, one at a time, on one thread."""

    def __init__(
        self, context: FlowContext, *, decoder: Decoder, chunker: Chunker, writer: Writer, mode: WriteMode
    ) -> None:
        self._context = context
        self._decoder = decoder
        self._chunker = chunker
        self._writer = writer
        self._mode = mode

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
        decoded = [self._decoder.decode(record, now_ms) for record in records]
        rejected = [operation for operation in decoded if isinstance(operation, Rejected)]
        context.rejections.check("decode", records, rejected)
        context.rejections.send(rejected, submitted.number)
        positions = frozenset(rejection.position for rejection in rejected)
        operations: Sequence[Put | Delete] = [op for op in decoded if not isinstance(op, Rejected)]
        folded = self._mode.fold(operations)
        resolved = set(folded.resolved)
        return Decoded(
            submitted,
            records=[record for record in records if record.position not in positions] if positions else records,
            operations=folded.operations,
            folded=[operation for operation in operations if operation.position in resolved] if resolved else (),
            rejected=positions,
        )

    def _plan(self, decoded: Decoded) -> Planned:
        context = self._context
        plan = context.breaker.call("plan", lambda: self._writer.plan(decoded.operations))
        context.metrics.by_arrival.inc(plan.by_arrival)
        refused = context.rejections.refuse(decoded.submitted, plan.refused, "write")
        chunks = self._chunker.chunk([put.document.text for put in plan.to_embed])
        reusable = context.breaker.call("reuse", lambda: self._writer.reusable(plan, chunks))
        return Planned(decoded, plan, refused, chunks, reusable)
