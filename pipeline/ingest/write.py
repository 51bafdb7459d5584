"""Stage 3 of the ingest flow: write, acknowledge, decide folded records again."""

import time
from collections.abc import Collection
from functools import partial

import structlog

from pipeline import failpoints
from pipeline.ingest.context import FlowContext
from pipeline.ingest.queues.batching import Batch
from pipeline.ingest.queues.ordered_executor import OrderedExecutor
from pipeline.ingest.restore import DocumentRestorer
from pipeline.ingest.stages import Barrier, Embedded, Submitted, Written, records_to_redecide
from pipeline.records import Receipt
from pipeline.store import Applied, Change, FlushGovernor, Key, TombstoneSweep, Writer

log = structlog.get_logger(__name__)


class WriteStage:
    """Writes embedded batches to Milvus and acknowledges them in the order of submission.

    One way of the data goes backwards. Several operations of one key in a batch are folded into one, and the records
    of the others count as finished with it. If that one then cannot be stored (the model gives no finite vector,
    Milvus refuses a row), the others were given up for nothing: the document would be lost. So they are submitted
    again under the number of their batch (`_redecide`). Until then they stay in the registry of batches in flight, and
    no receipt holds them. The same is done where the operation is left out because its Kafka partition was revoked: the
    next owner may have to reject it. And with a refused record whose document is left between two versions, see
    `restore.py`. A record that Milvus refuses in words that no table lists is submitted again after a while, see
    `UnlistedAnswers`.
    """

    def __init__(
        self,
        context: FlowContext,
        *,
        writer: Writer,
        writers: int,
        governor: FlushGovernor,
        tombstones: TombstoneSweep | None,
        restorer: DocumentRestorer | None,
        set_aside_s: float,
    ) -> None:
        self._context = context
        self._writer = writer
        self._writers = writers
        self._governor = governor
        self._tombstones = tombstones
        self._restorer = restorer
        self._set_aside_s = set_aside_s

    def run(self) -> None:
        """Write batches until the queue before this stage is closed."""
        queues = self._context.queues
        with OrderedExecutor(self._writers, "ingest-write", self._context.guard) as executor:
            while (entry := queues.to_write.get()) is not None:
                if isinstance(entry, Barrier):
                    executor.drain()
                    queues.passed.put(entry)
                else:
                    executor.submit(partial(self._write, entry), partial(self._complete, entry))

    def _write(self, embedded: Embedded) -> tuple[Applied, Collection[Key], float]:
        """Apply the plan; returns what was done, the keys left out, and the seconds it took, outages included."""
        started = time.monotonic()
        applied, left_out = self._context.breaker.call("write", lambda: self._apply(embedded))
        return applied, left_out, time.monotonic() - started

    def _apply(self, embedded: Embedded) -> tuple[Applied, Collection[Key]]:
        """Write what this worker still owns; returns the keys of the other operations, too.

        Every attempt checks again: an outage may outlast a rebalance.
        """
        submitted = embedded.decoded.submitted
        partitions = {record.position[:2] for record in submitted.batch.records}
        with self._context.fence.write_lock(submitted.number, partitions) as owned:
            if len(owned) == len(partitions):
                return self._writer.apply(embedded.plan, embedded.puts), ()
            restored = embedded.decoded.restored

            def lost(operation: Change) -> bool:
                return restored.get(operation.key, operation.position[:2]) not in owned

            puts = [put for put in embedded.puts if not lost(put.put)]
            left_out = {operation.key for operation in embedded.decoded.operations if lost(operation)}
            return self._writer.apply(embedded.plan.without(lost), puts), left_out

    def _complete(self, embedded: Embedded, result: tuple[Applied, Collection[Key], float]) -> None:
        """Acknowledge a batch; runs in the order of submission."""
        applied, left_out, write_s = result
        rejections, decoded = self._context.rejections, embedded.decoded
        unfinished = applied.unfinished if self._restorer is not None else ()
        refused = [
            *embedded.refused,
            *rejections.refuse(decoded.submitted, applied.refused, "write", unfinished),
        ]
        rejections.check("write", decoded.records, [entry.rejected for entry in refused])
        redecided = records_to_redecide(decoded, embedded.plan, applied, refused, left_out)
        written = Written(
            decoded,
            embedded.plan,
            applied,
            refused,
            redecided=self._context.fence.still_owned(decoded.submitted.number, redecided),
            embed_s=embedded.embed_s,
            write_s=write_s,
        )
        self._send_restored(written)
        self._acknowledge(written)
        self._redecide(written)
        _log_written(written)
        self._sweep_tombstones()

    def _send_restored(self, written: Written) -> None:
        """Send the rejected records whose documents are restored by now: a commit behind them waits for a flush."""
        decoded, number = written.decoded, written.decoded.submitted.number
        if not decoded.restoring or self._restorer is None:
            return
        records = self._context.fence.still_owned(number, [entry.rejected.record for entry in decoded.restoring])
        owned = {record.position for record in records}
        sent = [entry for entry in decoded.restoring if entry.rejected.position in owned]
        not_written = {operation.key for operation, *_ in written.plan.refused}.union(written.applied.unfinished)
        for key in {entry.key for entry in sent}:
            self._restorer.report(key, restored=key not in not_written)
        self._context.rejections.send([entry.rejected for entry in sent], number)

    def _acknowledge(self, written: Written) -> None:
        """Hand the receipt of the records that are finished to the flush governor."""
        context, number = self._context, written.decoded.submitted.number
        now = context.wall_clock()
        freshness = context.metrics.freshness.labels("acked")
        positions = []
        for record in context.fence.still_owned(number, written.finished):
            positions.append(record.position)
            freshness.observe(max(0.0, now - record.timestamp_ms / 1000))
        for outcome, count in written.outcomes.items():
            context.metrics.outcomes.add(outcome, count)
        failpoints.hit("acked")
        self._governor.acked(Receipt(positions, number), written.applied.rows_written + written.applied.rows_deleted)
        # After the receipt: once nothing is in flight, a worker that ends requests the last flush, and a worker that
        # loses a Kafka partition commits.
        set_aside = {operation.position for operation, _ in written.applied.set_aside}
        context.fence.batches.acknowledge(number, written.redecided, set_aside)

    def _redecide(self, written: Written) -> None:
        """Submit the records that are decided again to the first stage; see the class."""
        if written.redecided:
            submitted = written.decoded.submitted
            size = sum(record.size for record in written.redecided)
            batch = Batch(written.redecided, size, submitted.batch.trigger)
            rejected = {entry.rejected.position: entry for entry in written.waiting}
            again = Submitted(submitted.number, batch, submitted.started, rejected)
            if written.applied.set_aside:
                self._report_set_aside(written)
                self._context.queues.incoming.put_later(again, self._set_aside_s)
            else:
                self._context.queues.incoming.put(again)

    def _report_set_aside(self, written: Written) -> None:
        self._context.metrics.retries.labels("write").inc()
        _, words = written.applied.set_aside[0]
        log.warning(
            "milvus.refused_in_unlisted_words",
            documents=len(written.applied.set_aside),
            positions=written.decoded.submitted.offset_ranges,
            why=words,
            what=f"the others are stored; these are tried again in {self._set_aside_s:.0f} s, and become dead letters "
            "if that goes on while others are accepted",
        )

    def _sweep_tombstones(self) -> None:
        """Remove old tombstones between batches, when it is time: this thread writes the ledger."""
        if self._tombstones is not None and self._tombstones.due:
            # With a number of its own: a later revocation fences the sweep and waits for its last call. The number
            # comes before `owned` is read, see PartitionFence.revoke.
            number = self._context.fence.batches.next_number()
            with self._context.fence.write_lock(number, self._context.fence.owned) as owned:
                self._context.metrics.tombstones.inc(self._tombstones.step(owned))


def _log_written(written: Written) -> None:
    submitted = written.decoded.submitted
    log.info(
        "batch.written",
        batch=submitted.number,
        records=len(submitted.batch.records),
        positions=submitted.offset_ranges,
        **{name: count for name, count in written.outcomes.items() if count},
        rows=written.applied.rows_written,
        rows_deleted=written.applied.rows_deleted,
        embed_ms=round(written.embed_s * 1000),
        write_ms=round(written.write_s * 1000),
        total_ms=round((time.monotonic() - submitted.started) * 1000),
    )
