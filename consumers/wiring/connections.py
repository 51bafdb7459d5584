"""Connections to Kafka and Milvus, and what can be checked of a configuration without any."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consumers.config import Settings
from consumers.kafka import KafkaSettings
from pipeline.store import MilvusServerApi, Observer, unobserved


@contextmanager
def milvus(
    settings: Settings,
    observe: Observer = unobserved,
    *,
    recovering_s: float | None = None,
    fail_fast: bool = False,
) -> Iterator[MilvusServerApi]:
    """A connection to the configured Milvus; a path ending in .db is served by a Milvus Lite of this machine.

    `observe` is called after every call: operation, seconds, error. `recovering_s` and `fail_fast` as in
    `pipeline.store.connect`.
    """
    if not settings.milvus.uri.endswith(".db"):
        with _connected(settings, settings.milvus.uri, observe, recovering_s, fail_fast) as api:
            yield api
        return
    from consumers.local import LocalMilvusLite  # noqa: PLC0415 - needs the extra `local`

    with (
        LocalMilvusLite(Path(settings.milvus.uri)) as uri,
        _connected(settings, uri, observe, recovering_s, fail_fast) as api,
    ):
        yield api


@contextmanager
def _connected(
    settings: Settings, uri: str, observe: Observer, recovering_s: float | None, fail_fast: bool
) -> Iterator[MilvusServerApi]:
    from pipeline.store import connect  # noqa: PLC0415 - imports pymilvus, a second that not every command needs

    token = settings.milvus.token.get_secret_value() if settings.milvus.token else None
    timeout_s = settings.milvus.timeout.total_seconds()
    api = connect(uri, token, timeout_s=timeout_s, recovering_s=recovering_s, observe=observe, fail_fast=fail_fast)
    try:
        yield api
    finally:
        api.close()


def kafka_settings(settings: Settings) -> KafkaSettings:
    """How to reach Kafka. Raises UsageError for an option that the client does not know."""
    section = settings.kafka
    return KafkaSettings(
        bootstrap_servers=section.bootstrap_servers,
        topics=section.topics,
        group_id=section.group_id,
        start_from=section.start_from,
        session_timeout_ms=round(section.session_timeout.total_seconds() * 1000),
        max_poll_records=settings.batch.max_records,
        assignor=section.assignor,
        buffer_bytes=settings.batch.buffer_bytes,
        max_record_bytes=section.max_record_bytes,
        options=section.client_options,
    )
