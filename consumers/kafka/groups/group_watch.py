"""Whether a consumer group has members, seen from outside; and the deletion of a group."""

import threading
from contextlib import closing

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
