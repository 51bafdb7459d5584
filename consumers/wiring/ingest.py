"""The ingest worker: its parts from the configuration, joined to one process."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

import structlog
from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.dead_letters import (
    DeadLetterLimiter,
    DeadLetterLimits,
    DeadLetterProducer,
)
from consumers.ingest import Acknowledged, IngestWorker, WorkerPolicy
from consumers.kafka import (
    CollectionBinding,
    GroupWatch,
    KafkaLookup,
    KafkaSettings,
    KafkaSource,
    RememberedPositions,
    Source,
    check_commits,
    job_group,
    suspend_clock,
)
from consumers.wiring.collection import open_configured, open_writer
from consumers.wiring.connections import kafka_settings
from consumers.wiring.documents import chunker, decoder
from consumers.wiring.modes import mode_of
from pipeline.backoff import Backoff
from pipeline.embedding import Embedder
from pipeline.errors import UsageError
from pipeline.ingest import (
    REFUSALS,
    RETRY,
    SET_ASIDE_S,
    WINDOW_TOKENS,
    BatchesInFlight,
    BatchPolicy,
    CommitQueue,
    DeadLetterChannel,
    FlowPolicy,
    IngestFlow,
    PartitionFence,
    RecordLookup,
    RedoBounds,
    RefusalLimit,
)
from pipeline.records import Finished
from pipeline.store import (
    CollectionStamp,
    Flusher,
    FlushGovernor,
    FlushMarker,
    FlushPolicy,
    Marks,
    MilvusServerApi,
    PositionMarks,
    PositionStore,
    SweepPolicy,
    TombstoneSweep,
    Writer,
    holds_topic,
    sweep_ledger_marks,
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
    positions: PositionStore | None = None
    """Remembers how far each Kafka partition was acknowledged. None: nothing does."""
    tombstones: TombstoneSweep | None = None
    fence: PartitionFence = field(default_factory=lambda: PartitionFence(BatchesInFlight()))
    lookup: RecordLookup | None = None
    """Reads records again that restore a document. None: none is restored."""
    bounds: RedoBounds = field(default_factory=RedoBounds)
    left_s: Callable[[], float] = lambda: math.inf
    """Seconds in which a request may change rows, besides the lease of the source; called before each."""
    retry: Backoff = RETRY
    refusals: RefusalLimit = REFUSALS
    set_aside_s: float = SET_ASIDE_S
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
    adopt: bool = False,
    accept_gap: bool = False,
    metrics: IngestMetrics | None = None,
) -> IngestWorker:
    """An ingest worker; creates collection and index where they are missing. `check_ingest` has been called before.

    `adopt`: the group becomes a further one that fills the collection, also where its offsets were committed for
    another collection. `accept_gap`: go on without records that are lost. `metrics`: those that `api` reports its calls
    to. Raises UsageError (setting), Unavailable (Kafka or Milvus), Mismatch (collection of another schema, model or
    stamp, or of another group).
    """
    metrics = metrics or ingest_metrics()
    metrics.build.labels(version("milvus-stream"), model.stamp.name).set(1)
    kafka = kafka_settings(settings)
    receipts = CommitQueue()
    bounds, fence = RedoBounds(), PartitionFence(BatchesInFlight())
    binding, writer = _bound_writer(
        settings, kafka, api, model, metrics=metrics, bounds=bounds, fence=fence, adopt=adopt
    )
    if mode_of(settings).one_version:
        sweep_ledger_marks(api, settings.milvus.collection)
    marks = Marks(api, settings.milvus.collection)
    memory = position_memory(settings, kafka, api, marks)
    parts = WorkerParts(
        api=api,
        model=model,
        source=KafkaSource(
            kafka,
            stored=stored_topics(settings, api),
            binding=binding,
            memory=memory,
            accept_gap=accept_gap,
            jobs=job_group(kafka.group_id, settings.milvus.collection),
        ),
        writer=writer,
        dead_letters=DeadLetterProducer(
            kafka,
            settings.kafka.dead_letter_topic,
            on_confirmed=receipts.put,
            on_sent=lambda reason: metrics.dead_letters.labels(reason).inc(),
        ),
        receipts=receipts,
        metrics=metrics,
        limits=DeadLetterLimiter(DeadLetterLimits(**settings.dead_letters.model_dump())),
        marker=FlushMarker(marks),
        positions=memory,
        tombstones=_tombstones(settings, api),
        fence=fence,
        lookup=KafkaLookup(kafka) if mode_of(settings).one_version else None,
        bounds=bounds,
    )
    worker, _ = join_worker(settings, parts, until_caught_up=until_caught_up, max_records=max_records)
    return worker


def _bound_writer(
    settings: Settings,
    kafka: KafkaSettings,
    api: MilvusServerApi,
    model: Embedder,
    *,
    metrics: IngestMetrics,
    bounds: RedoBounds,
    fence: PartitionFence,
    adopt: bool,
) -> tuple[CollectionBinding, Writer]:
    """The writer into the collection that the group fills, and what binds the group to it."""

    def binding(stamp: CollectionStamp) -> CollectionBinding:
        return CollectionBinding(settings.milvus.collection, stamp.collection_id, adopt)

    def active(group: str) -> bool:
        with closing(GroupWatch(kafka, group)) as watch:
            return watch.active()

    def has_members(group: str) -> bool:
        return active(group) or active(job_group(group, settings.milvus.collection))

    def admit(stamp: CollectionStamp) -> None:
        check_commits(kafka, binding(stamp))
        jobs = job_group(kafka.group_id, settings.milvus.collection)
        if adopt and active(jobs):  # a replay into a collection that was not its group's does not look for workers
            raise UsageError(
                f"a replay or repair writes {settings.milvus.collection!r} (the Kafka group {jobs} has members): "
                "start with --adopt when it has ended"
            )

    stamp = open_configured(settings, api, model, adopt=has_members if adopt else None, admit=admit)
    writer = open_writer(settings, api, model, metrics, stamp=stamp, owned=lambda: fence.owned, durable=bounds.durable)
    return binding(stamp), writer


def position_memory(
    settings: Settings, kafka: KafkaSettings, api: MilvusServerApi, marks: Marks
) -> RememberedPositions:
    """What Milvus remembers of the group's offsets."""
    name = settings.milvus.collection
    return RememberedPositions(
        PositionMarks(marks, kafka.group_id), kafka.group_id, filled=lambda topic: holds_topic(api, name, topic)
    )


def stored_topics(settings: Settings, api: MilvusServerApi) -> Callable[[str], bool] | None:
    """Whether documents of a topic are stored, where a group that looks new to Kafka may not be one.

    Starting anywhere but at the beginning would skip records that it has not read.
    """
    if settings.kafka.start_from == "earliest":
        return None
    return lambda topic: holds_topic(api, settings.milvus.collection, topic)


def join_worker(
    settings: Settings, parts: WorkerParts, *, until_caught_up: bool = False, max_records: int | None = None
) -> tuple[IngestWorker, IngestFlow]:
    """Join the parts to a worker; also returns the flow inside it, for observers.

    The caller makes the connections; nothing is sent to Kafka or Milvus here.
    """
    fence = parts.fence
    acknowledged: Acknowledged = deque()
    governor = _governor(settings, parts, fence, acknowledged)
    window_tokens = max(WINDOW_TOKENS, PASSES * parts.model.execution.token_budget)
    flow = IngestFlow(
        decoder=decoder(settings),
        chunker=chunker(settings, parts.model),
        embedder=parts.model,
        writer=parts.writer,
        governor=governor,
        dead_letters=parts.dead_letters,
        metrics=parts.metrics,
        policy=FlowPolicy(mode_of(settings).flow, window_tokens, parts.retry, parts.refusals, parts.set_aside_s),
        other_call=partial(parts.api.partitions, settings.milvus.collection),
        fence=fence,
        limits=parts.limits,
        tombstones=parts.tombstones,
        lookup=parts.lookup,
        bounds=parts.bounds,
        wall_clock=parts.wall_clock,
    )
    lease_s = kafka_settings(settings).lease_s

    def left_s() -> float:
        """No write may end after the group could have given this worker's share to another."""
        if fence.fenced:
            return -math.inf
        left_s = parts.left_s()
        return min(left_s, parts.source.last_heartbeat() + lease_s - suspend_clock())

    parts.api.fence(left_s)
    batch = settings.batch
    policy = WorkerPolicy(
        batch=BatchPolicy(batch.max_records, batch.max_bytes, batch.max_wait.total_seconds()),
        buffer_bytes=batch.buffer_bytes,
        session_s=settings.kafka.session_timeout.total_seconds(),
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
        acknowledged=None if parts.positions is None else acknowledged,
        metrics=parts.metrics,
        bounds=parts.bounds,
        policy=policy,
    )
    if settings.milvus.durability == "flush":
        parts.api.on_lost(worker.on_milvus_lost)
    return worker, flow


def _governor(
    settings: Settings, parts: WorkerParts, fence: PartitionFence, acknowledged: Acknowledged
) -> FlushGovernor:
    def put_durable(receipts: Sequence[Finished]) -> None:
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
        positions=parts.positions,
        # The owner of the first Kafka partition flushes for all workers; a replay job, without a marker, for itself.
        leads=lambda: first_partition in fence.owned,
        on_acked=None if parts.positions is None else lambda receipt, rows: acknowledged.append((receipt, rows)),
    )
    return FlushGovernor(flusher)


def _tombstones(settings: Settings, api: MilvusServerApi) -> TombstoneSweep | None:
    if not mode_of(settings).one_version or settings.milvus.tombstone_retention is None:
        return None
    policy = SweepPolicy(retention_s=settings.milvus.tombstone_retention.total_seconds())
    return TombstoneSweep(api, settings.milvus.collection, policy)
