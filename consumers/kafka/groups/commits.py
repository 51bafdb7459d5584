"""The commits of a consumer group and its lag, seen from outside."""

from contextlib import closing
from dataclasses import dataclass

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    UnstableOffsetCommitError,
)

from consumers.kafka.client.connection import KafkaSettings, open_admin
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.client.internals import wait_for_transactions
from consumers.kafka.client.retry import RETRY_S, retry_until_deadline
from consumers.kafka.topics.admin import existing_topics, log_ranges
from pipeline.records import KafkaPartition

_LAG_DEADLINE_S = 15.0
"""A command waits for the coordinator, and somebody waits for the command."""
COORDINATOR_MOVES = (
    CoordinatorNotAvailableError,
    CoordinatorLoadInProgressError,
    NotCoordinatorError,
    UnstableOffsetCommitError,
)
"""Errors while a group has no coordinator. The first request for any group makes a new Kafka create its offsets topic;
until that exists no broker coordinates a group."""
_TEXT_VERSION = "v2"


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed offset, and what it was made for; "" where another tool committed."""

    offset: int
    topic_id: str
    leader_epoch: int = -1
    """Of the record before the offset; -1: unknown."""
    collection_id: str = ""
    """The collection that holds what was read before the offset; "" in commits of former versions, too."""
    read_to_ms: int | None = None
    """All that was appended before this time (epoch milliseconds) lies before the offset. Of compacted topics only."""


def commit_text(topic_id: str, collection_id: str, read_to_ms: int | None = None) -> str:
    """The metadata of a commit: `v2;<topic id>;<collection id>`, of a compacted topic with `;<read to>` behind it."""
    read_to = () if read_to_ms is None else (str(read_to_ms),)
    return ";".join((_TEXT_VERSION, topic_id, collection_id, *read_to))


def read_commit(offset: int, metadata: str, leader_epoch: int = -1) -> Commit:
    """The commit with this metadata; former versions wrote only the topic's id."""
    version, *texts = metadata.split(";")
    if not texts:
        return Commit(offset, metadata, leader_epoch)
    if version != _TEXT_VERSION:
        return Commit(offset, "", leader_epoch)
    topic_id, collection_id, read_to, *_ = (*texts, "", "", "")
    return Commit(offset, topic_id, leader_epoch, collection_id, int(read_to) if read_to.isdecimal() else None)


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """The progress of a group on one Kafka partition."""

    topic: str
    partition: int
    start: int
    """First offset the log still holds."""
    end: int
    """Offset of the next record to be produced."""
    committed: int | None
    """None: the group has never committed here."""
    collection_id: str = ""
    """The collection that the commit was made for; "": it does not say."""

    @property
    def lag(self) -> int:
        """Records between the committed offset and the end; everything in the log if nothing was committed."""
        return self.end - max(self.start, self.committed or 0)


def group_commits(
    admin: KafkaAdminClient,
    group_id: str,
    *,
    retried: type[Exception] | tuple[type[Exception], ...] = COORDINATOR_MOVES,
    deadline_s: float = RETRY_S,
) -> dict[KafkaPartition, Commit]:
    """Read the group's commits; `retried`: errors after which the call is repeated. Raises UsageError, Unavailable.

    Where `retried` has RetriableError, this waits for open transactions that commit offsets of the group.
    """
    wait_for_transactions(admin)
    with kafka_errors(f"the committed offsets of group {group_id}"):
        offsets = retry_until_deadline(
            lambda: admin.list_group_offsets({group_id: None}), retried, deadline_s=deadline_s
        ).get(group_id, {})
    return {
        (tp.topic, tp.partition): read_commit(commit.offset, commit.metadata or "", commit.leader_epoch)
        for tp, commit in offsets.items()
        if commit.offset >= 0
    }


def group_lag(settings: KafkaSettings) -> list[PartitionLag]:
    """Measure the lag of the group on every Kafka partition of the configured topics, without joining it.

    Raises UsageError for a missing topic, Unavailable.
    """
    with closing(open_admin(settings)) as admin:
        topics = existing_topics(admin, settings.topics)
        partitions = [(topic, number) for topic in settings.topics for number in range(topics[topic].partitions)]
        with kafka_errors("the first and last offsets of the topics"):
            ranges = log_ranges(admin, partitions)
        commits = group_commits(admin, settings.group_id, deadline_s=_LAG_DEADLINE_S)
    none = Commit(-1, "")
    return [
        PartitionLag(
            *name,
            *ranges[name],
            commits[name].offset if name in commits else None,
            commits.get(name, none).collection_id,
        )
        for name in partitions
    ]
