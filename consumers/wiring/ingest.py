"""The ingest worker: its parts from the configuration, joined to one process."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import structlog
from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.dead_letters import (
    DeadLetterLimiter,
    DeadLetterLimits,
    DeadLetterProducer,
    ensure_dead_letter_topic,
)
from consumers.ingest import IngestWorker, WorkerPolicy
from consumers.kafka import KafkaSettings, KafkaSource, Source
from consumers.wiring.collection import open_writer
from consumers.wiring.connections import kafka_settings
from consumers.wiring.documents import chunker, decoder
from consumers.wiring.modes import mode_of
from pipeline.backoff import Backoff
from pipeline.embedding import Embedder
from pipeline.ingest import (
    RETRY,
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
    Flusher,
    FlushGovernor,
    FlushMarker,
    FlushPolicy,
    MilvusServerApi,
    SweepPolicy,
    TombstoneSweep,
    Writer,
    holds_topic,
    open_ledger,
)
from pipeline.telemetry import IngestMetrics

log = structlog.get_logger(__name__)

PASSES = 4
"""Least number of forward passes over one window of batches: on a GPU one pass may take more than the usual window."""
LITE_FLUSH_ROWS = 1500
"""Milvus Lite searches rows not yet flushed one by one, about 40 µs each: flush before searches become slow."""


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
    fence: PartitionFence = field(default_factory=lambda: PartitionFence(BatchesInFlight()))
    retry: Backoff = RETRY
    wall_clock: Callable[[], float] = time.time


def ingest_metrics() -> IngestMetrics:
    """The metrics of one ingest worker, in a registry of their own."""
    return IngestMetrics(CollectorRegistry())


def ingest_worker(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    *,
    until_caught_up: bool,
    max_records: int | None,
    metrics: IngestMetrics | None = None,
) -> IngestWorker:
    """An ingest worker; creates collection, index and dead-letter topic where they are missing.

    `metrics`: those that `api` reports its calls to. Raises UsageError (setting), Unavailable (Kafka or Milvus),
    Mismatch (collection of another schema or model).
    """
    metrics = metrics or ingest_metrics()
    metrics.build.labels(version("milvus-stream"), model.stamp.name).set(1)
    kafka = kafka_settings(settings)
    receipts = CommitQueue()
    ensure_dead_letter_topic(kafka, settings.kafka.dead_letter_topic, create=settings.kafka.create_dead_letter_topic)
    fence = PartitionFence(BatchesInFlight())
    writer = open_writer(settings, api, model, metrics, owned=lambda: fence.owned)
    open_ledger(api, settings.milvus.collection)  # in append mode, too: it holds the flush marker
    parts = WorkerParts(
        api=api,
        model=model,
        source=_source(settings, kafka, api),
        writer=writer,
        dead_letters=DeadLetterProducer(kafka, settings.kafka.dead_letter_topic, on_confirmed=receipts.put),
        receipts=receipts,
        metrics=metrics,
        limits=DeadLetterLimiter(DeadLetterLimits(**settings.dead_letters.model_dump())),
        marker=FlushMarker(api, settings.milvus.collection),
        tombstones=_tombstones(settings, api),
        fence=fence,
    )
    worker, _ = join_worker(settings, parts, until_caught_up=until_caught_up, max_records=max_records)
    return worker


def _source(settings: Settings, kafka: KafkaSettings, api: MilvusServerApi) -> KafkaSource:
    """The member of the consumer group."""
    if settings.kafka.start_from == "earliest":
        return KafkaSource(kafka)
    # To Kafka a group whose offsets have all expired is a new one. Starting anywhere but at the beginning would skip
    # records that it has not read; rows of the topic show that this is not its first start.
    return KafkaSource(kafka, stored=lambda topic: holds_topic(api, settings.milvus.collection, topic))


def join_worker(
    settings: Settings, parts: WorkerParts, *, until_caught_up: bool = False, max_records: int | None = None
) -> tuple[IngestWorker, IngestFlow]:
    """Join the parts to a worker; also returns the flow inside it, for observers.

    The caller makes the connections; nothing is sent to Kafka or Milvus here.
    """
    fence = parts.fence
    governor = _governor(settings, parts, fence)
    window_tokens = max(WINDOW_TOKENS, PASSES * parts.model.execution.token_budget)
    flow = IngestFlow(
        decoder=decoder(settings),
        chunker=chunker(settings, parts.model),
        embedder=parts.model,
        writer=parts.writer,
        governor=governor,
        dead_letters=parts.dead_letters,
        metrics=parts.metrics,
        policy=FlowPolicy(mode_of(settings).flow, window_tokens, parts.retry),
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
    flusher = Flusher(
        parts.api,
        mode_of(settings).collections(settings.milvus.collection),
        FlushPolicy(
            durability=settings.milvus.durability,
            interval_s=settings.milvus.flush_interval.total_seconds(),
            rows=LITE_FLUSH_ROWS if parts.api.server.capabilities.slow_unflushed_search else None,
        ),
        on_durable=put_durable,
        on_flush=parts.metrics.observe_flush,
        marker=parts.marker,
        # The owner of the first Kafka partition flushes for all workers; a replay job, without a marker, for itself.
        leads=lambda: first_partition in fence.owned,
    )
    return FlushGovernor(flusher)


def _tombstones(settings: Settings, api: MilvusServerApi) -> TombstoneSweep | None:
    if not mode_of(settings).one_version or settings.milvus.tombstone_retention is None:
        return None
    policy = SweepPolicy(retention_s=settings.milvus.tombstone_retention.total_seconds())
    return TombstoneSweep(api, settings.milvus.collection, policy)
