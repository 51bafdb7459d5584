"""What a query worker knows of the freshness of its collection, and the requests that wait for more."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import Unavailable
from pipeline.query.answer import Freshness
from pipeline.query.freshness.background import Background
from pipeline.query.freshness.instants import Instants, see
from pipeline.query.freshness.lag import LagHistory, PartitionLag, total_seconds
from pipeline.query.freshness.newest import NewestEventTime
from pipeline.query.freshness.offsets import OffsetReader, OffsetsUnavailable
from pipeline.query.freshness.waiting import OffsetWaiting
from pipeline.query.request.freshness import AwaitedOffset
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.store import MilvusApi
from pipeline.timestamps import format_time

TTL_S = 1.0
"""How long what was read is used again."""
_REPORT_S = 10.0
NO_KAFKA = (
    "needs the offsets of the consumer group: set kafka.bootstrap_servers, kafka.group_id and kafka.topics of the "
    "ingest workers for the query worker, too"
)


@dataclass(frozen=True, slots=True)
class FreshnessReport:
    """The answer of GET /v1/freshness."""

    event_time: str | None
    """The newest event time that is known to be searchable, RFC 3339, UTC; null: no document, or not known yet."""
    lag_s: float | None
    """Age of the oldest record that is not committed, of all Kafka partitions; null: not known."""
    group: str | None
    """The consumer group; null, as the two below: this query worker has no Kafka."""
    lag: int | None
    """Records that are not committed, of all Kafka partitions."""
    partitions: tuple[PartitionLag, ...] | None

    @property
    def of_one_tenant(self) -> "FreshnessReport":
        """What a tenant may know: the other values count the records of every tenant."""
        return FreshnessReport(None, self.lag_s, None, None, None)


class FreshnessWatch:
    """Answers how fresh the collection is, from reads of the last second; and makes requests wait for records.

    Nothing runs while there are no requests. Kafka and Milvus have a thread each, so that one that hangs does not keep
    the state of the other from being read.
    """

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        offsets: OffsetReader | None,
        *,
        max_waiting: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`offsets`: None where Kafka is not configured. `max_waiting`: requests that may wait at a time."""
        self._api = api
        self._offsets = offsets
        self._clock = clock
        self._history = LagHistory()
        self._closed = False
        self._milvus_thread = ThreadPoolExecutor(1, thread_name_prefix="freshness-milvus")
        self._kafka_thread = ThreadPoolExecutor(1, thread_name_prefix="freshness-kafka")
        self._newest = Background(
            NewestEventTime(api, collection).read,
            self._milvus_thread,
            ttl_s=TTL_S,
            what="the newest event time",
            clock=clock,
        )
        self._lags: Background[tuple[PartitionLag, ...]] | None = None
        self._waiting: OffsetWaiting | None = None
        if offsets is not None:
            self._lags = Background(
                lambda: self._read_lags(offsets), self._kafka_thread, ttl_s=TTL_S, what="the lag", clock=clock
            )
            instants = Instants(lambda: see(api, collection, offsets.topic_ids), self._milvus_thread)
            self._waiting = OffsetWaiting(offsets, self._kafka_thread, instants=instants, max_waiting=max_waiting)

    def last(self) -> Freshness:
        """What was read last, with no call; where it is old, reading begins beside the request."""
        lags = None if self._lags is None else self._lags.last()
        return Freshness(_time(self._newest.last()), None if lags is None else total_seconds(lags))

    async def wait(self, awaited: Sequence[AwaitedOffset], timeout_s: float) -> int | None:
        """As `OffsetWaiting.wait`. Raises InvalidRequest without Kafka, and what that raises."""
        if self._waiting is None:
            raise InvalidRequest("/freshness/wait_for", NO_KAFKA)
        return await self._waiting.wait(awaited, timeout_s)

    async def report(self) -> FreshnessReport:
        """The state, at most a second old. Raises Unavailable, UsageError."""
        self._api.check_reachable()  # a read that began before may hang
        try:
            async with asyncio.timeout(_REPORT_S):
                newest = await self._newest.now()
                lags = None if self._lags is None else await self._now(self._lags)
        except TimeoutError:
            raise OffsetsUnavailable("Kafka or Milvus did not answer in time") from None
        if lags is None or self._offsets is None:
            return FreshnessReport(_time(newest), None, None, None, None)
        return FreshnessReport(
            _time(newest), total_seconds(lags), self._offsets.group, sum(one.lag for one in lags), lags
        )

    def close(self) -> None:
        """Begin no further read, and end the connection to Kafka."""
        if self._offsets is not None and not self._closed:
            self._kafka_thread.submit(self._offsets.close)  # behind the call under way, for which this does not wait
        self._closed = True
        self._milvus_thread.shutdown(wait=False, cancel_futures=True)
        self._kafka_thread.shutdown(wait=False)

    async def _now(self, lags: Background[tuple[PartitionLag, ...]]) -> tuple[PartitionLag, ...]:
        try:
            return await lags.now()
        except Unavailable as error:
            raise OffsetsUnavailable(str(error)) from error

    def _read_lags(self, offsets: OffsetReader) -> tuple[PartitionLag, ...]:
        committed = offsets.committed()  # before the ends: a lag below 0 would be wrong, one too great is not
        return self._history.observe(self._clock(), committed, offsets.ranges())


def _time(epoch_ms: int | None) -> str | None:
    return None if epoch_ms is None else format_time(epoch_ms)
