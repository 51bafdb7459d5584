"""The ingest flow: submitted batches become receipts.

Threads. Three stages, each with a thread of its own, joined by bounded queues:

    submit -> [incoming] -> Preparer -> [to_embed] -> EmbedStage -> [to_write] -> WriteStage -> FlushGovernor
              thread "ingest-prepare"   thread "ingest-embed"       thread "ingest-write"

The second stage runs two windows of batches at a time on further threads, the third stage in append mode two batches.

Order. Batches leave every stage in the order of submission, whichever thread ends first. So the operations of one key
are applied in their order, and in upsert mode the ledger rows of a batch are final before the next batch is begun.
After an assignment a barrier follows the batches submitted before it: once it has passed all stages, the writer drops
what it remembers of the store. Only records folded into one that could not be stored go back to the first stage
(see WriteStage).

Errors. A record that can never be stored goes to the dead letters. While Milvus or the schema registry cannot be
reached, the stage waits and repeats its call. Any other error ends all stages; the first one is raised by `check`.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from pipeline.backoff import Backoff
from pipeline.chunking import Chunker
from pipeline.embedding import Embedder
from pipeline.errors import MilvusStreamError
from pipeline.ingest.circuit_breaker import CircuitBreaker, RefusalLimit
from pipeline.ingest.context import FlowContext, FlowQueues
from pipeline.ingest.decoding import PatientDecoder
from pipeline.ingest.embed import WINDOW_TOKENS, EmbedStage
from pipeline.ingest.ownership.in_flight import SetAside
from pipeline.ingest.ownership.partition_fencing import PartitionFence
from pipeline.ingest.ownership.redo_bounds import RedoBounds
from pipeline.ingest.ports import DeadLetterLimit, DeadLetterSink, RecordLookup
from pipeline.ingest.prepare import Preparer
from pipeline.ingest.queues.batching import Batch
from pipeline.ingest.rejections import Rejections
from pipeline.ingest.restore import DocumentRestorer
from pipeline.ingest.stages import Barrier, Submitted
from pipeline.ingest.write import WriteStage
from pipeline.ingest.write_modes import WriteMode
from pipeline.intake import Decoder
from pipeline.records import KafkaPartition, Position, Receipt
from pipeline.store import FlushGovernor, TombstoneSweep, Writer
from pipeline.telemetry import IngestMetrics

log = structlog.get_logger(__name__)

RETRY = Backoff(first_s=0.5, cap_s=30.0)
"""Waits between calls to a Milvus that cannot be reached."""
REFUSALS = RefusalLimit(times=10, over_s=120.0)
SET_ASIDE_S = 15.0
"""Wait before a document is tried again that Milvus refuses in unlisted words."""


@dataclass(frozen=True, slots=True)
class FlowPolicy:
    """How the flow runs."""

    mode: WriteMode
    window_tokens: int = WINDOW_TOKENS
    """Tokens of waiting batches that are embedded together."""
    retry: Backoff = RETRY
    refusals: RefusalLimit = REFUSALS
    set_aside_s: float = SET_ASIDE_S


class IngestFlow:
    """Takes batches and produces receipts, on threads of its own.

    `submit` never blocks: the caller watches `buffered_bytes` and reads no more from Kafka above its budget.
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
        fence: PartitionFence,
        other_call: Callable[[], object],
        limits: DeadLetterLimit | None = None,
        lookup: RecordLookup | None = None,
        bounds: RedoBounds | None = None,
        tombstones: TombstoneSweep | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`other_call`: see `CircuitBreaker`. `limits` None: any number of records may be rejected.

        `lookup` None: no document is restored.
        """
        self._metrics = metrics
        self._fence = fence
        self._queues = FlowQueues()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._ending = threading.Event()
        breaker = partial(
            CircuitBreaker,
            policy.retry,
            lambda stage: metrics.retries.labels(stage).inc(),
            other_call=other_call,
            limit=policy.refusals,
        )
        self._breaker = breaker()
        # One of its own: while the registry is away, what is decoded already is still written.
        self._registry = breaker(server="registry")
        patient = PatientDecoder(decoder, self._registry)
        rejections = Rejections(dead_letters, limits)
        bounds = bounds or RedoBounds()
        context = FlowContext(
            self._queues, fence, self._breaker, rejections, bounds, metrics, self._guarded, wall_clock
        )
        restorer = None
        if lookup is not None:
            restorer = DocumentRestorer(
                decoder=patient, writer=writer, lookup=lookup, breaker=self._breaker, bounds=bounds, metrics=metrics
            )
        prepare = Preparer(
            context, decoder=patient, chunker=chunker, writer=writer, mode=policy.mode, restorer=restorer
        )
        embed = EmbedStage(context, embedder, policy.window_tokens)
        write = WriteStage(
            context,
            writer=writer,
            writers=policy.mode.writers,
            governor=governor,
            tombstones=tombstones,
            restorer=restorer,
            set_aside_s=policy.set_aside_s,
        )
        self._threads = [
            threading.Thread(target=self._guarded, args=(stage,), name=f"ingest-{name}", daemon=True)
            for name, stage in (("prepare", prepare.run), ("embed", embed.run), ("write", write.run))
        ]

    # --- the caller's side -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the stages."""
        for thread in self._threads:
            thread.start()

    def submit(self, batch: Batch) -> None:
        """Take charge of a batch; its records come back in receipts. Never blocks. Raises Stopped after an error."""
        number = self._fence.batches.open(batch.records, batch.size)
        self._metrics.batches.labels(batch.trigger).inc()
        self._metrics.batch_records.observe(len(batch.records))
        self._queues.incoming.put(Submitted(number, batch, time.monotonic()))

    def assign(self, partitions: Collection[KafkaPartition]) -> None:
        """These Kafka partitions belong to this worker now.

        Others may have written their documents: what is remembered of the store is dropped behind the batches
        submitted before, which write and finish nothing of these any more.
        """
        self._fence.assign(partitions)
        self._queues.incoming.put(Barrier())

    def finished(self, receipt: Receipt) -> Sequence[Position]:
        """Return the positions of a receipt, except those of Kafka partitions assigned again since its batch."""
        return self._fence.finished(receipt)

    def revoke(self, partitions: Collection[KafkaPartition]) -> None:
        """These Kafka partitions belong to another worker now: no further call writes them. See `writing`."""
        self._fence.revoke(partitions)

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a call that writes records of these Kafka partitions may be under way; every call has a deadline."""
        return self._fence.writing(partitions)

    @property
    def fenced(self) -> bool:
        """Whether a batch being written holds revoked records: no further call of it may be sent."""
        return self._fence.fenced

    @property
    def buffered_bytes(self) -> int:
        """Bytes of records submitted and not yet acknowledged by Milvus."""
        return self._fence.batches.size

    @property
    def oldest_ms(self) -> int | None:
        """The earliest Kafka timestamp of the records submitted and not yet acknowledged, epoch milliseconds."""
        return self._fence.batches.oldest_ms

    @property
    def set_aside(self) -> SetAside:
        """The records that wait to be tried again, because Milvus refuses their documents in unlisted words."""
        return self._fence.batches.set_aside

    def unwritten(self, partitions: Collection[KafkaPartition]) -> int:
        """Records of these Kafka partitions submitted and not yet acknowledged."""
        return self._fence.batches.unwritten(partitions)

    @property
    def idle(self) -> bool:
        """Whether every submitted record has been acknowledged or handed to the dead letters."""
        return self._fence.batches.idle

    @property
    def waiting_reasons(self) -> Mapping[str, str]:
        """By stage: why it is waiting for Milvus at the moment."""
        return self._breaker.waiting_reasons

    @property
    def registry_problem(self) -> str | None:
        """Why decoding is waiting for the schema registry at the moment; None where it is not."""
        return self._registry.waiting_reasons.get("decode")

    def check(self) -> None:
        """Raise the error that ended the flow, if one did."""
        if self._error is not None:
            raise self._error

    def close(self, timeout_s: float) -> bool:
        """Let the stages finish what was submitted; False if they were cut off after `timeout_s` or had failed."""
        self._queues.incoming.close()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        finished = not any(thread.is_alive() for thread in self._threads)
        self._end()
        return finished and self._error is None

    # --- the end -----------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work. The edge of every thread of the flow: no error may be lost."""
        try:
            work()
        except MilvusStreamError as error:
            self._fail(error)
        except BaseException as error:
            if not self._ending.is_set():  # else it is an effect of the end, such as a closed model
                log.exception("flow.failed")
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None and not self._ending.is_set():
                self._error = error
        self._end()

    def _end(self) -> None:
        self._ending.set()
        self._breaker.end()
        self._registry.end()
        self._queues.abort()
