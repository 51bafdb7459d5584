"""Configuration -> objects: the only module that builds the graph of a process."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.ingest_worker import IngestWorker, WorkerPolicy
from consumers.kafka import DeadLetters, KafkaSettings, KafkaSource, ensure_dead_letter_topic
from consumers.settings import Settings
from consumers.side_port import SidePort
from pipeline.batching import BatchPolicy
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder
from pipeline.ingest import FlowPolicy, IngestFlow
from pipeline.intake import Decoder, IntakeLimits, RecordMapping
from pipeline.records import Receipt
from pipeline.store import (
    AppendWriter,
    FlushGovernor,
    FlushPolicy,
    IndexSettings,
    MilvusApi,
    MilvusPartitions,
    UpsertWriter,
    Writer,
    connect,
    open_collection,
    open_ledger,
)
from pipeline.telemetry import IngestMetrics

LITE_FLUSH_ROWS = 1500
"""Milvus Lite searches rows not yet flushed one by one, about 40 µs each: flush before that is felt."""


@contextmanager
def milvus(settings: Settings) -> Iterator[MilvusApi]:
    """A connection to the configured Milvus; a path ending in .db is served by a Milvus Lite of this machine."""
    token = settings.milvus.token.get_secret_value() if settings.milvus.token else None
    timeout_s = settings.milvus.timeout.total_seconds()
    if settings.milvus.uri.endswith(".db"):
        from consumers.local import LocalMilvusLite  # noqa: PLC0415 - needs the extra `local`

        with LocalMilvusLite(Path(settings.milvus.uri)) as uri:
            api = connect(uri, token, timeout_s=timeout_s)
            try:
                yield api
            finally:
                api.close()
        return
    api = connect(settings.milvus.uri, token, timeout_s=timeout_s)
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


def embedder(settings: Settings) -> Embedder:
    """Load the configured model."""
    return load_embedder(EmbeddingSettings(**settings.embedding.model_dump()))


def index_settings(settings: Settings) -> IndexSettings:
    """The configured index, its parameters checked."""
    section = settings.milvus.index
    return IndexSettings(section.type, section.metric, section.params)


@dataclass(frozen=True, slots=True)
class IngestProcess:
    """A worker with what stands around it."""

    worker: IngestWorker
    side_port: SidePort


def ingest(
    settings: Settings, api: MilvusApi, model: Embedder, *, until_caught_up: bool, max_records: int | None
) -> IngestProcess:
    """Build an ingest worker; creates collection, index and dead-letter topic where they are missing.

    Raises UsageError (setting), Unavailable (Kafka or Milvus), Mismatch (collection of another schema or model).
    """
    registry = CollectorRegistry()
    metrics = IngestMetrics(registry)
    metrics.build.labels(version("milvus-stream"), model.stamp.name).set(1)
    kafka = kafka_settings(settings)
    receipts: deque[Receipt] = deque()
    ensure_dead_letter_topic(kafka, settings.kafka.dead_letter_topic, create=settings.kafka.create_dead_letter_topic)
    governor = FlushGovernor(
        api,
        _collections(settings),
        FlushPolicy(
            durability=settings.milvus.durability,
            interval_s=settings.milvus.flush_interval.total_seconds(),
            rows=LITE_FLUSH_ROWS if api.server.lite else None,
        ),
        on_durable=receipts.extend,
    )
    dead_letters = DeadLetters(kafka, settings.kafka.dead_letter_topic, on_confirmed=receipts.append)
    flow = IngestFlow(
        decoder=decoder(settings),
        chunker=Chunker(model.tokenizer, ChunkingPolicy(settings.chunking.max_tokens, settings.chunking.overlap)),
        embedder=model,
        writer=writer(settings, api, model),
        governor=governor,
        dead_letters=dead_letters,
        metrics=metrics,
        policy=FlowPolicy(append=settings.mode == "append"),
    )
    batch = settings.batch
    worker = IngestWorker(
        source=KafkaSource(kafka),
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
    side_port = SidePort(
        settings.telemetry.host, settings.telemetry.port, registry, alive=worker.alive, ready=worker.ready
    )
    return IngestProcess(worker, side_port)


def writer(settings: Settings, api: MilvusApi, model: Embedder) -> Writer:
    """Open the collection (and in upsert mode its ledger) for writing."""
    name = settings.milvus.collection
    open_collection(api, name, model.stamp.as_dict(), model.stamp.dimension, index_settings(settings), create=True)
    partitions = MilvusPartitions(api, name, settings.partitioning.max_partitions)
    if settings.mode == "append":
        return AppendWriter(api, name, partitions, settings.partitioning.by)
    open_ledger(api, name)
    return UpsertWriter(api, name, partitions, settings.partitioning.by, fingerprint=model.stamp.digest)


def _collections(settings: Settings) -> tuple[str, ...]:
    name = settings.milvus.collection
    return (name,) if settings.mode == "append" else (name, f"{name}__ledger")


def _ms(duration: Any) -> int:
    return round(duration.total_seconds() * 1000)
