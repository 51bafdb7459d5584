"""Configuration -> objects: the only module that builds the graph of a process."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from consumers.ingest_worker import IngestWorker, Summary, WorkerPolicy
from consumers.kafka import (
    DeadLetters,
    DeadLetterTopic,
    KafkaSettings,
    KafkaSource,
    Source,
    ensure_dead_letter_topic,
)
from consumers.kafka.letter_limits import LetterLimits, LetterPolicy
from consumers.kafka.replay_range import GroupWatch
from consumers.kafka.replay_source import ReplaySource
from consumers.replay import RejectedLog, ReplayProcess
from consumers.replay_guard import GuardedWriter
from consumers.replay_plan import ReplayPlan
from consumers.settings import Settings
from consumers.side_port import SidePort
from pipeline.batching import BatchPolicy
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, QueryBatcher, load_embedder
from pipeline.errors import MilvusStreamError, Unavailable
from pipeline.ingest import FlowPolicy, IngestFlow
from pipeline.intake import Decoder, IntakeLimits, RecordMapping
from pipeline.query import Limits, Searcher, SearchSettings
from pipeline.records import Receipt
from pipeline.store import (
    AppendWriter,
    FlushGovernor,
    FlushPolicy,
    IndexSettings,
    MilvusPartitions,
    MilvusServerApi,
    SweepPolicy,
    TombstoneSweep,
    UpsertWriter,
    WritePolicy,
    Writer,
    check_model,
    holds_topic,
    open_collection,
    open_ledger,
)
from pipeline.store.calls import Observer, unobserved
from pipeline.store.flush_marker import FlushMarker
from pipeline.store.ledger import STALENESS_S, Ledger
from pipeline.telemetry import IngestMetrics, QueryMetrics

log = structlog.get_logger(__name__)

LITE_FLUSH_ROWS = 1500
"""Milvus Lite searches rows not yet flushed one by one, about 40 µs each: flush before that is felt."""


@contextmanager
def milvus(settings: Settings, observe: Observer = unobserved) -> Iterator[MilvusServerApi]:
    """A connection to the configured Milvus; a path ending in .db is served by a Milvus Lite of this machine.

    `observe` is told of every call: operation, seconds, error.
    """
    from pipeline.store import connect  # noqa: PLC0415 - imports pymilvus, a second that not every command needs

    token = settings.milvus.token.get_secret_value() if settings.milvus.token else None
    timeout_s = settings.milvus.timeout.total_seconds()
    if settings.milvus.uri.endswith(".db"):
        from consumers.local import LocalMilvusLite  # noqa: PLC0415 - needs the extra `local`

        with LocalMilvusLite(Path(settings.milvus.uri)) as uri:
            api = connect(uri, token, timeout_s=timeout_s, observe=observe)
            try:
                yield api
            finally:
                api.close()
        return
    api = connect(settings.milvus.uri, token, timeout_s=timeout_s, observe=observe)
    try:
        yield api
    finally:
        api.close()


def kafka_settings(settings: Settings) -> KafkaSettings:
    """How to reach Kafka; raises UsageError for an option the client does not know."""
    section = settings.kafka
    return KafkaSettings(
        bootstrap_servers=section.bootstrap_servers,
        topics=section.topics,
        group_id=section.group_id,
        start_from=section.start_from,
        session_timeout_ms=_ms(section.session_timeout),
        max_poll_records=settings.batch.max_records,
        assignor=section.assignor,
        options=section.client_options,
    )


def decoder(settings: Settings) -> Decoder:
    """The intake for the configured records."""
    section, times = settings.record, settings.partitioning
    return Decoder(
        RecordMapping(**section.model_dump()),
        IntakeLimits(
            max_record_bytes=settings.kafka.max_record_bytes,
            future_skew_ms=_ms(times.future_skew),
            retention_ms=None if times.retention is None else _ms(times.retention),
        ),
        append=settings.mode == "append",
    )


@contextmanager
def embedder(settings: Settings) -> Iterator[Embedder]:
    """The configured model, loaded. Raises UsageError when it is not on this machine or may not be loaded."""
    model = load_embedder(EmbeddingSettings(**settings.embedding.model_dump()))
    try:
        yield model
    finally:
        model.close()


def chunker(settings: Settings, model: Embedder) -> Chunker:
    """Cuts texts as configured, at most to what the model takes."""
    return Chunker(model.tokenizer, ChunkingPolicy(settings.chunking.max_tokens, settings.chunking.overlap))


def limits(settings: Settings) -> Limits:
    """What one search request may contain."""
    return Limits(max_limit=settings.query.max_limit)


def searcher(settings: Settings, api: MilvusServerApi, model: Embedder) -> Searcher:
    """A searcher over the configured collection.

    A collection that is not there yet is no error: searches are answered 503 until a worker has made it.
    Raises Mismatch for a collection of another model.
    """
    stamp = asdict(model.stamp)
    made = Searcher(
        api,
        settings.milvus.collection,
        SearchSettings(one_version=settings.mode == "upsert"),
        accept=lambda info: check_model(info, stamp),
    )
    with suppress(Unavailable):
        made.check()
    return made


def index_settings(settings: Settings) -> IndexSettings:
    """The configured index, its parameters checked."""
    section = settings.milvus.index
    return IndexSettings(section.type, section.metric, section.params)


def serve(settings: Settings, api: MilvusServerApi, model: Embedder) -> None:
    """Run a query worker until SIGTERM. Raises Mismatch for a collection of another model."""
    from consumers.query_http import Readiness, create_app  # noqa: PLC0415 - imports FastAPI, as above
    from consumers.query_worker import serve as run_server  # noqa: PLC0415

    registry = CollectorRegistry()
    search = searcher(settings, api, model)

    def ready() -> Readiness:
        try:
            search.check()
        except MilvusStreamError as error:
            return Readiness(False, {"milvus": str(error)})
        return Readiness(True, {"milvus": "ok"})

    with closing(QueryBatcher(model.embed_queries)) as batcher:
        app = create_app(
            search,
            batcher,
            limits(settings),
            ready,
            registry=registry,
            metrics=QueryMetrics(registry),
            concurrency=settings.query.concurrency,
        )
        run_server(app, settings.query.host, settings.query.port, drain_s=settings.shutdown_timeout.total_seconds())


def check(settings: Settings) -> None:
    """What can be wrong in a configuration without connecting to anything; raises UsageError."""
    kafka_settings(settings)
    index_settings(settings)
    decoder(settings)
    FlushPolicy(interval_s=settings.milvus.flush_interval.total_seconds())


@dataclass(frozen=True, slots=True)
class IngestProcess:
    """A worker with what stands around it."""

    worker: IngestWorker
    side_port: SidePort

    def run(self, stop: threading.Event) -> Summary:
        """Run the worker until `stop` is set, it has caught up or it fails; its first error is raised."""
        self.side_port.start()
        log.info("ingest.listening", address=self.side_port.address)
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
    kafka = kafka_settings(settings)
    receipts: deque[Receipt] = deque()
    ensure_dead_letter_topic(kafka, settings.kafka.dead_letter_topic, create=settings.kafka.create_dead_letter_topic)
    open_ledger(api, settings.milvus.collection)  # in append mode, too: workers tell each other of flushes by it
    worker = _worker(
        settings,
        api,
        model,
        marker=FlushMarker(api, settings.milvus.collection),
        source=source(settings, kafka, api),
        writer=writer(settings, api, model, metrics),
        dead_letters=DeadLetters(kafka, settings.kafka.dead_letter_topic, on_confirmed=receipts.append),
        limits=LetterLimits(LetterPolicy(**settings.dead_letters.model_dump())),
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
    kafka = kafka_settings(settings)
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
    open_collection(api, name, asdict(model.stamp), model.stamp.dimension, index_settings(settings), create=True)
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
    limits: LetterLimits | None,
    receipts: deque[Receipt],
    metrics: IngestMetrics,
    until_caught_up: bool,
    max_records: int | None,
) -> IngestWorker:
    governor = FlushGovernor(
        api,
        _collections(settings),
        FlushPolicy(
            durability=settings.milvus.durability,
            interval_s=settings.milvus.flush_interval.total_seconds(),
            rows=LITE_FLUSH_ROWS if api.server.lite else None,
        ),
        on_durable=receipts.extend,
        marker=marker,
        # The owner of the first Kafka partition flushes for all workers; a replay job, without a marker, for itself.
        leads=lambda: (settings.kafka.topics[0], 0) in worker.owned,
    )
    flow = IngestFlow(
        decoder=decoder(settings),
        chunker=chunker(settings, model),
        embedder=model,
        writer=writer,
        governor=governor,
        dead_letters=dead_letters,
        metrics=metrics,
        policy=FlowPolicy(append=settings.mode == "append"),
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
    return (name,) if settings.mode == "append" else (name, f"{name}__ledger")


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
