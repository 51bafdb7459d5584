"""Positions: how far each Kafka partition was acknowledged, remembered in the marks of the collection.

Kafka's committed offset is never ahead of the position that Milvus remembers, unless Milvus has lost data.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from pipeline.errors import NotFound, Unavailable
from pipeline.records import Finished, KafkaPartition, Reached, WrittenPositions
from pipeline.store.collection.marks import Mark, Marks
from pipeline.store.collection.schema import marks_name
from pipeline.store.milvus.api import MilvusApi

log = structlog.get_logger(__name__)

WRITE_S = 1.0
"""Seconds between two writes of positions that wait for no flush."""
_QUICK_S = 1.0


class PositionStore(Protocol):
    """Where positions are written. May be called by several threads."""

    def write(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Remember these positions; returns when the store has acknowledged them. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """What the collection remembers of one Kafka partition."""

    offset: int
    """Every record below it was stored, superseded, deleted or rejected when it was written."""
    group: str
    """The consumer group that reached it."""
    began: int | None
    """Where the group began to read it; None once Kafka had confirmed a commit."""


@dataclass(frozen=True, slots=True)
class StoredPositions:
    """What the collection remembers of some topics."""

    current: Mapping[KafkaPartition, StoredPosition]
    """In the topics as they are now."""
    former: Mapping[KafkaPartition, StoredPosition]
    """In deleted topics of the same names, the last one of each Kafka partition; empty where the ids are unknown."""


class PositionMarks:
    """The positions in one collection's marks, by topic id and Kafka partition."""

    def __init__(self, marks: Marks, group: str) -> None:
        """`group`: the consumer group whose positions are written."""
        self._marks = marks
        self._group = group

    def read(self, topic_ids: Mapping[str, str]) -> StoredPositions:
        """The positions of these topics ("": the id is unknown), of any group. Raises Unavailable."""
        current: dict[KafkaPartition, StoredPosition] = {}
        former: dict[KafkaPartition, Mark] = {}
        for name, mark in self._marks.read("position").items():
            log, _, number = name.rpartition("/")
            topic = mark.payload["topic"]
            if topic not in topic_ids:
                continue
            key, topic_id = (topic, int(number)), topic_ids[topic]
            if log == (topic_id or topic):
                current[key] = _stored(mark)
            elif topic_id and log != topic:
                former[key] = max(mark, former.get(key, mark), key=lambda each: each.written_ms)
        return StoredPositions(current, {key: _stored(mark) for key, mark in former.items()})

    def write(
        self,
        offsets: Mapping[KafkaPartition, int],
        topic_ids: Mapping[str, str],
        *,
        began: Mapping[KafkaPartition, int],
        fenced: bool = True,
    ) -> None:
        """Remember these offsets. Raises Unavailable.

        `began`: where reading began, of those without a confirmed commit. `fenced`: see `Marks.write`.
        """
        payloads: dict[str, Mapping[str, Any]] = {}
        for name, offset in offsets.items():
            topic, number = name
            payload = {"topic": topic, "offset": offset, "group": self._group}
            key = f"{topic_ids.get(topic) or topic}/{number}"
            payloads[key] = {**payload, "began": began[name]} if name in began else payload
        self._marks.write("position", payloads, fenced=fenced)


def topic_ids_seen(marks: Marks) -> Mapping[str, frozenset[str]]:
    """The ids under which each topic was read into the collection, those of deleted ones included; a strong read."""
    seen: dict[str, frozenset[str]] = {}
    for name, mark in marks.read("position").items():
        topic, log_name = str(mark.payload["topic"]), name.rpartition("/")[0]
        seen[topic] = seen.get(topic, frozenset()) | {"" if log_name == topic else log_name}
    return seen


def positions_seen(api: MilvusApi, collection: str, topic_ids: Mapping[str, str]) -> Mapping[KafkaPartition, int]:
    """The positions of these topics as a quick read sees them, some 100 ms old; empty without marks.

    Unlike `PositionMarks.read` it may miss the newest ones. What it sees was acknowledged. Raises Unavailable.
    """
    topics = {topic_id or topic: topic for topic, topic_id in topic_ids.items()}
    newest: dict[KafkaPartition, tuple[int, int]] = {}
    try:
        rows = api.query(marks_name(collection), 'kind == "position"', ["name", "count", "payload"], timeout=_QUICK_S)
    except NotFound:
        return {}
    for row in rows:
        log_name, _, number = row["name"].rpartition("/")
        if log_name in topics:
            name = topics[log_name], int(number)
            newest[name] = max(newest.get(name, (-1, -1)), (row["count"], json.loads(row["payload"])["offset"]))
    return {name: offset for name, (_, offset) in newest.items()}


def _stored(mark: Mark) -> StoredPosition:
    offset, first = mark.payload["offset"], mark.payload.get("first")  # `first`: of former versions
    return StoredPosition(offset, mark.payload["group"], mark.payload.get("began", offset if first else None))


class ReachedPositions:
    """How far each Kafka partition is acknowledged, and which of it is written. May be used by several threads."""

    def __init__(self, store: PositionStore | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`store` None: nothing is remembered."""
        self._store = store
        self._clock = clock
        self._due_at = clock()
        self._lock = threading.Lock()
        self._reached: Mapping[KafkaPartition, Reached] = {}
        self._written: dict[KafkaPartition, Reached] = {}
        self._forgotten = 0

    def reached(self, reached: Mapping[KafkaPartition, Reached]) -> None:
        """Replace what is to be written: the Kafka partitions left out are another worker's."""
        with self._lock:
            self._reached = reached

    @property
    def unwritten(self) -> bool:
        """Whether `write` has something to write."""
        with self._lock:
            return bool(self._missing())

    def write(self) -> list[Finished]:
        """Write what is not written yet; returns it, to become durable as rows acknowledged now. Raises Unavailable."""
        with self._lock:
            missing, forgotten = self._missing(), self._forgotten
        if self._store is None or not missing:
            return []
        self._store.write({name: reached.offset for name, reached in missing.items()})
        with self._lock:
            if forgotten != self._forgotten:  # the acknowledgement may be older than the loss
                return []
            self._written |= missing
        return [WrittenPositions(missing)]

    def try_write(self, retry_s: float) -> list[Finished]:
        """`write` by itself, once a second; in an outage nothing is written, and it is due again after `retry_s`."""
        try:
            written = self.write()
        except Unavailable as error:
            self._due_at = self._clock() + retry_s
            log.warning("positions.unwritten", error_type=type(error).__name__, error=str(error))
            return []
        self._due_at = self._clock() + WRITE_S
        return written

    @property
    def due_at(self) -> float:
        """When `try_write` is due, if something is unwritten."""
        return self._due_at

    def request(self) -> None:
        """Make `try_write` due now."""
        self._due_at = self._clock()

    def forget(self) -> None:
        """Forget everything: the server may have lost what it has acknowledged."""
        with self._lock:
            self._reached, self._written = {}, {}
            self._forgotten += 1

    def _missing(self) -> dict[KafkaPartition, Reached]:
        if self._store is None:
            return {}
        return {name: reached for name, reached in self._reached.items() if self._written.get(name) != reached}
