"""Where reading begins: at the committed offset; at `start_from` only if the group has never read the topic."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import RetriableError
from kafka.structs import OffsetAndMetadata

from consumers.kafka.admin import existing_topics, log_ranges
from consumers.kafka.connection import KafkaSettings, kafka_errors, start_timestamp_ms
from pipeline.errors import OffsetsLost
from pipeline.records import KafkaPartition

T = TypeVar("T")

RETRY_S = 20.0
"""A broker that changes its leader or coordinator answers again within this."""
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class LogRange:
    """The offsets that a Kafka partition holds: [start, end)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed offset and the id of the topic it was made for ("" where another tool committed)."""

    offset: int
    topic_id: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Where to begin, and what to commit so that the decision is made once."""

    positions: Mapping[KafkaPartition, int]
    decided: Mapping[KafkaPartition, int]
    """Positions that no commit stood behind: to be committed before the first record is read."""


def begin_at(
    partition: KafkaPartition, log: LogRange, commit: Commit | None, *, topic_id: str, read_before: bool, first: int
) -> int:
    """The offset to begin at. Raises OffsetsLost, with the size of the gap, when records before it are gone.

    `first` is what `start_from` means on this Kafka partition; it counts only if the group has not `read_before`
    any Kafka partition of the topic. Why no commit is not always a first start: the first start commits the start of
    *every* Kafka partition of the topic, so later a missing commit is a Kafka partition added since (its records
    are all new: begin at 0) or a commit that was deleted or expired. While the log still begins at 0 both are
    served by reading from 0, since a redo is exact. Otherwise records may be gone unread, and nobody can say how many:
    stop.
    """
    name = f"{partition[0]}/{partition[1]}"
    if commit is None:
        if not read_before:
            return first
        if log.start == 0:
            return 0
        raise OffsetsLost(
            f"{name}: no committed offset, although this group has read the topic before, and the log begins at "
            f"{log.start}: up to {log.start} records may be lost. {_HOW}"
        )
    if commit.topic_id and topic_id and commit.topic_id != topic_id:
        raise OffsetsLost(
            f"{name}: the topic was deleted and created anew since offset {commit.offset} was committed; "
            f"the new log holds offsets {log.start} to {log.end}. {_HOW}"
        )
    if commit.offset < log.start:
        raise OffsetsLost(
            f"{name}: the next record to read is {commit.offset}, but the log begins at {log.start}: "
            f"{log.start - commit.offset} offsets are gone (retention or deletion). {_HOW}"
        )
    if commit.offset > log.end:
        raise OffsetsLost(
            f"{name}: the next record to read is {commit.offset}, but the log ends at {log.end}: it was truncated "
            f"or created anew, {commit.offset - log.end} offsets are gone. {_HOW}"
        )
    return commit.offset


_HOW = (
    "Nothing was skipped. To go on, set the group's offsets on purpose "
    "(kafka-consumer-groups --reset-offsets, worker stopped), or replay the records from elsewhere"
)


class StartPositions:
    """Finds where to begin on the broker. Blocking calls; raises OffsetsLost, Unavailable, UsageError.

    A first start is decided once for all Kafka partitions of a topic and committed before any record is read, so
    that it can be told from a loss later. What Kafka cannot tell: when *all* commits of an empty group have expired
    (`offsets.retention.minutes`, a week), the group looks new. `stored(topic)`, asked only then, says whether
    documents of the topic are stored already; with it such a start is treated as a loss, too.
    """

    def __init__(
        self, admin: KafkaAdminClient, settings: KafkaSettings, stored: Callable[[str], bool] | None = None
    ) -> None:
        self._admin = admin
        self._settings = settings
        self._stored = stored
        self.topic_ids: dict[str, str] = {}

    def before_joining(self) -> None:
        """Check that the topics exist, and commit the start of those never read while the group is still empty.

        The broker takes such a commit only as long as nobody is in the group; refused, the others have decided or
        are about to, and `find` settles it as a member.
        """
        topics = self._describe()
        begin = self._find([(topic, number) for topic, count in topics.items() for number in range(count)], check=False)
        if begin.decided:
            offsets = {TopicPartition(*name): self.metadata(name, at) for name, at in begin.decided.items()}
            with kafka_errors(f"the first commit of group {self._settings.group_id}"):
                self._retry_until_deadline(lambda: self._admin.alter_group_offsets(self._settings.group_id, offsets))

    def find(self, partitions: Collection[KafkaPartition]) -> Begin:
        """Where to begin on these Kafka partitions, which were just assigned."""
        self._describe()
        return self._find(partitions, check=True)

    def still_the_same(self, topics: Collection[str]) -> None:
        """Raise OffsetsLost if one of the topics was deleted and created anew since the last assignment."""
        with kafka_errors("the ids of the topics"):
            found = {topic["name"]: str(topic["topic_id"] or "") for topic in self._admin.describe_topics(list(topics))}
        for topic, topic_id in found.items():
            if topic_id and topic_id != self.topic_ids.get(topic, topic_id):
                raise OffsetsLost(f"{topic}: the topic was deleted and created anew while it was read. {_HOW}")

    def metadata(self, partition: KafkaPartition, offset: int) -> OffsetAndMetadata:
        """What is committed for an offset: with the topic's id, so that a topic created anew is noticed."""
        return OffsetAndMetadata(offset, self.topic_ids.get(partition[0], ""), -1)

    def _describe(self) -> Mapping[str, int]:
        found = existing_topics(self._admin, self._settings.topics)
        self.topic_ids = {topic: info.topic_id for topic, info in found.items()}
        return {topic: info.partitions for topic, info in found.items()}

    def _find(self, partitions: Collection[KafkaPartition], *, check: bool) -> Begin:
        topics = {topic for topic, _ in partitions}
        commits = self._commits()
        known = {topic for topic, _ in commits}
        new = {topic for topic in topics - known if self._stored is None or not self._stored(topic)}
        # A member that finds a topic without any commit decides for all of its Kafka partitions, not only its own.
        wanted = set(partitions) | {name for topic in new for name in self._all_of(topic)}
        ranges = {name: LogRange(*span) for name, span in self._ranges(wanted).items()}
        first = self._first([name for name in wanted if name[0] in new], ranges)
        positions: dict[KafkaPartition, int] = {}
        for name in wanted:
            if not check and name[0] not in new:
                continue
            positions[name] = begin_at(
                name,
                ranges[name],
                commits.get(name),
                topic_id=self.topic_ids.get(name[0], ""),
                read_before=name[0] not in new,
                first=first.get(name, 0),
            )
        decided = {name: at for name, at in positions.items() if name not in commits}
        return Begin({name: positions[name] for name in partitions if name in positions}, decided)

    def _all_of(self, topic: str) -> list[KafkaPartition]:
        found = existing_topics(self._admin, (topic,))
        return [(topic, number) for number in range(found[topic].partitions)]

    def _commits(self) -> dict[KafkaPartition, Commit]:
        with kafka_errors(f"the committed offsets of group {self._settings.group_id}"):
            found = self._retry_until_deadline(lambda: self._admin.list_group_offsets({self._settings.group_id: None}))
        offsets = found.get(self._settings.group_id, {})
        return {
            (tp.topic, tp.partition): Commit(at.offset, at.metadata or "")
            for tp, at in offsets.items()
            if at.offset >= 0
        }

    def _ranges(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, tuple[int, int]]:
        with kafka_errors("the first and last offsets of the topics"):
            return self._retry_until_deadline(lambda: log_ranges(self._admin, partitions))

    def _first(
        self, partitions: Collection[KafkaPartition], ranges: Mapping[KafkaPartition, LogRange]
    ) -> dict[KafkaPartition, int]:
        """What `start_from` means on Kafka partitions that were never read."""
        start_from = self._settings.start_from
        timestamp_ms = start_timestamp_ms(start_from)
        if timestamp_ms is None or not partitions:
            return {name: ranges[name].start if start_from == "earliest" else ranges[name].end for name in partitions}
        specs = {TopicPartition(*name): timestamp_ms for name in partitions}
        with kafka_errors(f"the offsets at {start_from}"):
            found = self._retry_until_deadline(lambda: self._admin.list_partition_offsets(specs))
        # No record at or after that time: what comes next is the first one.
        return {
            name: found[TopicPartition(*name)].offset if found[TopicPartition(*name)].offset >= 0 else ranges[name].end
            for name in partitions
        }

    def _retry_until_deadline(self, call: Callable[[], T]) -> T:
        """A leader or coordinator that moves is no reason to stop a worker in the middle of a rebalance."""
        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                return call()
            except RetriableError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE_S)
