"""Where the records of a replay lie, and the group that only keeps its position."""

import time
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.protocol.consumer import IsolationLevel, OffsetSpec

from consumers.kafka.admin import existing_topics
from consumers.kafka.connection import KafkaSettings, kafka_errors, open_admin
from consumers.kafka.positions import Commit, LogRange, begin_at
from pipeline.errors import MilvusStreamError
from pipeline.records import KafkaPartition

_ACTIVE_S = 2.0
_INACTIVE = ("Empty", "Dead")


@dataclass(frozen=True, slots=True)
class ReplayRange:
    """What is to be read of one Kafka partition: offsets [position, end)."""

    log_start: int
    """First offset the log still holds."""
    start: int
    """First offset of the range."""
    end: int
    position: int
    """Where to begin: `start`, or where an earlier run of this replay stopped."""
    left_to_group: int = 0
    """Offsets of the range behind `end` that the live group has not committed yet: they are its own to write."""

    @property
    def records(self) -> int:
        """Offsets still to be read; an upper bound of the records, as compaction and transactions leave holes."""
        return max(0, self.end - self.position)

    @property
    def cut_short(self) -> bool:
        """Whether the range begins where the log does: older records of it may have been deleted."""
        return 0 < self.log_start == self.start


@dataclass(frozen=True, slots=True)
class ReplaySpan:
    """The range on every Kafka partition of the topics."""

    group_id: str
    """Of the replay: it only keeps its position, nobody joins it."""
    ranges: Mapping[KafkaPartition, ReplayRange]
    topic_ids: Mapping[str, str]

    @property
    def to_read(self) -> Mapping[KafkaPartition, ReplayRange]:
        """The Kafka partitions where something is left to be read."""
        return {name: found for name, found in self.ranges.items() if found.records}

    @property
    def resumed(self) -> bool:
        """Whether an earlier run has done a part of it."""
        return any(found.position > found.start for found in self.ranges.values())


def replay_span(settings: KafkaSettings, from_ms: int, to_ms: int, group_id: str, *, behind_group: bool) -> ReplaySpan:
    """Find the records with Kafka timestamps in [from_ms, to_ms) as they are now.

    A range is a run of offsets: from the first record at or after `from_ms` to before the first one at or after
    `to_ms`, at most to the end of what is committed by producers. `behind_group`: at most to what the group of
    `settings` has committed, on topics that it reads. Raises OffsetsLost when an earlier run has stopped at records
    that are gone by now, UsageError for a missing topic, Unavailable.
    """
    with closing(open_admin(settings)) as admin:
        topics = existing_topics(admin, settings.topics)
        names = [(topic, number) for topic, info in topics.items() for number in range(info.partitions)]
        with kafka_errors("the offsets of the range"):
            first, at_from, at_to, ends = (
                offsets(admin, names, spec) for spec in (OffsetSpec.EARLIEST, from_ms, to_ms, OffsetSpec.LATEST)
            )
        own = _commits(admin, group_id)
        live = _commits(admin, settings.group_id) if behind_group else {}
    live_topics = {topic for topic, _ in live}
    ranges = {}
    for name in names:
        start, end = at_from.get(name, ends[name]), min(ends[name], at_to.get(name, ends[name]))
        end = wanted = max(start, end)
        if name[0] in live_topics:
            end = max(start, min(end, live[name].offset if name in live else start))
        position = start
        if name in own:
            held, topic_id = LogRange(first[name], ends[name]), topics[name[0]].topic_id
            position = begin_at(name, held, own[name], topic_id=topic_id, read_before=True, first=start)
        ranges[name] = ReplayRange(first[name], start, end, position, wanted - end)
    return ReplaySpan(group_id, ranges, {topic: info.topic_id for topic, info in topics.items()})


def offsets(admin: KafkaAdminClient, names: Collection[KafkaPartition], spec: int) -> dict[KafkaPartition, int]:
    """Offset by Kafka partition; those without a record at or after the time are left out.

    `spec`: epoch milliseconds or an OffsetSpec. Raises kafka-python's errors.
    """
    wanted = {TopicPartition(*name): spec for name in names}
    # Up to the first open transaction: what lies behind it is not readable yet, and a job must not wait for it.
    found = admin.list_partition_offsets(wanted, isolation_level=IsolationLevel.READ_COMMITTED)
    return {(tp.topic, tp.partition): at.offset for tp, at in found.items() if at.offset >= 0}


def _commits(admin: KafkaAdminClient, group_id: str) -> dict[KafkaPartition, Commit]:
    with kafka_errors(f"the committed offsets of group {group_id}"):
        found = admin.list_group_offsets({group_id: None}).get(group_id, {})
    return {
        (tp.topic, tp.partition): Commit(at.offset, at.metadata or "") for tp, at in found.items() if at.offset >= 0
    }


def forget_group(settings: KafkaSettings, group_id: str) -> None:
    """Delete a replay's group. Raises Unavailable, UsageError; a group that is not there is fine."""
    with closing(open_admin(settings)) as admin, kafka_errors(f"deleting the group {group_id}"):
        outcome = admin.delete_groups([group_id]).get(group_id)
    if outcome is not None and str(outcome) not in _GONE:
        raise MilvusStreamError(f"the group {group_id} could not be deleted: {outcome}")


_GONE = ("OK", "NoError", "GroupIdNotFoundError")


class GroupWatch:
    """Whether a consumer group has members at the moment, at most `_ACTIVE_S` old."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._active = True
        self._looked = float("-inf")

    def active(self) -> bool:
        """Blocking. Also True where the broker does not tell (before Kafka 2.6). Raises Unavailable, UsageError."""
        if time.monotonic() - self._looked >= _ACTIVE_S:
            group_id = self._settings.group_id
            with closing(open_admin(self._settings)) as admin, kafka_errors(f"the state of group {group_id}"):
                groups = {group["group_id"]: group for group in admin.list_groups()}
            self._active = group_id in groups and groups[group_id].get("group_state") not in _INACTIVE
            self._looked = time.monotonic()
        return self._active
