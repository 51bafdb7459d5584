"""Consumer groups seen from outside: commits, lag, whether a group has members, and its deletion."""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
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
_ACTIVE_S = 2.0
_INACTIVE = ("Empty", "Dead")
_DELETED = ("OK", "NoError", "GroupIdNotFoundError")


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed offset and the id of the topic it was made for ("" if another tool committed)."""

    offset: int
    topic_id: str
    leader_epoch: int = -1
    """Of the record before the offset; -1: unknown."""


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
        (tp.topic, tp.partition): Commit(commit.offset, commit.metadata or "", commit.leader_epoch)
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
    offsets: Mapping[KafkaPartition, int] = {name: commit.offset for name, commit in commits.items()}
    return [PartitionLag(*name, *ranges[name], offsets.get(name)) for name in partitions]


def forget_group(settings: KafkaSettings, group_id: str) -> None:
    """Delete a group; one that does not exist is no error. Raises MilvusStreamError, Unavailable, UsageError."""
    with closing(open_admin(settings)) as admin, kafka_errors(f"deleting the group {group_id}"):
        outcome = admin.delete_groups([group_id]).get(group_id)
    if outcome is not None and str(outcome) not in _DELETED:
        raise MilvusStreamError(f"the group {group_id} could not be deleted: {outcome}")


class GroupWatch:
    """The answer to whether a consumer group has members, at most `_ACTIVE_S` seconds old."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._active = True
        self._read_at = float("-inf")

    def active(self) -> bool:
        """Blocking. Also True if the broker does not report it (before Kafka 2.6). Raises Unavailable, UsageError."""
        if time.monotonic() - self._read_at >= _ACTIVE_S:
            group_id = self._settings.group_id
            with closing(open_admin(self._settings)) as admin, kafka_errors(f"the state of group {group_id}"):
                groups = {group["group_id"]: group for group in admin.list_groups()}
            self._active = group_id in groups and groups[group_id].get("group_state") not in _INACTIVE
            self._read_at = time.monotonic()
        return self._active
