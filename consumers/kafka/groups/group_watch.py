"""The members of a consumer group, seen from outside; and the deletion of a group."""

import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    GroupIdNotFoundError,
    KafkaError,
)

from consumers.kafka.client.connection import KafkaSettings, open_admin
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.client.retry import retry_until_deadline
from consumers.kafka.groups.commits import COORDINATOR_MOVES
from pipeline.errors import MilvusStreamError
from pipeline.records import KafkaPartition

_ANSWER_S = 2.0
"""The answer is for a request that waits to be sent."""
_INACTIVE = ("Empty", "Dead")
_DELETED = ("OK", "NoError", "GroupIdNotFoundError")


def forget_group(settings: KafkaSettings, group_id: str) -> None:
    """Delete a group; one that does not exist is no error. Raises MilvusStreamError, Unavailable, UsageError."""
    with closing(open_admin(settings)) as admin, kafka_errors(f"deleting the group {group_id}"):
        outcome = admin.delete_groups([group_id]).get(group_id)
    if outcome is not None and str(outcome) not in _DELETED:
        raise MilvusStreamError(f"the group {group_id} could not be deleted: {outcome}")


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One member of a consumer group, as it describes itself."""

    client_id: str
    host: str
    partitions: tuple[KafkaPartition, ...]
    """The Kafka partitions that are assigned to it."""


def _member(found: Mapping[str, Any]) -> GroupMember:
    assignment = found["member_assignment"]
    # Bytes where it is not that of a consumer, and nothing while the group rebalances.
    assigned = assignment.get("assigned_partitions", ()) if isinstance(assignment, Mapping) else ()
    partitions = sorted((each["topic"], number) for each in assigned for number in each["partitions"])
    return GroupMember(found["client_id"], found["client_host"].removeprefix("/"), tuple(partitions))


class GroupWatch:
    """A consumer group seen from outside: whether it has members, and which; for any thread."""

    def __init__(self, settings: KafkaSettings, group_id: str | None = None) -> None:
        """`group_id`: another group than that of the settings."""
        self._settings = settings
        self._group_id = group_id or settings.group_id
        self._admin: KafkaAdminClient | None = None
        self._lock = threading.Lock()

    def active(self) -> bool:
        """Ask the group's coordinator. Raises Unavailable, and UsageError without the right to Describe."""
        group = self._described()
        return group is not None and group["group_state"] not in _INACTIVE

    def members(self) -> list[GroupMember]:
        """The members, by client and host; none while they share out the Kafka partitions. Raises as `active`."""
        group = self._described()
        members = [] if group is None else [_member(found) for found in group["members"]]
        return sorted(members, key=lambda member: (member.client_id, member.host, member.partitions))

    def _described(self) -> Mapping[str, Any] | None:
        """The group as its coordinator describes it; None: there is none."""
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

    def _ask(self) -> Mapping[str, Any] | None:
        if self._admin is None:
            self._admin = open_admin(self._settings)
        answer: Mapping[str, Any] = self._admin.describe_groups([self._group_id])[self._group_id]
        error = answer["error"]
        if error is None:
            return answer
        if GroupIdNotFoundError.__name__ in error:
            return None
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
