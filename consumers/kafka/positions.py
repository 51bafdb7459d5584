"""Start positions: the committed offset, or `start_from` if the group has never read the topic."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import RetriableError
from kafka.structs import OffsetAndMetadata

from consumers.kafka.admin import LogRange, existing_topics, log_ranges, topic_ids
from consumers.kafka.binding import UNBOUND, CollectionBinding
from consumers.kafka.connection import KafkaSettings, start_timestamp_ms
from consumers.kafka.errors import kafka_errors
from consumers.kafka.groups import Commit, commit_text, group_commits
from consumers.kafka.retry import retry_until_deadline
from pipeline.errors import OffsetsLost
from pipeline.records import KafkaPartition

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StartOffsets:
    """Where to begin reading, and the commits that fix a first start."""

    positions: Mapping[KafkaPartition, int]
    decided: Mapping[KafkaPartition, int]
    """Positions without a commit, or with one that names no collection: to be committed before the first record is
    read."""


def begin_at(
    partition: KafkaPartition, log: LogRange, commit: Commit | None, *, topic_id: str, read_before: bool, first: int
) -> int:
    """Return the offset to begin at. Raises OffsetsLost, with the size of the gap, if records before it are gone.

    `first`: the meaning of `start_from` on this Kafka partition. `read_before`: whether the group has committed on any
    Kafka partition of the topic. The first start commits a position on *every* Kafka partition, so:

    1. No commit, not read before: the first start. Begin at `first`.
    2. No commit, read before, the log begins at 0: a new Kafka partition, or a commit that expired or was deleted.
       Begin at 0; to read records again is exact.
    3. No commit, read before, the log begins later: unread records may be gone, and nobody knows how many. Stop.
    4. A commit for another topic id: the topic was deleted and recreated. Stop.
    5. A commit outside the log: records were deleted unread, or the log was truncated. Stop.
    6. A commit within the log: begin there.
    """
    name = f"{partition[0]}/{partition[1]}"
    if commit is None:
        if not read_before:
            return first
        if log.start == 0:
            return 0
        raise OffsetsLost(
            f"{name}: no committed offset, although this group has read the topic before, and the log begins at "
            f"{log.start}: up to {log.start} records may be lost. {_REMEDY}"
        )
    if commit.topic_id and topic_id and commit.topic_id != topic_id:
        raise OffsetsLost(
            f"{name}: the topic was deleted and recreated since offset {commit.offset} was committed; "
            f"the new log holds offsets {log.start} to {log.end}. {_REMEDY}"
        )
    if commit.offset < log.start:
        raise OffsetsLost(
            f"{name}: the next record to read is {commit.offset}, but the log begins at {log.start}: "
            f"{log.start - commit.offset} offsets are gone (retention or deletion). {_REMEDY}"
        )
    if commit.offset > log.end:
        raise OffsetsLost(
            f"{name}: the next record to read is {commit.offset}, but the log ends at {log.end}: it was truncated "
            f"or recreated, {commit.offset - log.end} offsets are gone. {_REMEDY}"
        )
    return commit.offset


_REMEDY = (
    "Nothing was skipped. To go on, set the group's offsets on purpose "
    "(kafka-consumer-groups --reset-offsets, worker stopped), or replay the records from elsewhere"
)


def check_topic_ids(admin: KafkaAdminClient, known: Mapping[str, str]) -> None:
    """Raise OffsetsLost if a topic has another id than the known one ("": unknown); also Unavailable, UsageError."""
    for topic, topic_id in topic_ids(admin, known).items():
        if topic_id and topic_id != (known[topic] or topic_id):
            raise OffsetsLost(f"{topic}: the topic was deleted and recreated while it was read. {_REMEDY}")


class StartPositions:
    """Finds the start positions on the broker. Blocking calls; raises OffsetsLost, Mismatch, Unavailable, UsageError.

    A first start is decided once for all Kafka partitions of a topic and committed before any record is read. After
    that, a missing commit is a loss. One case Kafka cannot report: when *all* commits of an empty group have expired
    (`offsets.retention.minutes`, a week), the group looks new. `stored(topic)`, called only then, says whether
    documents of the topic are stored already; if they are, that start counts as a loss, too.

    A commit names the collection that holds what was read before it. One that names another collection is refused.
    """

    def __init__(
        self,
        admin: KafkaAdminClient,
        settings: KafkaSettings,
        stored: Callable[[str], bool] | None = None,
        binding: CollectionBinding = UNBOUND,
    ) -> None:
        self._admin = admin
        self._settings = settings
        self._stored = stored
        self._binding = binding
        self.topic_ids: dict[str, str] = {}

    def before_joining(self) -> None:
        """Check that the topics exist, and commit the start of those never read while the group is still empty.

        The broker accepts such a commit only while the group has no members. If it refuses, the members have decided
        or are about to, and `find` settles it as a member.
        """
        topics = self._describe()
        partitions = [(topic, number) for topic, count in topics.items() for number in range(count)]
        start = self._find(partitions, only_new_topics=True)
        if start.decided:
            offsets = {TopicPartition(*name): self.metadata(name, at) for name, at in start.decided.items()}
            with kafka_errors(f"the first commit of group {self._settings.group_id}"):
                self._retried(lambda: self._admin.alter_group_offsets(self._settings.group_id, offsets))

    def find(self, partitions: Collection[KafkaPartition]) -> StartOffsets:
        """Find the start of Kafka partitions that were just assigned."""
        self._describe()
        return self._find(partitions, only_new_topics=False)

    def check_topics(self, topics: Collection[str]) -> None:
        """Raise OffsetsLost if one of the topics was deleted and recreated since the last assignment."""
        check_topic_ids(self._admin, {topic: self.topic_ids.get(topic, "") for topic in topics})

    def metadata(self, partition: KafkaPartition, offset: int) -> OffsetAndMetadata:
        """Return an offset to commit, with the topic's id, which shows later whether the topic was recreated."""
        return commit_metadata(offset, self.topic_ids.get(partition[0], ""), self._binding.collection_id)

    def _describe(self) -> Mapping[str, int]:
        topics = existing_topics(self._admin, self._settings.topics)
        self.topic_ids = {topic: info.topic_id for topic, info in topics.items()}
        return {topic: info.partitions for topic, info in topics.items()}

    def _find(self, partitions: Collection[KafkaPartition], *, only_new_topics: bool) -> StartOffsets:
        commits = group_commits(self._admin, self._settings.group_id, retried=RetriableError)
        rebound = self._rebound(partitions, commits)
        new_topics = self._new_topics({topic for topic, _ in partitions}, {topic for topic, _ in commits})
        # A member that finds a topic without any commit decides for all of its Kafka partitions, not only its own.
        first_starts = {name for topic in new_topics for name in self._partitions_of(topic)}
        first_starts |= {name for name in partitions if name[0] in new_topics}
        requested = first_starts if only_new_topics else first_starts | set(partitions)
        ranges = {name: LogRange(*span) for name, span in self._ranges(requested).items()}
        first = self._first_offsets(first_starts, ranges)
        positions = {
            name: begin_at(
                name,
                ranges[name],
                commits.get(name),
                topic_id=self.topic_ids.get(name[0], ""),
                read_before=name not in first_starts,
                first=first.get(name, 0),
            )
            for name in requested
        }
        decided = {**rebound, **{name: at for name, at in positions.items() if name not in commits}}
        return StartOffsets({name: positions[name] for name in partitions if name in positions}, decided)

    def _rebound(
        self, partitions: Collection[KafkaPartition], commits: Mapping[KafkaPartition, Commit]
    ) -> dict[KafkaPartition, int]:
        """Return the commits to repeat with the collection's id. Raises Mismatch if one is of another collection."""
        own = {name: commits[name] for name in partitions if name in commits}
        for name, commit in sorted(own.items()):
            self._binding.check(name, commit)
        return self._binding.rebound(own)

    def _new_topics(self, topics: Iterable[str], committed: Collection[str]) -> set[str]:
        """Return the topics without a commit of which no document is stored."""
        return {
            topic for topic in topics if topic not in committed and (self._stored is None or not self._stored(topic))
        }

    def _partitions_of(self, topic: str) -> list[KafkaPartition]:
        topics = existing_topics(self._admin, (topic,))
        return [(topic, number) for number in range(topics[topic].partitions)]

    def _ranges(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, tuple[int, int]]:
        with kafka_errors("the first and last offsets of the topics"):
            return self._retried(lambda: log_ranges(self._admin, partitions))

    def _first_offsets(
        self, partitions: Collection[KafkaPartition], ranges: Mapping[KafkaPartition, LogRange]
    ) -> dict[KafkaPartition, int]:
        """Return the meaning of `start_from` on Kafka partitions that were never read."""
        start_from = self._settings.start_from
        timestamp_ms = start_timestamp_ms(start_from)
        if timestamp_ms is None or not partitions:
            return {name: ranges[name].start if start_from == "earliest" else ranges[name].end for name in partitions}
        specs = {TopicPartition(*name): timestamp_ms for name in partitions}
        with kafka_errors(f"the offsets at {start_from}"):
            answers = self._retried(lambda: self._admin.list_partition_offsets(specs))
        offsets = {name: answers[TopicPartition(*name)].offset for name in partitions}
        # A negative offset: no record at or after that time, so the next one produced is the first.
        return {name: offset if offset >= 0 else ranges[name].end for name, offset in offsets.items()}

    def _retried(self, call: Callable[[], T]) -> T:
        """Retry: a leader or coordinator that moves must not stop a worker in the middle of a rebalance."""
        return retry_until_deadline(call, RetriableError)


def commit_metadata(offset: int, topic_id: str, collection_id: str = "") -> OffsetAndMetadata:
    """Return an offset to commit together with the ids of its topic and of the collection that was filled."""
    return OffsetAndMetadata(offset, commit_text(topic_id, collection_id), -1)
