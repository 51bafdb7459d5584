"""What Milvus remembers of the offsets, compared with Kafka: a loss on either side is noticed before it is skipped.

Milvus's position is never below Kafka's committed offset, unless Milvus has lost data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

from consumers.kafka.topics.admin import LogRange
from pipeline.errors import OffsetsLost
from pipeline.records import KafkaPartition
from pipeline.store import PositionMarks, StoredPosition

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


UNASKED = Remembered()
"""Nothing is remembered, and nothing follows from that."""


class PositionMemory(Protocol):
    """Milvus's memory of the offsets, as the start of reading uses it."""

    def read(self, topic_ids: Mapping[str, str]) -> Mapping[KafkaPartition, StoredPosition]:
        """The positions of this group on these topics. Raises Unavailable."""

    def filled(self, topic: str) -> bool:
        """Whether the collection holds documents of the topic. Raises Unavailable."""

    def expect(self, commits: Mapping[KafkaPartition, int]) -> None:
        """Compare with these commits before the next write, because Milvus gave no answer."""

    def begin(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Remember where reading begins without a commit of Kafka. Raises Unavailable."""


class RememberedPositions(PositionMemory):
    """The positions of one group in the marks of its collection. May be used by several threads."""

    def __init__(self, marks: PositionMarks, group: str, filled: Callable[[str], bool]) -> None:
        self._marks = marks
        self._group = group
        self._filled = filled
        self._topic_ids: Mapping[str, str] = {}
        self._expected: Mapping[KafkaPartition, int] = {}

    @override
    def read(self, topic_ids: Mapping[str, str]) -> Mapping[KafkaPartition, StoredPosition]:
        self._topic_ids = dict(topic_ids)
        return self._own()

    @override
    def filled(self, topic: str) -> bool:
        return self._filled(topic)

    @override
    def expect(self, commits: Mapping[KafkaPartition, int]) -> None:
        self._expected = {**self._expected, **commits}

    @override
    def begin(self, offsets: Mapping[KafkaPartition, int]) -> None:
        self._marks.write(offsets, self._topic_ids, first=True)

    def write(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Remember how far these Kafka partitions are acknowledged. Raises Unavailable, OffsetsLost."""
        expected = self._expected
        if expected:
            stored = self._own()
            for name, commit in expected.items():
                position = stored.get(name)
                check_commit(name, commit, Remembered(position, position is not None or self._filled(name[0])))
            self._expected = {}
        self._marks.write(offsets, self._topic_ids)

    def _own(self) -> dict[KafkaPartition, StoredPosition]:
        stored = self._marks.read(self._topic_ids)
        return {name: position for name, position in stored.items() if position.group == self._group}


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

    It is the position if nothing was read yet, because the first start ended before its commit. Else the commits have
    expired or were deleted: raises AcceptableGap, which goes on at the position, or where the log begins.
    """
    gap = max(0, held.start - position.offset)
    if not gap and (position.first or position.offset == held.start):
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
