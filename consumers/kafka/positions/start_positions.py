"""Start positions: the committed offset, or `start_from` if the group has never read the topic.

Both are compared with what Milvus remembers, so that a loss in Kafka or in Milvus stops the start.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import structlog
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import RetriableError
from kafka.structs import OffsetAndMetadata

from consumers.kafka.client.connection import KafkaSettings, open_admin, start_timestamp_ms
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.client.retry import retry_until_deadline
from consumers.kafka.groups.binding import UNBOUND, CollectionBinding
from consumers.kafka.groups.commits import Commit, commit_text, group_commits
from consumers.kafka.positions.begin import REMEDY, begin_at
from consumers.kafka.positions.compaction import CompactionWatch
from consumers.kafka.positions.leader_epochs import UNKNOWN, LeaderEpochs
from consumers.kafka.positions.remembered import UNASKED, AcceptableGap, PositionMemory, Remembered
from consumers.kafka.topics.admin import LogRange, compacted_topics, existing_topics, log_ranges, topic_ids
from pipeline.errors import OffsetsLost, Unavailable
from pipeline.records import KafkaPartition
from pipeline.store import StoredPositions

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StartOffsets:
    """Where to begin reading, and the commits that fix a first start."""

    positions: Mapping[KafkaPartition, int]
    decided: Mapping[KafkaPartition, int]
    """Positions that are not committed yet: to be committed before the first record is read.

    Should that commit be lost, Milvus remembers them until another one is confirmed.
    """
    epochs: Mapping[KafkaPartition, int]
    """The leader epochs of the commits among them."""
    read_to_ms: Mapping[KafkaPartition, int | None]
    """Of the commits among them, see `Commit`."""
    ends: Mapping[KafkaPartition, int]
    rebound: Mapping[KafkaPartition, int]
    """Commits that name no collection: to be committed again, before the first record is read."""


def check_topic_ids(admin: KafkaAdminClient, known: Mapping[str, str]) -> None:
    """Raise OffsetsLost if a topic has another id than the known one ("": unknown); also Unavailable, UsageError."""
    for topic, topic_id in topic_ids(admin, known).items():
        if topic_id and topic_id != (known[topic] or topic_id):
            raise OffsetsLost(f"{topic}: the topic was deleted and recreated while it was read. {REMEDY}")


class StartPositions:
    """Finds the start positions on the broker. Blocking calls; raises OffsetsLost, Mismatch, Unavailable, UsageError.

    A first start is decided once for all Kafka partitions of a topic, remembered in Milvus, and committed before any
    record is read. Once a commit was confirmed, a missing one is a loss. One case Kafka cannot report: when *all*
    commits of an empty group have expired (`offsets.retention.minutes`, a week), the group looks new. `memory` knows
    it. A collection of a former version remembers nothing: `stored(topic)`, called only then, says whether documents of
    the topic are stored already; if they are, that start counts as a loss, too.

    A commit names the collection that holds what was read before it. One that names another collection is refused.
    """

    def __init__(
        self,
        admin: KafkaAdminClient,
        settings: KafkaSettings,
        stored: Callable[[str], bool] | None = None,
        binding: CollectionBinding = UNBOUND,
        *,
        memory: PositionMemory | None = None,
        accept_gap: bool = False,
    ) -> None:
        """`accept_gap`: go on behind a gap of each Kafka partition once, with a line in the log."""
        self._admin = admin
        self._settings = settings
        self._stored = stored
        self._binding = binding
        self._memory = memory
        self._accept_gap = accept_gap
        self._accepted: set[KafkaPartition] = set()
        self.topic_ids: dict[str, str] = {}
        self.epochs = LeaderEpochs()
        self.compaction = CompactionWatch()

    def before_joining(self) -> None:
        """Check that the topics exist, and commit the start of those never read while the group is still empty.

        The broker accepts such a commit only while the group has no members. If it refuses, the members have decided
        or are about to, and `find` settles it as a member.
        """
        topics = self._describe()
        partitions = [(topic, number) for topic, count in topics.items() for number in range(count)]
        start = self._find(partitions, only_new_topics=True)
        self._remember(start)
        if start.decided:
            offsets = {TopicPartition(*name): self.metadata(name, at) for name, at in start.decided.items()}
            with kafka_errors(f"the first commit of group {self._settings.group_id}"):
                self._retried(lambda: self._admin.alter_group_offsets(self._settings.group_id, offsets))

    def find(self, partitions: Collection[KafkaPartition]) -> StartOffsets:
        """Find the start of Kafka partitions that were just assigned."""
        self._describe()
        start = self._find(partitions, only_new_topics=False)
        self._remember(start)
        for name, offset in start.positions.items():
            self.epochs.begin(name, offset, start.epochs.get(name, UNKNOWN))
            self.compaction.begin(name, offset, start.read_to_ms.get(name), start.ends[name])
        if self._memory is not None:
            self._memory.assigned(start.positions, start.decided)
        return start

    def confirmed(self, partitions: Collection[KafkaPartition]) -> None:
        """Note that Kafka has confirmed a commit of these Kafka partitions."""
        if self._memory is not None:
            self._memory.confirmed(partitions)

    def released(self, partitions: Collection[KafkaPartition]) -> None:
        """Have no position written of Kafka partitions that are given up or lost."""
        if self._memory is not None:
            self._memory.released(partitions)

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a write of their positions is under way, after `released`. Called repeatedly."""
        return self._memory is not None and self._memory.writing(partitions)

    def problems(self) -> list[OffsetsLost]:
        """Find what a start would stop for, on every Kafka partition; changes nothing."""
        topics = self._describe()
        names = [(topic, number) for topic, count in topics.items() for number in range(count)]
        situation = self._situation(names, only_new_topics=False)
        problems = []
        for name in names:
            try:
                self._begin(name, situation)
            except OffsetsLost as error:
                problems.append(error)
        return problems

    def check_topics(self, topics: Collection[str]) -> None:
        """Raise OffsetsLost if one of the topics was deleted and recreated since the last assignment."""
        check_topic_ids(self._admin, {topic: self.topic_ids.get(topic, "") for topic in topics})

    def metadata(self, partition: KafkaPartition, offset: int) -> OffsetAndMetadata:
        """Return an offset to commit, with the topic's id, which shows later whether the topic was recreated."""
        topic_id, read_to_ms = self.topic_ids.get(partition[0], ""), self.compaction.read_to_ms(partition, offset)
        epoch = self.epochs.before(partition, offset)
        return commit_metadata(offset, topic_id, epoch, self._binding.collection_id, read_to_ms)

    def _describe(self) -> Mapping[str, int]:
        topics = existing_topics(self._admin, self._settings.topics)
        self.topic_ids = {topic: info.topic_id for topic, info in topics.items()}
        self.compaction.configure(compacted_topics(self._admin, topics))
        return {topic: info.partitions for topic, info in topics.items()}

    def _find(self, partitions: Collection[KafkaPartition], *, only_new_topics: bool) -> StartOffsets:
        situation = self._situation(partitions, only_new_topics=only_new_topics)
        commits, positions, decided = situation.commits, {}, {}
        for name in situation.ranges:
            if name in commits and self._binding.adopts(commits[name]):
                # What was read before is not in here, or another process has written it: nothing to compare with.
                positions[name] = decided[name] = commits[name].offset
                continue
            try:
                positions[name] = self._begin(name, situation)
            except AcceptableGap as gap:
                if not self._accept_gap or name in self._accepted:
                    raise
                self._accepted.add(name)
                log.warning("offsets.gap_accepted", partition=f"{name[0]}/{name[1]}", at=gap.go_on_at, why=str(gap))
                positions[name] = decided[name] = gap.go_on_at
            if name not in commits:
                decided[name] = positions[name]
        kept = {name: commits[name] for name in positions if name in commits and name not in decided}
        return StartOffsets(
            {name: positions[name] for name in partitions if name in positions},
            decided,
            {name: commit.leader_epoch for name, commit in kept.items()},
            {name: commit.read_to_ms for name, commit in kept.items()},
            {name: log.end for name, log in situation.ranges.items()},
            self._binding.unnamed(kept),
        )

    def _situation(self, partitions: Collection[KafkaPartition], *, only_new_topics: bool) -> "_Situation":
        commits = group_commits(self._admin, self._settings.group_id, retried=RetriableError)
        for name in partitions:
            if name in commits:
                self._binding.check(name, commits[name])
        stored, filled = self._remembered(commits)
        known = {topic for topic, _ in (*commits, *(stored.current if stored else ()))}
        unknown = {topic for topic, _ in partitions if topic not in known}
        recreated = unknown & {topic for topic, _ in (stored.former if stored else ())}
        new_topics = {topic for topic in unknown if topic in recreated or not self._is_stored(topic)}
        # A member that finds a topic without any commit decides for all of its Kafka partitions, not only its own.
        first_starts = {name for topic in new_topics for name in self._partitions_of(topic)}
        first_starts |= {name for name in partitions if name[0] in new_topics}
        requested = first_starts if only_new_topics else first_starts | set(partitions)
        unread = {name: commits[name].offset for name in requested if name in commits}
        if stored is None and self._memory is not None:
            if len(unread) < len(requested):
                raise Unavailable("where to begin without a committed offset is remembered in Milvus, which is away")
            log.warning("positions.unread", what="Milvus is away: they are compared before the next one is written")
            self._memory.expect(unread)
        ranges = {name: LogRange(*span) for name, span in self._ranges(requested).items()}
        return _Situation(
            commits=commits,
            ranges=ranges,
            first=self._first_offsets(first_starts, ranges),
            first_starts=first_starts,
            stored=stored,
            filled=filled,
            recreated=recreated,
        )

    def _remembered(
        self, commits: Mapping[KafkaPartition, Commit]
    ) -> tuple[StoredPositions | None, Mapping[str, bool]]:
        """Return what Milvus remembers (None: not asked, or away), and whether it holds documents of other topics."""
        if self._memory is None:
            return None, {}
        try:
            stored = self._memory.read(self.topic_ids)
            unknown = {name[0] for name in commits if name not in stored.current and name[0] in self.topic_ids}
            return stored, {topic: self._memory.filled(topic) for topic in unknown}
        except Unavailable:
            return None, {}

    def _begin(self, name: KafkaPartition, situation: "_Situation") -> int:
        stored, commit, log = situation.stored, situation.commits.get(name), situation.ranges[name]
        remembered = UNASKED
        if stored is not None:
            filled = situation.filled.get(name[0], True)
            former = stored.former.get(name) if name[0] in situation.recreated else None
            remembered = Remembered(stored.current.get(name), filled, former)
        offset = begin_at(
            name,
            log,
            commit,
            topic_id=self.topic_ids.get(name[0], ""),
            read_before=name not in situation.first_starts,
            first=situation.first.get(name, 0),
            remembered=remembered,
        )
        if commit is not None:
            self.compaction.check_commit(name, offset, commit.read_to_ms, log.end)
        return offset

    def _remember(self, start: StartOffsets) -> None:
        """Have Milvus remember a start without a commit before Kafka does, so that its memory is never behind."""
        if self._memory is not None and start.decided:
            self._memory.begin(start.decided)

    def _is_stored(self, topic: str) -> bool:
        return self._stored is not None and self._stored(topic)

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


def start_problems(
    settings: KafkaSettings, *, stored: Callable[[str], bool] | None, memory: PositionMemory | None
) -> list[OffsetsLost]:
    """Find what a start would stop for, without joining the group; changes nothing. Raises UsageError, Unavailable."""
    with closing(open_admin(settings)) as admin:
        return StartPositions(admin, settings, stored, memory=memory).problems()


@dataclass(frozen=True, slots=True)
class _Situation:
    """What Kafka and Milvus say before a start."""

    commits: Mapping[KafkaPartition, Commit]
    ranges: Mapping[KafkaPartition, LogRange]
    """Of the Kafka partitions to be decided."""
    first: Mapping[KafkaPartition, int]
    first_starts: Collection[KafkaPartition]
    stored: StoredPositions | None
    """None: Milvus was not asked, or does not answer."""
    filled: Mapping[str, bool]
    recreated: Collection[str]
    """Topics of which only positions in a deleted one of the same name are known; the broker forgets its commits."""


def commit_metadata(
    offset: int, topic_id: str, leader_epoch: int = UNKNOWN, collection_id: str = "", read_to_ms: int | None = None
) -> OffsetAndMetadata:
    """Return an offset to commit with the ids of its topic and collection, and the leader epoch before it."""
    return OffsetAndMetadata(offset, commit_text(topic_id, collection_id, read_to_ms), leader_epoch)
