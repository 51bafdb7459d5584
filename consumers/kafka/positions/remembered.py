"""What Milvus remembers of the offsets, compared with Kafka: a loss on either side is noticed before it is skipped.

Milvus's position is never below Kafka's committed offset, unless Milvus has lost data.
"""

import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

from consumers.kafka.topics.admin import LogRange
from pipeline.errors import OffsetsLost
from pipeline.records import KafkaPartition
from pipeline.store import PositionMarks, StoredPosition, StoredPositions

SKIP = "To go on without them: `milvus-stream ingest --accept-gap`, once"


class AcceptableGap(OffsetsLost):
    """Records are lost, and `ingest --accept-gap` goes on at `go_on_at` without them."""

    def __init__(self, message: str, go_on_at: int) -> None:
        super().__init__(message)
        self.go_on_at = go_on_at


@dataclass(frozen=True, slots=True)
class Remembered:
    """What Milvus knows of one Kafka partition."""

    position: StoredPosition | None = None
    """The position of this group."""
    filled: bool = True
    """Whether the collection holds documents of the topic."""
    former: StoredPosition | None = None
    """The position of this group in a deleted topic of the same name, if nothing is known of the present one."""


UNASKED = Remembered()
"""Nothing is remembered, and nothing follows from that."""


class PositionMemory(Protocol):
    """Milvus's memory of the offsets, as the start of reading uses it."""

    def read(self, topic_ids: Mapping[str, str]) -> StoredPositions:
        """The positions of this group on these topics. Raises Unavailable."""

    def filled(self, topic: str) -> bool:
        """Whether the collection holds documents of the topic. Raises Unavailable."""

    def expect(self, commits: Mapping[KafkaPartition, int]) -> None:
        """Compare with these commits before the next write, because Milvus gave no answer."""

    def begin(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Remember where reading begins without a commit of Kafka. Raises Unavailable."""

    def assigned(self, positions: Mapping[KafkaPartition, int], uncommitted: Collection[KafkaPartition]) -> None:
        """Take positions from these offsets on; `uncommitted`: those without a commit that Kafka has confirmed."""

    def confirmed(self, partitions: Collection[KafkaPartition]) -> None:
        """Note that Kafka has confirmed a commit of these."""

    def released(self, partitions: Collection[KafkaPartition]) -> None:
        """Write no position of these from now on: another worker does."""

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a write of positions of these is under way; every call has a deadline."""


class RememberedPositions(PositionMemory):
    """The positions of one group in the marks of its collection. May be used by several threads."""

    def __init__(self, marks: PositionMarks, group: str, filled: Callable[[str], bool]) -> None:
        self._marks = marks
        self._group = group
        self._filled = filled
        self._topic_ids: Mapping[str, str] = {}
        self._lock = threading.Lock()
        self._expected: dict[KafkaPartition, int] = {}
        self._uncommitted: dict[KafkaPartition, int] = {}
        """Where reading began, of those without a confirmed commit."""
        self._lowest: dict[KafkaPartition, float] = {}
        """The lowest position to be written: where the assignment began, infinite once it has ended."""
        self._writes: list[Collection[KafkaPartition]] = []

    @override
    def read(self, topic_ids: Mapping[str, str]) -> StoredPositions:
        self._topic_ids = dict(topic_ids)
        return self._own()

    @override
    def filled(self, topic: str) -> bool:
        return self._filled(topic)

    @override
    def expect(self, commits: Mapping[KafkaPartition, int]) -> None:
        with self._lock:
            self._expected.update(commits)

    @override
    def begin(self, offsets: Mapping[KafkaPartition, int]) -> None:
        self._marks.write(offsets, self._topic_ids, began=offsets, fenced=False)  # before anything is owned

    @override
    def assigned(self, positions: Mapping[KafkaPartition, int], uncommitted: Collection[KafkaPartition]) -> None:
        with self._lock:
            self._lowest.update(positions)
            for name, offset in positions.items():
                if name in uncommitted:
                    self._uncommitted[name] = offset
                else:
                    self._uncommitted.pop(name, None)

    @override
    def confirmed(self, partitions: Collection[KafkaPartition]) -> None:
        with self._lock:
            for name in partitions:
                self._uncommitted.pop(name, None)

    @override
    def released(self, partitions: Collection[KafkaPartition]) -> None:
        with self._lock:
            self._lowest.update(dict.fromkeys(partitions, math.inf))

    @override
    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        with self._lock:
            return any(name in names for names in self._writes for name in partitions)

    def write(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Remember how far these Kafka partitions are acknowledged. Raises Unavailable, OffsetsLost.

        What belongs to a former assignment is left out: the owner of today begins at another position.
        """
        while True:
            with self._lock:
                expected = dict(self._expected)
                if not expected:
                    owned = {name: at for name, at in offsets.items() if at >= self._lowest.get(name, 0)}
                    began = {name: at for name, at in self._uncommitted.items() if name in owned}
                    self._writes.append(owned)
                    break
            self._compare(expected)
        try:
            self._marks.write(owned, self._topic_ids, began=began)
        finally:
            with self._lock:
                self._writes.remove(owned)

    def _compare(self, expected: Mapping[KafkaPartition, int]) -> None:
        """Compare with commits that Milvus could not be compared with when they were read."""
        stored = self._own().current
        for name, commit in expected.items():
            position = stored.get(name)
            check_commit(name, commit, Remembered(position, position is not None or self._filled(name[0])))
        with self._lock:  # what was added in between is still to be compared
            self._expected = dict(self._expected.items() - expected.items())

    def _own(self) -> StoredPositions:
        def own(positions: Mapping[KafkaPartition, StoredPosition]) -> Mapping[KafkaPartition, StoredPosition]:
            return {name: position for name, position in positions.items() if position.group == self._group}

        stored = self._marks.read(self._topic_ids)
        return StoredPositions(own(stored.current), own(stored.former))


def check_commit(partition: KafkaPartition, commit: int, remembered: Remembered) -> None:
    """Raise AcceptableGap if Kafka's committed offset is ahead of what Milvus remembers."""
    position, name = remembered.position, f"{partition[0]}/{partition[1]}"
    cause = "the collection was dropped or restored, or milvus.uri or milvus.collection name another one"
    if position is None:
        # A collection that a former version filled remembers nothing yet.
        if commit > 0 and not remembered.filled:
            raise AcceptableGap(
                f"{name}: the group has committed offset {commit} in Kafka, but Milvus remembers none and holds no "
                f"document of the topic: up to {commit} records are missing there ({cause}). "
                f"{_read_again(partition, 0)}",
                commit,
            )
    elif commit > position.offset:
        gap = commit - position.offset
        raise AcceptableGap(
            f"{name}: the group has committed offset {commit} in Kafka, but Milvus remembers {position.offset}: "
            f"{gap} records are missing there ({cause}). {_read_again(partition, position.offset)}",
            commit,
        )


def begin_without_commit(partition: KafkaPartition, held: LogRange, position: StoredPosition) -> int:
    """The offset to begin at where Kafka has no commit and Milvus remembers a position.

    It is where the group began, if Kafka had confirmed no commit when the position was written: the first one was lost,
    and what was read since then is read again. Else the commits have expired or were deleted: raises AcceptableGap,
    which goes on at the position, or where the log begins.
    """
    gap = max(0, held.start - position.offset)
    if position.began is not None and held.start <= position.began:
        return position.began
    if position.offset == held.start:
        return position.offset
    name = f"{partition[0]}/{partition[1]}"
    lost = f"{gap} records are gone unread" if gap else "no record is lost"
    raise AcceptableGap(
        f"{name}: the group has no committed offset in Kafka (expired or deleted), but Milvus remembers "
        f"{position.offset}; the log begins at {held.start}, so {lost}. To go on at {position.offset + gap}: "
        "`milvus-stream ingest --accept-gap`, once. "
        f"{_read_again(partition, held.start, skip=False)}",
        position.offset + gap,
    )


def truncated(partition: KafkaPartition, position: int, end: int | None) -> OffsetsLost:
    """The error for a log that has lost its end; `end`: where it ends now, or the other records begin."""
    where = "" if end is None else f" at {end}, so {position - end} offsets are gone or hold other records"
    return OffsetsLost(
        f"{partition[0]}/{partition[1]}: records up to offset {position} were read, but the log was cut{where} (a "
        "broker lost data). Documents stored from the lost records would pass for newer than those that come now. "
        "Nothing was skipped. To go on, fill a new collection from the log as it is: set milvus.collection and "
        "kafka.group_id to new names"
    )


def _read_again(partition: KafkaPartition, offset: int, *, skip: bool = True) -> str:
    to = "--to-earliest" if offset == 0 else f"--to-offset {offset}"
    text = (
        "To read again: stop the workers, then `kafka-consumer-groups.sh --reset-offsets "
        f"--topic {partition[0]}:{partition[1]} {to} --execute` with the group, or `milvus-stream replay` their time"
    )
    return f"{text}. {SKIP}" if skip else text
