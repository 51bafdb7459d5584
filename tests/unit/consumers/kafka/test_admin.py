"""What is asked of Kafka without joining the group."""

from typing import Any

import pytest
from kafka.errors import CoordinatorNotAvailableError, GroupAuthorizationFailedError

from consumers.kafka import admin


class Broker:
    """Answers for a group as a new Kafka does: not before the topic of offsets stands."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)

    def list_group_offsets(self, asked: dict[str, None]) -> dict[str, dict[str, int]]:
        if self.refusals:
            raise self.refusals.pop(0)
        return {group: {"offsets": 7} for group in asked}


def committed(broker: Any) -> Any:
    return admin._committed(broker, "group")


def test_a_group_of_a_new_kafka_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_COORDINATOR_PAUSE_S", 0.0)
    broker = Broker(CoordinatorNotAvailableError(), CoordinatorNotAvailableError())
    assert committed(broker) == {"offsets": 7}
    assert broker.refusals == []


def test_a_coordinator_that_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_COORDINATOR_S", 0.0)
    with pytest.raises(CoordinatorNotAvailableError):
        committed(Broker(CoordinatorNotAvailableError()))


def test_a_refusal_is_told_at_once() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        committed(Broker(GroupAuthorizationFailedError()))
