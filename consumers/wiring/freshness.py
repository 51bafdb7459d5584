"""The freshness of a query worker's collection: its newest event time from Milvus, its lag from Kafka."""

import time
from collections.abc import Callable

from consumers.config import Settings
from consumers.kafka import GroupOffsets
from consumers.wiring.connections import kafka_settings
from consumers.wiring.searches import collection_stamp
from pipeline.query import FreshnessWatch
from pipeline.store import MilvusServerApi

_REREAD_S = 1.0


def freshness_watch(settings: Settings, api: MilvusServerApi) -> FreshnessWatch:
    """The freshness of the configured collection. It connects to Kafka with the first request that needs it.

    The default of `kafka.bootstrap_servers` is not used: a query worker without that setting has no Kafka. Raises
    UsageError for an option that the client does not know.
    """
    offsets = None
    if has_kafka(settings):
        offsets = GroupOffsets(kafka_settings(settings), OwnCollection(api, settings.milvus.collection).is_it)
    most = max(1, settings.query.concurrency // 2)
    return FreshnessWatch(api, settings.milvus.collection, offsets, max_waiting=most)


def has_kafka(settings: Settings) -> bool:
    """Whether Kafka is configured for this process."""
    return "bootstrap_servers" in settings.kafka.model_fields_set


class OwnCollection:
    """Recognises commits that were made for the collection as it is now; another one may have had its name before."""

    def __init__(self, api: MilvusServerApi, collection: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._collection = collection
        self._clock = clock
        self._id: str | None = None
        self._read_at = clock() - _REREAD_S

    def is_it(self, collection_id: str) -> bool:
        """Whether a commit with this id counts; one without an id does (of a former version, or of another tool).

        Raises Unavailable. An id that is not the known one is compared with Milvus's answer, once a second.
        """
        if not collection_id or collection_id == self._id:
            return True
        if self._clock() - self._read_at >= _REREAD_S:
            info = self._api.describe(self._collection)
            stamp = None if info is None else collection_stamp(self._api, info)
            self._id = None if stamp is None else stamp.collection_id
            self._read_at = self._clock()
        return collection_id == self._id
