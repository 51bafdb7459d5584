"""Checks of a configuration that need no connection."""

from consumers.config import Settings
from consumers.wiring.collection import keyword_settings, search_params
from consumers.wiring.connections import kafka_settings
from consumers.wiring.documents import decoder
from pipeline.chunking import ChunkingPolicy
from pipeline.store import FlushPolicy


def check_settings(settings: Settings) -> None:
    """Raise UsageError for what is wrong in a configuration beyond the types of its values."""
    kafka_settings(settings)
    search_params(settings)
    keyword_settings(settings)
    decoder(settings)
    FlushPolicy(interval_s=settings.milvus.flush_interval.total_seconds())
    chunking = settings.chunking
    if chunking.max_tokens is not None:
        ChunkingPolicy(chunking.max_tokens, chunking.overlap).check_overlap(chunking.max_tokens)
