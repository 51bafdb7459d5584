"""Configuration -> objects: the only module that builds the graph of a process."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from consumers.config.settings import Settings
from consumers.kafka import KafkaSettings
from consumers.wiring.process_memory import frozen
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder
from pipeline.errors import MilvusStreamError, Unavailable
from pipeline.intake import Decoder, IntakeLimits, RecordMapping
from pipeline.query import FetchSettings, Limits, Searcher, SearchSettings
from pipeline.query.query_batcher import QueryBatcher
from pipeline.store import (
    FlushPolicy,
    IndexSettings,
    MilvusServerApi,
    check_model,
)
from pipeline.store.milvus.calls import Observer, unobserved
from pipeline.telemetry.metrics import QueryMetrics

log = structlog.get_logger(__name__)


@contextmanager
def milvus(settings: Settings, observe: Observer = unobserved) -> Iterator[MilvusServerApi]:
    """A connection to the configured Milvus; a path ending in .db is served by a Milvus Lite of this machine.

    `observe` is told of every call: operation, seconds, error.
    """
    from pipeline.store import connect  # noqa: PLC0415 - imports pymilvus, a second that not every command needs

    token = settings.milvus.token.get_secret_value() if settings.milvus.token else None
    timeout_s = settings.milvus.timeout.total_seconds()
    if settings.milvus.uri.endswith(".db"):
        from consumers.local.run import LocalMilvusLite  # noqa: PLC0415 - needs the extra `local`

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
        buffer_bytes=settings.batch.buffer_bytes,
        max_record_bytes=section.max_record_bytes,
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
        SearchSettings(FetchSettings(one_version=settings.mode == "upsert")),
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
    from consumers.query.app import create_app  # noqa: PLC0415 - imports FastAPI, as above
    from consumers.query.server import serve as run_server  # noqa: PLC0415

    registry = CollectorRegistry()
    search = searcher(settings, api, model)

    with closing(QueryBatcher(model.embed_queries)) as batcher:
        app = create_app(
            search,
            batcher,
            limits(settings),
            readiness(search),
            registry=registry,
            metrics=QueryMetrics(registry),
            concurrency=settings.query.concurrency,
        )
        with frozen():
            run_server(app, settings.query.host, settings.query.port, drain_s=settings.shutdown_timeout.total_seconds())


def readiness(search: Searcher) -> Callable[[], Mapping[str, str]]:
    """Whether searches can be answered. Why not is for the log: clients need not know Milvus's address."""
    logged = ""

    def ready() -> Mapping[str, str]:
        nonlocal logged
        try:
            search.check()
        except MilvusStreamError as error:
            if (why := str(error)) != logged:
                log.warning("query.not_ready", why=why)
            logged = why
            return {"milvus": "the collection cannot be searched now; the line query.not_ready of the log says why"}
        logged = ""
        return {}

    return ready


def check(settings: Settings) -> None:
    """What can be wrong in a configuration without connecting to anything; raises UsageError."""
    kafka_settings(settings)
    index_settings(settings)
    decoder(settings)
    FlushPolicy(interval_s=settings.milvus.flush_interval.total_seconds())


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
