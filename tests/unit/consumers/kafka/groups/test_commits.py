"""The commits of a group, on a broker that has no coordinator for it yet."""

from typing import Any

import pytest
from kafka.errors import CoordinatorNotAvailableError, GroupAuthorizationFailedError
from kafka.structs import OffsetAndMetadata, TopicPartition

from consumers.kafka.client import retry
from consumers.kafka.groups.commits import Commit, group_commits
from pipeline.errors import Unavailable, UsageError


class Broker:
    """Refuses at first, as a new Kafka does before its offsets topic exists."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)

    def list_group_offsets(self, groups: dict[str, None]) -> dict[str, dict[TopicPartition, OffsetAndMetadata]]:
        if self.refusals:
            raise self.refusals.pop(0)
        commits = {
            TopicPartition("t", 0): OffsetAndMetadata(7, "id", -1),
            TopicPartition("t", 1): OffsetAndMetadata(-1, "", -1),
        }
        return dict.fromkeys(groups, commits)

    def _list_group_offsets_requests(self, groups: dict[str, None]) -> list[Any]:
        """kafka-python's own, which is replaced."""
        raise NotImplementedError


def commits(broker: Any, deadline_s: float = retry.RETRY_S) -> dict[tuple[str, int], Commit]:
    return group_commits(broker, "group", deadline_s=deadline_s)


def test_a_group_of_a_new_kafka_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0.0)
    broker = Broker(CoordinatorNotAvailableError(), CoordinatorNotAvailableError())
    assert commits(broker) == {("t", 0): Commit(7, "id")}
    assert broker.refusals == []


def test_a_coordinator_that_never_comes_is_an_error() -> None:
    broker = Broker(CoordinatorNotAvailableError(), CoordinatorNotAvailableError())
    with pytest.raises(Unavailable, match="CoordinatorNotAvailableError"):
        commits(broker, deadline_s=0.0)
    assert len(broker.refusals) == 1


def test_a_refusal_is_raised_at_once() -> None:
    broker = Broker(GroupAuthorizationFailedError(), GroupAuthorizationFailedError())
    with pytest.raises(UsageError, match="GroupAuthorizationFailedError"):
        commits(broker)
    assert len(broker.refusals) == 1
