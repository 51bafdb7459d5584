"""The canary of a query worker, if one is configured."""

import time
from collections.abc import Iterator, Sequence
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
from pipeline.query import ONLY_CANARIES
from pipeline.store import MilvusServerApi, ids_expression, row_id
from pipeline.telemetry import QueryMetrics

_LEFT_S = 3_600
"""An older canary was left by a process that ended before it could delete it."""
_MOST_LEFT = 100


@contextmanager
def canary(settings: Settings, api: MilvusServerApi, metrics: QueryMetrics) -> Iterator[None]:
    """Run the configured canary for the length of the block. Raises UsageError where there can be none."""
    if settings.query.canary is None:
        yield
        return
    running = Canary(
        canary_records(settings),
        RecordSender(kafka_settings(settings)),
        settings.kafka.topics[0],
        visible=_visible(settings, api),
        leftovers=lambda: _leftovers(settings, api),
        metrics=metrics,
        interval_s=settings.query.canary.total_seconds(),
    )
    running.start()
    try:
        yield
    finally:
        running.close()


def canary_records(settings: Settings) -> CanaryRecords:
    """The records of the configured canaries. Raises UsageError where there can be none."""
    if not has_kafka(settings):
        raise UsageError("query.canary publishes documents: set kafka.bootstrap_servers and kafka.topics, too")
    records = CanaryRecords(RecordMapping(**settings.record.model_dump()))
    records.check(decoder(settings))
    return records


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


def _leftovers(settings: Settings, api: MilvusServerApi) -> Sequence[str]:
    before_ms = time.time_ns() // 1_000_000 - _LEFT_S * 1_000
    where = f"{ONLY_CANARIES} and event_time < {before_ms}"
    try:
        rows = api.query(settings.milvus.collection, where, ["doc_id"], limit=_MOST_LEFT)
    except NotFound:
        return ()
    return [row["doc_id"] for row in rows]
