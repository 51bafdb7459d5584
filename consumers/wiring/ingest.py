"""Configuration -> an ingest worker or a replay job; beside `wiring`, whose parts it puts together."""

import gc
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import structlog
from prometheus_client import CollectorRegistry

from consumers.config.settings import Settings
from consumers.dead_letters.limits import DeadLetterLimiter, DeadLetterLimits
from consumers.ingest.worker import IngestWorker, Summary, WorkerPolicy
from consumers.kafka import (
    DeadLetters,
    DeadLetterTopic,
    KafkaSettings,
    KafkaSource,
    Source,
    ensure_dead_letter_topic,
)
from consumers.replay.guard import GuardedWriter
from consumers.replay.job import RejectedLog, ReplayProcess
from consumers.replay.plan import ReplayPlan
from consumers.replay.range import GroupWatch
from consumers.replay.source import ReplaySource
from consumers.side_port import SidePort
from consumers.wiring import common as wiring
from pipeline.embedding import Embedder
from pipeline.ingest.batching import BatchPolicy
from pipeline.ingest.flow import WINDOW_TOKENS, FlowPolicy, IngestFlow
from pipeline.records import Receipt
from pipeline.store import (
    STALENESS_S,
    AppendWriter,
    Flusher,
    FlushGovernor,
    FlushMarker,
    FlushPolicy,
    Ledger,
    MilvusPartitions,
    MilvusServerApi,
    SweepPolicy,
    TombstoneSweep,
    UpsertWriter,
    WritePolicy,
    Writer,
    holds_topic,
    ledger_name,
    open_collection,
    open_ledger,
)
from pipeline.telemetry.metrics import IngestMetrics

log = structlog.get_logger(__name__)

APPENDING = 2
"""Batches appended at a time: while the server works on one, Python packs the next."""
PASSES = 4
"""Of the model over one window of batches, at least: on a GPU one pass may take more than the usual window."""
LITE_FLUSH_ROWS = 1500
"""Milvus Lite searches rows not yet flushed one by one, about 40 µs each: flush before that is felt."""


@dataclass(frozen=True, slots=True)
class IngestProcess:
    """A worker with what stands around it."""

    worker: IngestWorker
    side_port: SidePort

    def run(self, stop: threading.Event) -> Summary:
        """Run the worker until `stop` is set, it has caught up or it fails; its first error is raised."""
        self.side_port.start()
        log.info("ingest.listening", address=self.side_port.address)
        # What is there now stays until the process ends. Looking it through again and again while records come and go
        # would take a sixth of a worker's processor time, 0.1 s at a time with Python's lock held.
        gc.freeze()
        try:
            return self.worker.run(stop)
        finally:
            self.side_port.close()


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
    receipts: deque[Receipt] = deque()
    ensure_dead_letter_topic(kafka, settings.kafka.dead_letter_topic, create=settings.kafka.create_dead_letter_topic)
    target = writer(settings, api, model, metrics)
    open_ledger(api, settings.milvus.collection)  # in append mode, too: workers tell each other of flushes by it
    worker = _worker(
        settings,
        api,
        model,
        marker=FlushMarker(api, settings.milvus.collection),
        source=source(settings, kafka, api),
        writer=target,
        dead_letters=DeadLetters(kafka, settings.kafka.dead_letter_topic, on_confirmed=receipts.append),
        limits=DeadLetterLimiter(DeadLetterLimits(**settings.dead_letters.model_dump())),
        receipts=receipts,
        metrics=metrics,
        until_caught_up=until_caught_up,
        max_records=max_records,
    )
    return IngestProcess(worker, _side_port(settings, worker, metrics))


def replay(
    settings: Settings, plan: ReplayPlan, api: MilvusServerApi, model: Embedder, metrics: IngestMetrics
) -> ReplayProcess:
    """Build a replay of `plan`, which must have something to read, into the collection of `settings`; see `ingest`."""
    metrics.build.labels(version("milvus-stream"), model.stamp.name).set(1)
    kafka = wiring.kafka_settings(settings)
    receipts: deque[Receipt] = deque()
    own = ReplaySource(kafka, plan.span, rate=plan.rate)
    rejected = RejectedLog(receipts.append)
    target = writer(settings, api, model, metrics)
    if plan.live and settings.mode == "upsert":
        name = settings.milvus.collection

        def look(strong: bool) -> Ledger:
            return Ledger(api, name, WritePolicy(), staleness_s=STALENESS_S if strong else 0.0)

        target = GuardedWriter(target, look, GroupWatch(kafka).active)
    worker = _worker(
        settings,
        api,
        model,
        marker=None,
        source=own,
        writer=target,
        dead_letters=rejected,
        limits=None,  # the range was judged when it was ingested; here its rejected records are only counted
        receipts=receipts,
        metrics=metrics,
        until_caught_up=True,
        max_records=None,
    )
    return ReplayProcess(kafka, plan, own, worker, rejected, metrics, _side_port(settings, worker, metrics))


def source(settings: Settings, kafka: KafkaSettings, api: MilvusServerApi) -> KafkaSource:
    """The member of the consumer group."""
    if settings.kafka.start_from == "earliest":
        return KafkaSource(kafka)
    # A group whose offsets have all expired looks like a new one to Kafka. Starting anywhere but at the beginning
    # would skip what it has not read; rows of the topic tell that this is no first start.
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
    """A writer into a collection that is open already; `ledger`: one to share, in upsert mode."""
    name, by = settings.milvus.collection, settings.partitioning.by
    if settings.mode == "append":
        return AppendWriter(api, name, partitions, by)
    return UpsertWriter(api, name, partitions, by, fingerprint=fingerprint(settings, model), ledger=ledger)


def fingerprint(settings: Settings, model: Embedder) -> str:
    """Of model and chunking: a record read again after a change of either is written again, as other rows."""
    return f"{model.stamp.fingerprint}-{settings.chunking.max_tokens}-{settings.chunking.overlap}"


def _worker(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    *,
    marker: FlushMarker | None,
    source: Source,
    writer: Writer,
    dead_letters: DeadLetterTopic,
    limits: DeadLetterLimiter | None,
    receipts: deque[Receipt],
    metrics: IngestMetrics,
    until_caught_up: bool,
    max_records: int | None,
) -> IngestWorker:

    def on_durable(durable: Sequence[Receipt]) -> None:
        metrics.last_durable.set(time.time())
        receipts.extend(durable)

    flusher = Flusher(
        api,
        _collections(settings),
        FlushPolicy(
            durability=settings.milvus.durability,
            interval_s=settings.milvus.flush_interval.total_seconds(),
            rows=LITE_FLUSH_ROWS if api.server.capabilities.slow_unflushed_search else None,
        ),
        on_durable=on_durable,
        on_flush=metrics.observe_flush,
        marker=marker,
        # The owner of the first Kafka partition flushes for all workers; a replay job, without a marker, for itself.
        leads=lambda: (settings.kafka.topics[0], 0) in worker.owned,
    )
    governor = FlushGovernor(flusher)
    flow = IngestFlow(
        decoder=wiring.decoder(settings),
        chunker=wiring.chunker(settings, model),
        embedder=model,
        writer=writer,
        governor=governor,
        dead_letters=dead_letters,
        metrics=metrics,
        policy=FlowPolicy(
            append=settings.mode == "append",
            writers=APPENDING if settings.mode == "append" else 1,
            window_tokens=max(WINDOW_TOKENS, PASSES * model.execution.token_budget),
        ),
        limits=limits,
        tombstones=_tombstones(settings, api) if marker is not None else None,
        owned=lambda: worker.owned,
    )
    session_s = settings.kafka.session_timeout.total_seconds()
    # No write may end after the group could have given this worker's share to another.
    api.fence(lambda: -math.inf if flow.fenced else source.last_heartbeat() + session_s - time.monotonic())
    batch = settings.batch
    worker = IngestWorker(
        source=source,
        flow=flow,
        governor=governor,
        dead_letters=dead_letters,
        receipts=receipts,
        metrics=metrics,
        policy=WorkerPolicy(
            batch=BatchPolicy(batch.max_records, batch.max_bytes, batch.max_wait.total_seconds()),
            buffer_bytes=batch.buffer_bytes,
            shutdown_s=settings.shutdown_timeout.total_seconds(),
            until_caught_up=until_caught_up,
            max_records=max_records,
        ),
    )
    return worker


def _tombstones(settings: Settings, api: MilvusServerApi) -> TombstoneSweep | None:
    if settings.mode == "append" or settings.milvus.tombstone_retention is None:
        return None
    policy = SweepPolicy(retention_s=settings.milvus.tombstone_retention.total_seconds())
    return TombstoneSweep(api, settings.milvus.collection, policy)


def _side_port(settings: Settings, worker: IngestWorker, metrics: IngestMetrics) -> SidePort:
    section = settings.telemetry
    return SidePort(section.host, section.port, metrics.registry, alive=worker.alive, ready=worker.ready)


def _collections(settings: Settings) -> tuple[str, ...]:
    name = settings.milvus.collection
    return (name,) if settings.mode == "append" else (name, ledger_name(name))
