"""Waiting for records: one loop reads the committed offsets for all requests that wait for one."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

import structlog

from pipeline.errors import MilvusStreamError, RateLimited, Unavailable
from pipeline.query.freshness.instants import Instants, Seen
from pipeline.query.freshness.offsets import Behind, NotFreshYet, OffsetReader, OffsetsUnavailable
from pipeline.query.request.freshness import AwaitedOffset
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.records import KafkaPartition

log = structlog.get_logger(__name__)

POLL_S = 0.02
"""Between two reads of the committed offsets while a request waits."""
TOPICS_S = 1.0
"""Least time between two reads of how many Kafka partitions the topics have."""
_AT = "/freshness/wait_for"


class _Waiting:
    """One request that waits; resolved when all of its records are committed."""

    def __init__(self, awaited: Sequence[AwaitedOffset]) -> None:
        self.awaited = awaited
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.checked = False
        """Whether its Kafka partitions are known to exist."""
        self.seen: Seen | None = None
        """A read that saw its records acknowledged."""

    def check(self, partitions: Mapping[str, int], *, certain: bool) -> None:
        """Refuse a Kafka partition that does not exist; `certain`: `partitions` was read after the request arrived."""
        for number, one in enumerate(self.awaited):
            if one.partition >= (known := partitions.get(one.topic, 0)):
                if certain:
                    problem = f"the topic has {known} Kafka partitions, numbered from 0"
                    self.fail(InvalidRequest(f"{_AT}/{number}/partition", problem))
                return
        self.checked = True

    def observe(self, committed: Mapping[KafkaPartition, int]) -> None:
        if self.checked and not self.done.done() and not behind(self.awaited, committed):
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class OffsetWaiting:
    """The requests of one event loop that wait for records, at most `max_waiting`.

    The loop that reads the offsets runs while a request waits, and each read is made on `thread`. A Kafka that is away
    ends no wait: it may come back in time.
    """

    def __init__(
        self,
        reader: OffsetReader,
        thread: Executor,
        *,
        instants: Instants,
        max_waiting: int,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._thread = thread
        self._instants = instants
        self._max_waiting = max_waiting
        self._poll_s = poll_s
        self._clock = clock
        self._waiting: set[_Waiting] = set()
        self._loop: asyncio.Task[None] | None = None
        self._committed: Mapping[KafkaPartition, int] = {}
        self._partitions: Mapping[str, int] = {}
        self._topics_read_at = clock() - TOPICS_S
        self._problem: Unavailable | None = None

    @property
    def running(self) -> bool:
        """Whether offsets are being read."""
        return self._loop is not None and not self._loop.done()

    async def wait(self, awaited: Sequence[AwaitedOffset], timeout_s: float) -> int | None:
        """Return when all of these records are committed: a moment of Milvus's clock by which they were acknowledged.

        None: such a moment is not known, and now is one.

        Raises InvalidRequest (no such topic or Kafka partition), RateLimited (too many wait), NotFreshYet or
        OffsetsUnavailable after `timeout_s`, and UsageError where Kafka refuses the read.
        """
        self._check_topics(awaited)
        if len(self._waiting) >= self._max_waiting:
            raise RateLimited(f"{self._max_waiting} requests wait for records, as many as may; try again")
        waiting = _Waiting(awaited)
        self._waiting.add(waiting)
        if not self.running:
            self._loop = asyncio.get_running_loop().create_task(self._poll())
        try:
            async with asyncio.timeout(timeout_s):
                await waiting.done
        except TimeoutError:
            if (late := self._late(waiting)) is not None:
                raise late from None
        finally:
            self._waiting.discard(waiting)
        seen = waiting.seen
        # What was seen of a topic that was made again since says nothing of the record in the new one.
        return seen.instant if seen is not None and seen.topic_ids == self._reader.topic_ids else None

    def _check_topics(self, awaited: Sequence[AwaitedOffset]) -> None:
        for number, one in enumerate(awaited):
            if one.topic not in self._reader.topics:
                known = ", ".join(sorted(self._reader.topics))
                problem = f"is not a topic of this collection, which is filled from {known}"
                raise InvalidRequest(f"{_AT}/{number}/topic", problem)

    def _late(self, waiting: _Waiting) -> Unavailable | None:
        """The error of a wait whose time is over; None: the last read came at the same moment, and it is committed."""
        if self._problem is not None or not waiting.checked:
            why = "no answer in time" if self._problem is None else str(self._problem)
            return OffsetsUnavailable(f"what is committed is not known: {why}")
        missing = behind(waiting.awaited, self._committed)
        return NotFreshYet(missing) if missing else None

    async def _poll(self) -> None:
        run = asyncio.get_running_loop().run_in_executor
        try:
            while self._waiting:
                began = self._clock()
                new = [waiting for waiting in self._waiting if not waiting.checked]
                may_read = began - self._topics_read_at >= TOPICS_S
                try:
                    if new and not self._all_known(new) and may_read:
                        self._topics_read_at = began
                        self._partitions = await run(self._thread, self._reader.partitions)
                    self._committed = await run(self._thread, self._reader.committed)
                    self._problem = None
                except Unavailable as error:
                    self._note(error)
                else:
                    self._see()
                    for waiting in new:
                        waiting.check(self._partitions, certain=self._topics_read_at == began)
                    for waiting in self._waiting:
                        waiting.observe(self._committed)
                await asyncio.sleep(max(0.0, self._poll_s - (self._clock() - began)))
        except Exception as error:  # the edge of this loop: whoever waits gets the error
            self._fail(error)

    def _see(self) -> None:
        """Note for the requests that their records were acknowledged; after a failure Milvus may have lost them."""
        ended, seen = self._instants.poll()
        for waiting in self._waiting if ended else ():
            if seen is None:
                waiting.seen = None
            elif waiting.seen is None and seen.covers(waiting.awaited):
                waiting.seen = seen

    def _all_known(self, new: Sequence[_Waiting]) -> bool:
        return all(one.partition < self._partitions.get(one.topic, 0) for waiting in new for one in waiting.awaited)

    def _note(self, error: Unavailable) -> None:
        if self._problem is None:
            log.warning("freshness.offsets_unread", why=str(error), what="requests that wait for records go on waiting")
        self._problem = error

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, MilvusStreamError):
            log.exception("freshness.failed", error_type=type(error).__name__)
        for waiting in self._waiting:
            waiting.fail(error)


def behind(awaited: Sequence[AwaitedOffset], committed: Mapping[KafkaPartition, int]) -> list[Behind]:
    """The records that are not committed; a committed offset is that of the record after the last one processed."""
    missing = []
    for one in awaited:
        at = committed.get((one.topic, one.partition))
        if at is None or at <= one.offset:
            missing.append(Behind(one.topic, one.partition, one.offset, at, one.offset + 1 - (at or 0)))
    return missing
