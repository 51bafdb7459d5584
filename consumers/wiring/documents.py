"""What turns records into embedded documents: decoder, chunker, model."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from consumers.config import Settings
from consumers.wiring.modes import mode_of
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder
from pipeline.intake import Decoder, IntakeLimits, RecordMapping

if TYPE_CHECKING:
    from consumers.clients.schema_registry import SchemaRegistry


def decoder(settings: Settings) -> Decoder:
    """The decoder of the configured records.

    Raises UsageError for a format that needs a schema registry where there is none, or lacks the packages for it.
    """
    times = settings.partitioning
    return Decoder(
        RecordMapping(**settings.record.model_dump()),
        IntakeLimits(
            max_record_bytes=settings.kafka.max_record_bytes,
            future_skew_ms=_ms(times.future_skew),
            max_event_age_ms=None if times.max_event_age is None else _ms(times.max_event_age),
        ),
        append=not mode_of(settings).one_version,
        schemas=_schema_registry(settings),
    )


def _schema_registry(settings: Settings) -> "SchemaRegistry | None":
    """The configured schema registry. No request is sent here."""
    section = settings.registry
    if section.url is None:
        return None
    from consumers.clients.schema_registry import SchemaRegistry  # noqa: PLC0415 - httpx, which nothing else needs

    return SchemaRegistry(
        section.url,
        user=section.user,
        password=None if section.password is None else section.password.get_secret_value(),
        token=None if section.token is None else section.token.get_secret_value(),
        ca_file=section.ca_file,
        timeout_s=section.timeout.total_seconds(),
    )


def embedding_settings(settings: Settings) -> EmbeddingSettings:
    """The configured model, and how to run it."""
    return EmbeddingSettings(**settings.embedding.model_dump())


@contextmanager
def embedder(settings: Settings, *, queries_first: bool = False) -> Iterator[Embedder]:
    """The configured model, loaded; with `queries_first` only what queries need, until there is a document.

    Raises UsageError when it is not on this machine or may not be loaded.
    """
    model = load_embedder(embedding_settings(settings), queries_first=queries_first)
    try:
        yield model
    finally:
        model.close()


def chunker(settings: Settings, model: Embedder) -> Chunker:
    """Cuts texts as configured, at most to the model's limit."""
    return Chunker(model.tokenizer, ChunkingPolicy(settings.chunking.max_tokens, settings.chunking.overlap))


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
