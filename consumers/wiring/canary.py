"""The canary of a query worker, if one is configured."""

from collections.abc import Iterator
from contextlib import contextmanager

from consumers.config import Settings
from consumers.kafka import RecordSender
from consumers.query.canary import Canary, CanaryRecords, Visible
from consumers.wiring.collection import partitioning
from consumers.wiring.connections import kafka_settings
from consumers.wiring.documents import decoder
from consumers.wiring.freshness import has_kafka
from pipeline.errors import NotFound, UsageError
from pipeline.intake import RecordMapping
from pipeline.store import MilvusServerApi, ids_expression, row_id
from pipeline.telemetry import QueryMetrics


@contextmanager
def canary(settings: Settings, api: MilvusServerApi, metrics: QueryMetrics) -> Iterator[None]:
    """Run the configured canary for the length of the block. Raises UsageError where there can be none."""
    if settings.query.canary is None:
        yield
        return
    if not has_kafka(settings):
        raise UsageError("query.canary publishes documents: set kafka.bootstrap_servers and kafka.topics, too")
    records = CanaryRecords(RecordMapping(**settings.record.model_dump()))
    records.check(decoder(settings))
    running = Canary(
        records,
        RecordSender(kafka_settings(settings)),
        settings.kafka.topics[0],
        _visible(settings, api),
        metrics,
        interval_s=settings.query.canary.total_seconds(),
    )
    running.start()
    try:
        yield
    finally:
        running.close()


def _visible(settings: Settings, api: MilvusServerApi) -> Visible:
    """Reads the row of a canary by its primary key, with the consistency of a search that asks for nothing else."""
    collection, places = settings.milvus.collection, partitioning(settings)

    def visible(doc_id: str, tenant: str | None, timestamp_ms: int) -> bool:
        key = row_id(tenant, doc_id, 0, places.place(timestamp_ms, timestamp_ms))
        try:
            return bool(api.query(collection, ids_expression([key]), ["id"]))
        except NotFound:
            return False  # no ingest worker has created it yet

    return visible
