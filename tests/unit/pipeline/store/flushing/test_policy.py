"""When a flush is due, and when a worker takes over."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.store.flushing.policy import FlushNeed, FlushPolicy, flush_spacing_s
from pipeline.store.milvus.api import ServerInfo

POLICY = FlushPolicy(interval_s=30.0, rows=1500)
BEGAN = 1000.0
WAITING = FlushNeed(last_began=BEGAN, waiting=True, rows=10)


def test_nothing_acknowledged_is_never_flushed() -> None:
    idle = FlushNeed(last_began=BEGAN)
    assert POLICY.due_at(idle, 0.0) is None
    assert POLICY.due_at(replace(idle, closing=True), 0.0) is None


def test_flushes_are_an_interval_apart() -> None:
    assert POLICY.due_at(WAITING, 0.0) == BEGAN + 30.0
    assert POLICY.due_at(WAITING, 60.0) == BEGAN + 60.0


@pytest.mark.parametrize("pressing", [{"requested": True}, {"rows": 1500}])
def test_what_is_pressing_waits_only_for_what_the_server_allows(pressing: dict[str, int]) -> None:
    state = replace(WAITING, **pressing)  # type: ignore[arg-type]
    assert POLICY.due_at(state, 10.0) == BEGAN + 10.0
    assert POLICY.due_at(state, 0.0) == BEGAN


def test_fewer_rows_are_not_pressing_nor_any_number_without_a_limit() -> None:
    assert POLICY.due_at(replace(WAITING, rows=1499), 0.0) == BEGAN + 30.0
    assert FlushPolicy(interval_s=30.0).due_at(replace(WAITING, rows=10**9), 0.0) == BEGAN + 30.0


def test_closing_flushes_at_once() -> None:
    assert POLICY.due_at(replace(WAITING, closing=True), 10.0) == BEGAN


@given(st.floats(0, 0.999), st.integers(0, 60))
def test_failures_wait_longer_and_longer(jitter: float, earlier: int) -> None:
    state = replace(WAITING, failures=earlier)
    failed = POLICY.after_failure(state, 5000.0, jitter=jitter)
    assert failed.failures == earlier + 1
    wait = failed.not_before - 5000.0
    assert min(30.0, 2.0**earlier) / 2 - 1e-6 <= wait <= 30.0
    assert POLICY.due_at(failed, 10.0) == failed.not_before
    # Also where nothing new was acknowledged: the receipts in hand are not durable yet.
    assert POLICY.due_at(replace(failed, waiting=False), 10.0) == failed.not_before


def test_while_closing_the_wait_stays_short() -> None:
    failed = POLICY.after_failure(replace(WAITING, failures=20, closing=True), 0.0, jitter=0.9)
    assert failed.not_before <= 1.0


@pytest.mark.parametrize(
    ("version", "lite", "spacing"),
    [
        ((2, 3, 5), False, 0.0),
        ((2, 4, 0), False, 10.0),
        ((3, 0, 1), False, 10.0),
        ((3, 2, 2), True, 0.0),
        ((0, 0, 0), False, 10.0),
    ],
)
def test_spacing_by_server(version: tuple[int, int, int], lite: bool, spacing: float) -> None:
    assert flush_spacing_s(ServerInfo("x", version, lite)) == spacing


@pytest.mark.parametrize("wrong", [{"interval_s": 0.0}, {"rows": 0}])
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="write"):
        FlushPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("waited", "silent", "spacing", "taken_over"),
    [
        (2.9, 2.9, 0.0, False),
        (3.1, 3.1, 0.0, True),
        (3.1, 0.5, 0.0, False),
        (5.9, 0.5, 0.0, False),
        (6.1, 0.5, 0.0, True),
        (5.0, 5.0, 2.0, False),
        (6.1, 6.1, 2.0, True),
    ],
)
def test_when_another_worker_is_no_longer_waited_for(
    waited: float, silent: float, spacing: float, taken_over: bool
) -> None:
    now, seconds = 1000.0, 7.0
    policy = FlushPolicy(interval_s=seconds)
    since, announced = now - waited * seconds, now - silent * seconds
    assert policy.must_take_over(since, announced, now, spacing * seconds) == taken_over
