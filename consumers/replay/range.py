"""The range of a replay: the offsets to read on each Kafka partition."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from consumers.kafka import KafkaSettings
from consumers.kafka.client.connection import open_admin
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.groups.commits import group_commits
from consumers.kafka.positions.begin import begin_at
from consumers.kafka.topics.admin import EARLIEST, LATEST, LogRange, existing_topics, stable_offsets
from pipeline.errors import Mismatch
from pipeline.records import KafkaPartition


@dataclass(frozen=True, slots=True)
class ReplayRange:
    """The offsets to read of one Kafka partition: [position, end)."""

    log_start: int
    """First offset the log still holds."""
    start: int
    """First offset of the range."""
    end: int
    position: int
    """The first offset to read: `start`, or the one at which an earlier run of this replay stopped."""
    left_to_group: int = 0
    """Offsets of the range from `end` on that the live group has not committed yet: its workers write them."""

    @property
    def records(self) -> int:
        """Offsets to read; an upper bound of the records, as compaction and transactions leave holes."""
        return max(0, self.end - self.position)

    @property
    def cut_short(self) -> bool:
        """Whether the range begins where the log begins, so that older records of it may have been deleted."""
        return 0 < self.log_start == self.start


@dataclass(frozen=True, slots=True)
class ReplaySpan:
    """The ranges of a replay on every Kafka partition of its topics."""

    group_id: str
    """The group that keeps the position of this range; it has no members, see `job_group`."""
    ranges: Mapping[KafkaPartition, ReplayRange]
    topic_ids: Mapping[str, str]
    collection_id: str = ""
    """The collection into which the part was written that an earlier run has read; "": it does not say."""

    def into(self, collection: str, collection_id: str) -> "ReplaySpan":
        """Return the span for a collection. Raises Mismatch if an earlier run has written its part into another one."""
        if self.resumed and self.collection_id not in {"", collection_id}:
            raise Mismatch(
                f"an earlier run of this replay has written what it read into another collection {collection!r}, which "
                f"was dropped since; going on would leave that out. To begin again: `kafka-consumer-groups.sh --delete "
                f"--group {self.group_id}`, then the same command"
            )
        return replace(self, collection_id=collection_id)

    @property
    def to_read(self) -> Mapping[KafkaPartition, ReplayRange]:
        """The ranges that have something to read."""
        return {name: offsets for name, offsets in self.ranges.items() if offsets.records}

    @property
    def resumed(self) -> bool:
        """Whether an earlier run has read a part of it."""
        return any(offsets.position > offsets.start for offsets in self.ranges.values())


def replay_span(settings: KafkaSettings, from_ms: int, to_ms: int, group_id: str, *, behind_group: bool) -> ReplaySpan:
    """Find the records with Kafka timestamps in [from_ms, to_ms).

    A range begins at the first record at or after `from_ms` and ends before the first one at or after `to_ms`, at the
    latest before the first transaction that is still open. `behind_group`: at the latest at the offset that the group
    of `settings` has committed, on topics that it reads. Raises OffsetsLost if the records at which an earlier run
    stopped have been deleted since, UsageError for a missing topic, Unavailable.
    """
    with closing(open_admin(settings)) as admin:
        topics = existing_topics(admin, settings.topics)
        names = [(topic, number) for topic, info in topics.items() for number in range(info.partitions)]
        with kafka_errors("the offsets of the range"):
            first, at_from, at_to, ends = (
                stable_offsets(admin, names, spec) for spec in (EARLIEST, from_ms, to_ms, LATEST)
            )
        own = group_commits(admin, group_id)
        live = group_commits(admin, settings.group_id) if behind_group else {}
    live_topics = {topic for topic, _ in live}
    ranges = {}
    for name in names:
        start, end = at_from.get(name, ends[name]), min(ends[name], at_to.get(name, ends[name]))
        end = range_end = max(start, end)
        if name[0] in live_topics:
            end = max(start, min(end, live[name].offset if name in live else start))
        position = start
        if name in own:
            held, topic_id = LogRange(first[name], ends[name]), topics[name[0]].topic_id
            position = begin_at(name, held, own[name], topic_id=topic_id, read_before=True, first=start)
        ranges[name] = ReplayRange(first[name], start, end, position, range_end - end)
    collection_id = next((commit.collection_id for commit in own.values() if commit.collection_id), "")
    return ReplaySpan(group_id, ranges, {topic: info.topic_id for topic, info in topics.items()}, collection_id)
