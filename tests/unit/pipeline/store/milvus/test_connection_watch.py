"""When a connection counts as lost."""

from dataclasses import dataclass

import grpc  # type: ignore[import-untyped]
import pytest

from pipeline.store.milvus.connection_watch import ConnectionWatch


@dataclass
class State:
    name: str


class Failed(grpc.RpcError):  # type: ignore[misc]
    def __init__(self, status: grpc.StatusCode) -> None:
        self.status = status

    def code(self) -> grpc.StatusCode:
        return self.status


@dataclass
class Code(Exception):
    code: int
    message: str


class Counted:
    def __init__(self) -> None:
        self.watch = ConnectionWatch()
        self.losses = 0
        self.watch.on_lost(self._count)

    def _count(self) -> None:
        self.losses += 1

    def see(self, *names: str) -> None:
        for name in names:
            self.watch.state_changed(State(name))


def test_an_idle_connection_that_breaks_is_lost_and_one_that_is_made_is_not() -> None:
    counted = Counted()
    counted.see("IDLE", "CONNECTING", "READY")
    assert counted.losses == 0
    counted.see("IDLE")
    assert counted.losses == 1


@pytest.mark.parametrize("nested", [False, True])
def test_a_call_whose_connection_broke_is_a_loss(nested: bool) -> None:
    counted = Counted()
    error: Exception = Failed(grpc.StatusCode.UNAVAILABLE)
    if nested:  # as pymilvus raises it, when it could not connect again
        outer = Code(2, "Fail connecting to server")
        outer.__context__ = error
        error = outer
    counted.watch.failed(error)
    assert counted.losses == 1


@pytest.mark.parametrize(
    "error",
    [
        Failed(grpc.StatusCode.DEADLINE_EXCEEDED),
        Failed(grpc.StatusCode.RESOURCE_EXHAUSTED),
        Code(8, "rate limit exceeded"),
        Code(2, "service not ready"),
    ],
)
def test_refusals_and_deadlines_are_no_loss(error: Exception) -> None:
    counted = Counted()
    counted.watch.failed(error)
    assert counted.losses == 0


def test_an_outage_is_one_loss_and_the_next_answer_makes_another_possible() -> None:
    counted = Counted()
    counted.see("READY", "IDLE", "CONNECTING", "TRANSIENT_FAILURE")
    for _ in range(3):
        counted.watch.failed(Failed(grpc.StatusCode.UNAVAILABLE))
    counted.see("READY", "IDLE")
    assert counted.losses == 1
    counted.watch.answered()
    counted.see("READY", "TRANSIENT_FAILURE")
    assert counted.losses == 2


def test_a_connection_that_was_closed_is_not_lost() -> None:
    counted = Counted()
    counted.see("READY")
    counted.watch.close()
    counted.see("IDLE")
    assert counted.losses == 0
