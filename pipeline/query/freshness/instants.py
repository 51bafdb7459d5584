"""The moments on Milvus's clock by which records were acknowledged, found while requests wait for the commit.

A search as of the commit would wait until Milvus has passed that moment, some 0.2 s on 2.3.5. But a worker commits an
offset only after Milvus remembers a position at or behind it, and writes the position after the records. So a moment at
which the position was seen is late enough, and by the time of the commit Milvus has mostly passed it.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from pipeline.query.request.freshness import AwaitedOffset
from pipeline.records import KafkaPartition
from pipeline.store import MilvusApi, positions_seen


@dataclass(frozen=True, slots=True)
class Seen:
    """The positions that a read saw, and a moment after it."""

    topic_ids: Mapping[str, str]
    """The topics whose positions they are."""
    positions: Mapping[KafkaPartition, int]
    """Every record below was acknowledged."""
    instant: int | None
    """On Milvus's clock; None from a server without one."""

    def covers(self, awaited: Sequence[AwaitedOffset]) -> bool:
        """Whether all of these records were acknowledged."""
        return all(self.positions.get((one.topic, one.partition), 0) > one.offset for one in awaited)


def see(api: MilvusApi, collection: str, topic_ids: Mapping[str, str]) -> Seen:
    """Read the positions of these topics, and then the clock. Raises Unavailable."""
    positions = positions_seen(api, collection, topic_ids)
    return Seen(topic_ids, positions, api.instant() if positions else None)


class Instants:
    """Reads of positions while requests wait, one at a time, on a thread of its own: none waits for them."""

    def __init__(self, read: Callable[[], Seen], thread: Executor) -> None:
        self._read = read
        self._thread = thread
        self._reading: Future[Seen] | None = None

    def poll(self) -> tuple[bool, Seen | None]:
        """Begin a read, and take the last one: whether it has ended, and what it saw; None: it failed."""
        ended, seen = False, None
        if self._reading is not None and self._reading.done():
            ended = True
            if not self._reading.cancelled() and self._reading.exception() is None:
                seen = self._reading.result()
            self._reading = None
        if self._reading is None:
            self._reading = self._thread.submit(self._read)
        return ended, seen
