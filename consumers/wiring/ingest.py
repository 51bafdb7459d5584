"""Builds an ingest worker or a replay job from the configuration."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import structlog
from prometheus_client import CollectorRegistry

from consumers.config.settings import Settings
from consumers.dead_letters import (
    DeadLetterLimiter,
    DeadLetterLimits,
    DeadLetterProducer,
    ensure_dead_letter_topic,
)
from consumers.ingest import IngestWorker, Summary, WorkerPolicy
from consumers.kafka import GroupWatch, KafkaSettings, KafkaSource, Source
from consumers.replay import GuardedWriter, RejectedLog, ReplayPlan, ReplayProcess, ReplaySource
from consumers.wiring import common as wiring
from consumers.wiring.process_memory import frozen
from pipeline.backoff import Backoff
from pipeline.embedding import Embedder
from pipeline.ingest import (
    APPEND,
    RETRY,
    UPSERT,
    WINDOW_TOKENS,
    BatchesInFlight,
    BatchPolicy,
    CommitQueue,
    DeadLetterChannel,
    FlowPolicy,
    IngestFlow,
    PartitionFence,
)
from pipeline.records import Receipt
from pipeline.store import (
    AppendWriter,
    FlushGovernor,
    FlushPolicy,
    MilvusPartitions,
    MilvusServerApi,
    SweepPolicy,
    TombstoneSweep,
    UpsertWriter,
    WritePolicy,
    Writer,
    holds_topic,
    open_collection,
    open_ledger,
)
from pipeline.store.collection.schema import ledger_name
from pipeline.store.flushing.shared_marker import FlushMarker
from pipeline.store.writing.ledger import STALENESS_S, Ledger
from pipeline.telemetry.metrics import IngestMetrics

log = structlog.get_logger(__name__)

PASSES = 4
"""Least number of forward passes over one window of batches: on a GPU one pass may take more than the usual window."""
LITE_FLUSH_ROWS = 1500
"""Milvus Lite searches rows not yet flushed one by one, about 40 µs each: flush before searches become slow."""


@dataclass(frozen=True, slots=True)
class IngestProcess:
    """A worker with everything it needs loaded."""

    worker: IngestWorker

    def run(self, stop: threading.Event) -> Summary:
        """Run the worker until `stop` is set, it has caught up or it fails; its first error is raised."""
        with frozen():
            return self.worker.run(stop)


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """The parts of a worker that differ between an ingest worker, a replay job and the tests."""

    api: MilvusServerApi
    model: Embedder
    source: Source
    writer: Writer
    dead_letters: DeadLetterChannel
    receipts: CommitQueue
    """The queue into which `dead_letters` puts its receipts."""
    metrics: IngestMetrics
    limits: DeadLetterLimiter | None = None
    """None: any number of records may be rejected."""
    marker: FlushMarker | None = None
    """Shared by the workers of a group, of which one flushes for all. None: the worker flushes for itself."""
    tombstones: TombstoneSweep | None = None
    retry: Backoff = RETRY
    wall_clock: Callable[[], float] = time.time


def ingest_metrics() -> IngestMetrics:
    """The metrics of one ingest worker, in a registry of their own."""
    return IngestMetrics(CollectorRegistry())


def ingest(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    *,
    until_caught_up: bool,
    max_records: int | None,
    metrics: IngestMetrics | None = None,
) -> IngestProcess:
    """Build an ingest worker; creates collection, index and dead-letter topic where they are missing.

    `metrics`: those that `api` reports its calls to. Raises UsageError (setting), Unavailable (Kafka or Milvus),
    Mismatch (collection of another schema or model).
    """
    metrics = metrics or ingest_metrics()
    metrics.build.labels(version("milvus-stream"), model.stamp.name).set(1)
    kafka = wiring.kafka_settings(settings)
    receipts = CommitQueue()
    ensure_dead_letter_topic(kafka, settings.kafka.dead_letter_topic, create=settings.kafka.create_dead_letter_topic)
    target = writer(settings, api, model, metrics)
    open_ledger(api, settings.milvus.collection)  # in append mode, too: it holds the marker of the flushes
    parts = WorkerParts(
        api=api,
        model=model,
        source=source(settings, kafka, api),
        writer=target,
        dead_letters=DeadLetterProducer(kafka, settings.kafka.dead_letter_topic, on_confirmed=receipts.put),
        receipts=receipts,
        metrics=metrics,
        limits=DeadLetterLimiter(DeadLetterLimits(**settings.dead_letters.model_dump())),
        marker=FlushMarker(api, settings.milvus.collection),
        tombstones=_tombstones(settings, api),
    )
    worker, _ = join(settings, parts, until_caught_up=until_caught_up, max_records=max_records)
    return IngestProcess(worker)


def replay(
    settings: Settings, plan: ReplayPlan, api: MilvusServerApi, model: Embedder, metrics: IngestMetrics
) -> ReplayProcess:
    """Build a replay of `plan`, which must have something to read, into the collection of `settings`; see `ingest`."""
    metrics.build.labels(version("milvus-stream"), model.stamp.name).set(1)
    kafka = wiring.kafka_settings(settings)
    receipts = CommitQueue()
    range_source = ReplaySource(kafka, plan.span, rate=plan.rate)
    rejected = RejectedLog(receipts.put)
    target = writer(settings, api, model, metrics)
    if plan.live and settings.mode == "upsert":
        name = settings.milvus.collection

        def ledger(strong: bool) -> Ledger:
            return Ledger(api, name, WritePolicy(), staleness_s=STALENESS_S if strong else 0.0)

        target = GuardedWriter(target, ledger, GroupWatch(kafka).active)
    # No limit: the range was within it, or the worker stopped, when it was ingested. Its rejected records are counted.
    parts = WorkerParts(
        api=api,
        model=model,
        source=range_source,
        writer=target,
        dead_letters=rejected,
        receipts=receipts,
        metrics=metrics,
    )
    worker, _ = join(settings, parts, until_caught_up=True)
    return ReplayProcess(kafka, plan, range_source, worker, rejected, metrics.outcomes)


def source(settings: Settings, kafka: KafkaSettings, api: MilvusServerApi) -> KafkaSource:
    """The member of the consumer group."""
    if settings.kafka.start_from == "earliest":
        return KafkaSource(kafka)
    # To Kafka a group whose offsets have all expired is a new one. Starting anywhere but at the beginning would skip
    # records that it has not read; rows of the topic show that this is not its first start.
    return KafkaSource(kafka, stored=lambda topic: holds_topic(api, settings.milvus.collection, topic))


def writer(settings: Settings, api: MilvusServerApi, model: Embedder, metrics: IngestMetrics) -> Writer:
    """Open the collection (and in upsert mode its ledger) for writing."""
    name, most = settings.milvus.collection, settings.partitioning.max_partitions
    open_collection(api, name, asdict(model.stamp), model.stamp.dimension, wiring.index_settings(settings), create=True)
    if settings.mode == "upsert":
        open_ledger(api, name)
    partitions = MilvusPartitions(api, name, most, on_count=metrics.milvus_partitions.set)
    return writer_into(settings, api, model, partitions)


def writer_into(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    partitions: MilvusPartitions,
    ledger: Ledger | None = None,
) -> Writer:
    """Build a writer into a collection that is open already; `ledger`: one to share, in upsert mode."""
    name, by = settings.milvus.collection, settings.partitioning.by
    if settings.mode == "append":
        return AppendWriter(api, name, partitions, by)
    return UpsertWriter(api, name, partitions, by, fingerprint=fingerprint(settings, model), ledger=ledger)


def fingerprint(settings: Settings, model: Embedder) -> str:
    """Identify model and chunking: after a change of either, a record that is read again is written again."""
    return f"{model.stamp.fingerprint}-{settings.chunking.max_tokens}-{settings.chunking.overlap}"


def join(
    settings: Settings, parts: WorkerParts, *, until_caught_up: bool = False, max_records: int | None = None
) -> tuple[IngestWorker, IngestFlow]:
    """Join the parts to a worker; also returns the flow inside it, for observers.

    The caller makes the connections; nothing is sent to Kafka or Milvus here.
    """
    fence = PartitionFence(BatchesInFlight())
    governor = _governor(settings, parts, fence)
    mode = APPEND if settings.mode == "append" else UPSERT
    window_tokens = max(WINDOW_TOKENS, PASSES * parts.model.execution.token_budget)
    flow = IngestFlow(
        decoder=wiring.decoder(settings),
        chunker=wiring.chunker(settings, parts.model),
        embedder=parts.model,
        writer=parts.writer,
        governor=governor,
        dead_letters=parts.dead_letters,
        metrics=parts.metrics,
        policy=FlowPolicy(mode, window_tokens, parts.retry),
        fence=fence,
        limits=parts.limits,
        tombstones=parts.tombstones,
        wall_clock=parts.wall_clock,
    )
    session_s = settings.kafka.session_timeout.total_seconds()
    # No write may end after the group could have given this worker's share to another.
    parts.api.fence(lambda: -math.inf if fence.fenced else parts.source.last_heartbeat() + session_s - time.monotonic())
    batch = settings.batch
    policy = WorkerPolicy(
        batch=BatchPolicy(batch.max_records, batch.max_bytes, batch.max_wait.total_seconds()),
        buffer_bytes=batch.buffer_bytes,
        session_s=session_s,
        shutdown_s=settings.shutdown_timeout.total_seconds(),
        until_caught_up=until_caught_up,
        max_records=max_records,
    )
    worker = IngestWorker(
        source=parts.source,
        flow=flow,
        governor=governor,
        dead_letters=parts.dead_letters,
        receipts=parts.receipts,
        metrics=parts.metrics,
        policy=policy,
    )
    return worker, flow


def _governor(settings: Settings, parts: WorkerParts, fence: PartitionFence) -> FlushGovernor:
    def put_durable(receipts: Sequence[Receipt]) -> None:
        parts.metrics.last_durable.set(time.time())
        parts.receipts.put_all(receipts)

    first_partition = (settings.kafka.topics[0], 0)
    return FlushGovernor(
        parts.api,
        _collections(settings),
        FlushPolicy(
            durability=settings.milvus.durability,
            interval_s=settings.milvus.flush_interval.total_seconds(),
            rows=LITE_FLUSH_ROWS if parts.api.server.lite else None,
        ),
        on_durable=put_durable,
        on_flush=parts.metrics.observe_flush,
        marker=parts.marker,
        # The owner of the first Kafka partition flushes for all workers; a replay job, without a marker, for itself.
        leads=lambda: first_partition in fence.owned,
    )


def _tombstones(settings: Settings, api: MilvusServerApi) -> TombstoneSweep | None:
    if settings.mode == "append" or settings.milvus.tombstone_retention is None:
        return None
    policy = SweepPolicy(retention_s=settings.milvus.tombstone_retention.total_seconds())
    return TombstoneSweep(api, settings.milvus.collection, policy)


def _collections(settings: Settings) -> tuple[str, ...]:
    name = settings.milvus.collection
    return (name,) if settings.mode == "append" else (name, ledger_name(name))
