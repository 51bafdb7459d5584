"""The ingest flow, top-down: decode, fold, plan, chunk | embed | write, acknowledge.

Stages joined by bounded lanes; batches stay in the order they were submitted, so that the operations of one
key are applied in order and the ledger rows of one batch are final before the next batch's are begun. Two windows of
batches are embedded at a time and handed on in order. Only in append mode several batches are written at a time; they,
too, are acknowledged in order.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog
from numpy.typing import NDArray

from pipeline import failpoints
from pipeline.chunking import Chunker
from pipeline.embedding import Embedder
from pipeline.errors import MilvusStreamError, Stopped
from pipeline.ingest.batching import Batch
from pipeline.ingest.bounded_queue import BoundedQueue
from pipeline.ingest.circuit_breaker import CircuitBreaker
from pipeline.ingest.ordered_executor import OrderedExecutor
from pipeline.ingest.partition_fencing import PartitionFence
from pipeline.ingest.ports import DeadLetterLimit, DeadLetterSink
from pipeline.ingest.stages import Barrier, Work
from pipeline.intake import Decoder, fold
from pipeline.records import Chunk, Delete, EmbeddedPut, KafkaPartition, Put, Receipt, Rejected, SourceRecord
from pipeline.store import Applied, FlushGovernor, TombstoneSweep, Writer
from pipeline.telemetry.metrics import IngestMetrics

log = structlog.get_logger(__name__)

WINDOW_TOKENS = 65_536
"""Many passes on a CPU, where they are small."""
_WINDOWS_AT_ONCE = 2
"""The second's passes take the cores that the first one's last passes leave idle, and a GPU's queue never runs dry."""


@dataclass(frozen=True, slots=True)
class FlowPolicy:
    """How the flow runs."""

    append: bool
    """Every record is a document of its own: no fold, no ledger."""
    writers: int = 1
    """Batches written at a time; more than one only with `append`, where no batch depends on another."""
    window_tokens: int = WINDOW_TOKENS
    """Batches already waiting are embedded together up to this many tokens: sorted by length they pad less."""
    retry_delay_s: float = 0.5
    """First pause after Milvus failed; doubles up to `retry_cap_s`, jittered."""
    retry_cap_s: float = 30.0


class IngestFlow:
    """Turns submitted batches into receipts.

    `submit` never blocks: the caller watches `buffered_bytes` and stops reading Kafka when it is too much. The first
    error of any stage ends all of them and is raised by `check`. Milvus being away is not an error: the stage waits
    and tries again for as long as it takes, `trouble` says so.
    """

    def __init__(
        self,
        *,
        decoder: Decoder,
        chunker: Chunker,
        embedder: Embedder,
        writer: Writer,
        governor: FlushGovernor,
        dead_letters: DeadLetterSink,
        metrics: IngestMetrics,
        policy: FlowPolicy,
        limits: DeadLetterLimit | None = None,
        tombstones: TombstoneSweep | None = None,
        owned: Callable[[], Collection[KafkaPartition]] = tuple,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`limits` None: any number of records may be rejected."""
        self._limits = limits
        self._decoder = decoder
        self._chunker = chunker
        self._embedder = embedder
        self._writer = writer
        self._governor = governor
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._policy = policy
        self._tombstones = tombstones
        self._owned = owned
        self._wall_clock = wall_clock
        self._incoming: BoundedQueue[Work | Barrier] = BoundedQueue()
        self._to_embed: BoundedQueue[Work | Barrier] = BoundedQueue(4)
        self._to_write: BoundedQueue[Work | Barrier] = BoundedQueue(2)
        self._lock = threading.Lock()
        self._buffered_bytes = 0
        self._unwritten: Counter[KafkaPartition] = Counter()
        self._claims = PartitionFence()
        self._number = 0
        self._error: BaseException | None = None
        self._ending = threading.Event()
        self._patience = CircuitBreaker(
            policy.retry_delay_s, policy.retry_cap_s, lambda stage: metrics.retries.labels(stage).inc()
        )
        self._threads = [
            threading.Thread(target=self._guarded, args=(stage,), name=f"ingest-{name}", daemon=True)
            for name, stage in (("prepare", self._prepare), ("embed", self._embed), ("write", self._write))
        ]

    # --- the caller's side -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the stages."""
        for thread in self._threads:
            thread.start()

    def submit(self, batch: Batch) -> None:
        """Take charge of a batch; its records come back in receipts. Never blocks. Raises Stopped after an error."""
        with self._lock:
            self._number += 1
            number = self._number
            self._buffered_bytes += batch.size
            for record in batch.records:
                self._unwritten[record.position[:2]] += 1
        self._metrics.batches.labels(batch.trigger).inc()
        self._metrics.batch_records.observe(len(batch.records))
        self._incoming.put(Work(batch, number, time.monotonic()))

    def forget(self) -> None:
        """After an assignment: others may have written, so read what is stored anew behind the batches before."""
        self._incoming.put(Barrier())

    def abandon(self, partitions: Collection[KafkaPartition]) -> None:
        """These belong to another worker now: nothing more of them will be sent. See `writing`."""
        with self._lock:
            self._claims.abandon(partitions, self._number)

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a call that writes records of these Kafka partitions may be under way; it has a deadline."""
        return self._claims.writing(partitions)

    @property
    def fenced(self) -> bool:
        """Whether a batch being written holds records that were abandoned: no further call of it may be sent."""
        return self._claims.fenced

    @property
    def buffered_bytes(self) -> int:
        """Bytes of records submitted and not yet acknowledged by Milvus."""
        return self._buffered_bytes

    def unwritten(self, partitions: Collection[KafkaPartition]) -> int:
        """Records of these Kafka partitions submitted and not yet acknowledged."""
        with self._lock:
            return sum(self._unwritten[partition] for partition in partitions)

    @property
    def idle(self) -> bool:
        """Whether every record submitted has been acknowledged or handed to the dead letters."""
        return not any(self._unwritten.values())

    @property
    def trouble(self) -> Mapping[str, str]:
        """By stage: why it is waiting for Milvus at the moment."""
        return self._patience.trouble

    def check(self) -> None:
        """Raise the error that ended the flow, if one did."""
        if self._error is not None:
            raise self._error

    def close(self, timeout_s: float) -> bool:
        """Let the stages finish what was submitted; False if they were cut off after `timeout_s` or had failed."""
        self._incoming.close()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        finished = not any(thread.is_alive() for thread in self._threads)
        self._end()
        return finished and self._error is None

    # --- stage 1: decode, fold, plan, chunk --------------------------------------------------------------------

    def _prepare(self) -> None:
        while (item := self._incoming.get()) is not None:
            if isinstance(item, Work):
                self._prepare_batch(item)
                self._to_embed.put(item)
            else:
                self._to_embed.put(item)
                while not item.passed.wait(0.2):
                    if self._ending.is_set():
                        raise Stopped("the flow has ended")
                self._writer.forget()
        self._to_embed.close()

    def _prepare_batch(self, work: Work) -> None:
        now_ms = int(self._wall_clock() * 1000)
        records = self._claims.kept(work.number, work.batch.records)
        operations = [self._decoder.decode(record, now_ms) for record in records]
        rejected = [operation for operation in operations if isinstance(operation, Rejected)]
        if self._limits is not None:
            self._limits.judge("decode", records, rejected)
        self._reject(work, rejected)
        work.decoded = [record for record in records if record.position not in work.rejected] if rejected else records
        puts_and_deletes = [operation for operation in operations if not isinstance(operation, Rejected)]
        if not self._policy.append:
            folded = fold(puts_and_deletes)
            resolved = set(folded.resolved)
            work.folded = [operation for operation in puts_and_deletes if operation.position in resolved]
            puts_and_deletes = list(folded.operations)
        work.plan = plan = self._patience.persist("plan", lambda: self._writer.plan(puts_and_deletes))
        work.finished["unchanged"] = plan.unchanged
        work.finished["stale"] = plan.stale
        self._metrics.by_arrival.inc(plan.by_arrival)
        self._refuse(work, plan.refused, "write")
        chunks = self._chunker.chunk([put.document.text for put in plan.to_embed])
        work.reusable = self._patience.persist("reuse", lambda: self._writer.reusable(plan, chunks))
        work.chunks = chunks

    # --- stage 2: embed ----------------------------------------------------------------------------------------

    def _embed(self) -> None:
        with OrderedExecutor(_WINDOWS_AT_ONCE, "ingest-embed", self._guarded) as steps:
            while (item := self._to_embed.get()) is not None:
                if isinstance(item, Work):
                    steps.wait_for_slot()  # before the window is filled: batches go on arriving until it can begin
                    steps.submit(partial(self._embed_window, self._window(item)), self._hand_on)
                else:
                    steps.finish()
                    self._to_write.put(item)
        self._to_write.close()

    def _window(self, first: Work) -> Sequence[Work]:
        """The batch and those that wait behind it."""
        window = [first]
        tokens = first.tokens
        while tokens < self._policy.window_tokens and (more := self._to_embed.get_ready(Work)) is not None:
            window.append(more)
            tokens += more.tokens
        return window

    def _hand_on(self, window: Sequence[Work]) -> None:
        for work in window:
            self._to_write.put(work)

    def _embed_window(self, window: Sequence[Work]) -> Sequence[Work]:
        vectors, elapsed = self._embed_texts(window)
        for work in window:
            work.embed_s = elapsed
            embedded = []
            for put, document, known in zip(work.plan.to_embed, work.chunks, work.reusable, strict=True):
                rows = [vector for c in document if (vector := known.get(c.text, vectors.get(c.text))) is not None]
                if len(rows) == len(document):
                    embedded.append(EmbeddedPut(put, document, rows[0][None] if len(rows) == 1 else np.stack(rows)))
                else:
                    message = f"the model gave NaN or infinity for {len(document) - len(rows)} of its chunks"
                    self._refuse(work, [(put, "vector_not_finite", message)], "embed")
            work.embedded = embedded
            work.chunks = work.reusable = ()
        return window

    def _embed_texts(self, window: Sequence[Work]) -> tuple[Mapping[str, NDArray[np.float32]], float]:
        """Finite vectors of the texts that are not stored already, each text embedded once; and the seconds it took."""
        chunks: dict[str, Chunk] = {}
        total = 0
        for work in window:
            for document, known in zip(work.chunks, work.reusable, strict=True):
                total += len(document)
                chunks.update((chunk.text, chunk) for chunk in document if chunk.text not in known)
        self._metrics.embedding_reused.inc(total - len(chunks))
        if not chunks:
            return {}, 0.0
        started = time.monotonic()
        vectors = self._embedder.embed(list(chunks.values()))
        failpoints.hit("embedded")
        elapsed = time.monotonic() - started
        self._metrics.embedding_seconds.observe(elapsed)
        self._metrics.embedding_chunks.inc(len(chunks))
        self._metrics.embedding_tokens.inc(sum(len(chunk.token_ids) for chunk in chunks.values()))
        finite: NDArray[np.bool_] = np.all(np.isfinite(vectors), axis=1)
        return {text: vector for text, vector, ok in zip(chunks, vectors, finite, strict=True) if ok}, elapsed

    # --- stage 3: write ----------------------------------------------------------------------------------------

    def _write(self) -> None:
        with OrderedExecutor(self._policy.writers, "ingest-write", self._guarded) as steps:
            while (item := self._to_write.get()) is not None:
                if isinstance(item, Work):
                    steps.submit(partial(self._write_batch, item), partial(self._finish, item))
                else:
                    steps.finish()
                    item.passed.set()

    def _write_batch(self, work: Work) -> tuple[Applied, float]:
        """What was done, and the seconds it took."""
        started = time.monotonic()
        applied = self._patience.persist("write", lambda: self._apply(work))
        return applied, time.monotonic() - started

    def _finish(self, work: Work, written: tuple[Applied, float]) -> None:
        applied, write_s = written
        self._refuse(work, applied.refused, "write")
        if self._limits is not None:
            self._limits.judge("write", work.decoded, work.refused_late)
        for outcome in ("written", "deleted", "unchanged", "stale"):
            work.finished[outcome] += getattr(applied, outcome)
        again = work.taken_back
        work.finished["folded"] += len(work.folded) - len(again)
        self._acknowledge(work, applied.rows_written + applied.rows_deleted, again)
        if again:
            batch = Batch(again, sum(record.size for record in again), work.batch.trigger)
            self._incoming.put(Work(batch, work.number, work.started))
        log.info(
            "batch.written",
            batch=work.number,
            records=len(work.batch.records),
            positions=work.positions,
            **{name: count for name, count in work.finished.items() if count},
            rows=applied.rows_written,
            rows_deleted=applied.rows_deleted,
            embed_ms=round(work.embed_s * 1000),
            write_ms=round(write_s * 1000),
            total_ms=round((time.monotonic() - work.started) * 1000),
        )
        if self._tombstones is not None and self._tombstones.due:
            self._sweep(self._tombstones)

    def _apply(self, work: Work) -> Applied:
        """Write what still belongs to this worker: each attempt looks anew, for an outage may outlast a rebalance."""
        partitions = {record.position[:2] for record in work.batch.records}
        with self._claims.write_lock(work.number, partitions) as kept:
            if len(kept) == len(partitions):
                return self._writer.apply(work.plan, work.embedded)
            plan = work.plan.without(lambda operation: operation.position[:2] not in kept)
            return self._writer.apply(plan, [item for item in work.embedded if item.put.position[:2] in kept])

    def _sweep(self, tombstones: TombstoneSweep) -> None:
        with self._lock:
            self._number += 1
            number = self._number
        # As a batch of its own: who revokes a Kafka partition from now on fences it, and waits for its last call.
        with self._claims.write_lock(number, self._owned()) as kept:
            self._metrics.tombstones.inc(tombstones.step(kept))

    def _acknowledge(self, work: Work, rows: int, again: Sequence[SourceRecord]) -> None:
        left_out = work.rejected.union(record.position for record in again)
        now = self._wall_clock()
        fresh = self._metrics.freshness.labels("acked")
        positions = []
        for record in work.batch.records:
            if record.position not in left_out and not self._claims.abandoned(work.number, record.position[:2]):
                positions.append(record.position)
                fresh.observe(max(0.0, now - record.timestamp_ms / 1000))
        for outcome, count in work.finished.items():
            self._metrics.records.labels(outcome).inc(count)
        with self._lock:
            self._buffered_bytes -= work.batch.size - sum(record.size for record in again)
            self._unwritten.subtract(Counter(record.position[:2] for record in work.batch.records))
            self._unwritten.update(record.position[:2] for record in again)
        self._metrics.buffered_bytes.set(self._buffered_bytes)
        failpoints.hit("acked")
        self._governor.acked(Receipt(positions), rows)

    # --- what the stages share ---------------------------------------------------------------------------------

    def _refuse(self, work: Work, refused: Sequence[tuple[Put | Delete, str, str]], stage: str) -> None:
        if refused:
            work.refused.update(operation.key for operation, *_ in refused)
            records = {record.position: record for record in work.batch.records}
            late = [Rejected(records[operation.position], stage, reason, text) for operation, reason, text in refused]
            work.refused_late += late
            self._reject(work, late)

    def _reject(self, work: Work, rejected: Sequence[Rejected]) -> None:
        for item in rejected:
            work.rejected.add(item.position)
            self._metrics.dead_letters.labels(item.reason).inc()
            self._dead_letters.send(item)
            log.debug(
                "record.rejected", position="{}/{}/{}".format(*item.position), reason=item.reason, why=item.message
            )
        work.finished["dead_lettered"] += len(rejected)

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Stopped as error:
            self._fail(error)
        except MilvusStreamError as error:
            self._fail(error)
        except BaseException as error:  # the edge of the thread: nothing may die unseen
            if not self._ending.is_set():  # else it comes of what was cut off, as a model that was closed
                log.exception("flow.failed")
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None and not self._ending.is_set():
                self._error = error
        self._end()

    def _end(self) -> None:
        self._ending.set()
        self._patience.end()
        for lane in (self._incoming, self._to_embed, self._to_write):
            lane.abort()
