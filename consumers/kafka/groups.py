"""Consumer groups seen from outside: commits, lag, whether a group has members, and its deletion."""

import threading
from contextlib import closing
from dataclasses import dataclass

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    GroupIdNotFoundError,
    KafkaError,
    NotCoordinatorError,
    UnstableOffsetCommitError,
)

from consumers.kafka.admin import existing_topics, log_ranges
from consumers.kafka.connection import KafkaSettings, open_admin
from consumers.kafka.errors import kafka_errors
from consumers.kafka.internals import wait_for_transactions
from consumers.kafka.retry import RETRY_S, retry_until_deadline
from pipeline.errors import MilvusStreamError
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
_ANSWER_S = 2.0
"""The answer is for a request that waits to be sent."""
_INACTIVE = ("Empty", "Dead")
_DELETED = ("OK", "NoError", "GroupIdNotFoundError")


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


def forget_group(settings: KafkaSettings, group_id: str) -> None:
    """Delete a group; one that does not exist is no error. Raises MilvusStreamError, Unavailable, UsageError."""
    with closing(open_admin(settings)) as admin, kafka_errors(f"deleting the group {group_id}"):
        outcome = admin.delete_groups([group_id]).get(group_id)
    if outcome is not None and str(outcome) not in _DELETED:
        raise MilvusStreamError(f"the group {group_id} could not be deleted: {outcome}")


class GroupWatch:
    """The question whether a consumer group has members, for any thread."""

    def __init__(self, settings: KafkaSettings, group_id: str | None = None) -> None:
        """`group_id`: another group than that of the settings."""
        self._settings = settings
        self._group_id = group_id or settings.group_id
        self._admin: KafkaAdminClient | None = None
        self._lock = threading.Lock()

    def active(self) -> bool:
        """Ask the group's coordinator. Raises Unavailable, and UsageError without the right to Describe."""
        with self._lock:
            try:
                with kafka_errors(f"the state of group {self._group_id}"):
                    return retry_until_deadline(self._ask, COORDINATOR_MOVES, deadline_s=_ANSWER_S)
            except MilvusStreamError:
                self._drop()
                raise

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            self._drop()

    def _ask(self) -> bool:
        if self._admin is None:
            self._admin = open_admin(self._settings)
        answer = self._admin.describe_groups([self._group_id])[self._group_id]
        error = answer["error"]
        if error is None or GroupIdNotFoundError.__name__ in error:
            return error is None and answer["group_state"] not in _INACTIVE
        if any(moved.__name__ in error for moved in COORDINATOR_MOVES):
            self._drop()  # the client keeps the coordinator it has found once
            raise CoordinatorNotAvailableError(error)
        if GroupAuthorizationFailedError.__name__ in error:
            raise GroupAuthorizationFailedError(self._group_id)
        raise KafkaError(error)

    def _drop(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()
