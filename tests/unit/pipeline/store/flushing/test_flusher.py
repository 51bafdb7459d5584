"""Who flushes when there are several workers, on a clock of the test."""

from typing import Literal

import pytest

from pipeline.store.flushing.states import Idle, StandingIn, Waiting
from tests.support.rigs.flushing import INTERVAL_S, Cluster, Worker, group

LONG = 3


def run(cluster: Cluster, workers: list[Worker], intervals: float, acking: list[Worker] | None = None) -> None:
    """Time passes second by second; `acking` workers have something new all the time, all of them by default."""
    until = cluster.now + intervals * INTERVAL_S
    while cluster.now < until:
        cluster.now += 1
        for worker in workers:
            if acking is None or worker in acking:
                worker.ack()
            worker.finish()


def test_followers_commit_one_to_two_intervals_later_and_flush_nothing() -> None:
    with group(True, False, False) as (cluster, workers):
        run(cluster, workers, 4)
        for _ in range(10):
            numbers = [worker.ack() for worker in workers]
            run(cluster, workers, 2.6)
            assert all(number in worker.durable for number, worker in zip(numbers, workers, strict=True))
        assert [worker.api.flushes > 0 for worker in workers] == [True, False, False]


def test_a_worker_without_a_leader_waits_and_then_stands_in() -> None:
    with group(False) as (cluster, (worker,)):
        began = cluster.now
        states = [worker.flusher.state]
        worker.ack()
        states.append(worker.flusher.state)
        run(cluster, [worker], LONG + 1)
        assert states == [Idle(), Waiting(began, began)]
        assert isinstance(worker.flusher.state, StandingIn)


def test_a_leader_has_nothing_to_wait_for_after_its_flush() -> None:
    with group(True) as (cluster, (worker,)):
        worker.ack()
        run(cluster, [worker], 2, acking=[])
        assert worker.flusher.state == Idle()


@pytest.mark.parametrize("leader", ["idle", "refused", "nobody"])
def test_one_follower_stands_in_for_a_leader_that_announces_nothing(leader: str) -> None:
    with group(leader != "nobody", False, False) as (cluster, workers):
        first, *others = workers
        if leader == "refused":
            first.api.refuses = {"flush"}
        run(cluster, workers, LONG, acking=others)
        assert sum(len(worker.rounds) for worker in others) == 0, "too early: it may still be flushing"
        run(cluster, workers, 10, acking=others)
        rounds = [len(worker.rounds) for worker in others]
        assert min(rounds) <= 1, f"only one of them goes on, {rounds}"
        assert 8 <= max(rounds) <= 11, f"and as often as a leader would, {rounds}"
        for worker in others:
            assert worker.flusher.pending() < 4 * INTERVAL_S


def test_the_leader_is_followed_again_when_it_flushes() -> None:
    with group(True, False, False) as (cluster, workers):
        leader, *others = workers
        run(cluster, workers, 8, acking=others)
        before = [len(worker.rounds) for worker in others]
        assert sum(before) > 0
        run(cluster, workers, 2)
        settled = [len(worker.rounds) for worker in others]
        assert sum(settled) <= sum(before) + 1
        run(cluster, workers, 10)
        assert [len(worker.rounds) for worker in others] == settled
        assert len(leader.rounds) >= 10


def test_one_whose_own_flushes_are_refused_takes_them_from_another() -> None:
    with group(False, False) as (cluster, workers):
        refused, other = workers
        refused.api.refuses = {"flush"}
        number = refused.ack()
        run(cluster, [refused], 5, acking=[])
        assert ("stand_in", False) in refused.rounds
        run(cluster, workers, 8, acking=[other])
        assert number in refused.durable
        assert ("stand_in", True) not in refused.rounds


def test_flushers_that_announce_in_turns_are_not_waited_for_without_end() -> None:
    with group(True, False) as (cluster, (leader, follower)):
        number = follower.ack()
        leader.api.refuses = {"query"}  # so it starts a new count each time, and never reaches two
        run(cluster, [leader, follower], 5.5, acking=[leader])
        assert len(leader.rounds) >= 4
        assert (number in follower.durable, follower.rounds) == (False, [])
        run(cluster, [leader, follower], 1.5, acking=[leader])
        assert (number in follower.durable, follower.rounds) == (True, [("stand_in", True)])


def test_a_worker_asked_to_finish_flushes_itself_and_announces_nothing() -> None:
    with group(True, False) as (cluster, (_, follower)):
        number = follower.ack()
        follower.flusher.request()
        follower.finish()
        assert (number in follower.durable, follower.rounds) == (True, [("finishing", True)])
        assert cluster.marks() == []


def test_what_is_durable_does_not_wait_for_the_mark() -> None:
    with group(True) as (cluster, (leader,)):
        leader.api.refuses = {"upsert", "query"}
        number = leader.ack()
        run(cluster, [leader], 1.2, acking=[])
        assert (number in leader.durable, leader.rounds) == (True, [("leader", True)])
        assert cluster.marks() == []


def test_a_receipt_is_pending_while_the_marks_are_read() -> None:
    with group(False) as (_, (follower,)):
        follower.ack()
        assert follower.go(), "now it waits for an answer"
        assert follower.flusher.pending() == 1
        late = follower.ack()
        follower.finish()
        assert follower.flusher.pending() == 2
        assert late not in follower.durable


@pytest.mark.parametrize(("durability", "queries"), [("ack", False), ("flush", True)])
def test_who_waits_for_nothing_asks_for_nothing(durability: Literal["flush", "ack"], queries: bool) -> None:
    with group(True, False, durability=durability) as (cluster, workers):
        run(cluster, workers, 10)
        leader, follower = workers
        assert len(leader.rounds) >= 8
        assert follower.rounds == []
        assert (follower.api.queries > 0) == queries
        asked = follower.api.queries
        run(cluster, workers, 4, acking=[leader])
        quiet = follower.api.queries
        assert (quiet > asked) == queries
        run(cluster, workers, 5, acking=[leader])
        assert follower.api.queries == quiet, "all is durable"


# --- readiness ---------------------------------------------------------------------------------------------------


def test_a_flush_that_fails_for_three_intervals_is_a_problem_until_one_succeeds() -> None:
    with group(True) as (cluster, (leader,)):
        leader.api.refuses = {"flush"}
        leader.ack()
        run(cluster, [leader], 3, acking=[])
        assert leader.flusher.problem() is None
        run(cluster, [leader], 1, acking=[])
        assert leader.flusher.problem() == (
            "no flush has succeeded for 40 s (three times milvus.flush_interval are 30 s), so nothing written since is "
            "durable, and nothing is committed. The last error: refused"
        )
        leader.api.refuses = set()
        run(cluster, [leader], 4, acking=[])
        assert leader.durable
        assert leader.flusher.problem() is None


def test_a_flush_that_hangs_is_a_problem() -> None:
    with group(True) as (cluster, (leader,)):
        leader.ack()
        cluster.now += INTERVAL_S
        leader.go()
        cluster.now += 2.5 * INTERVAL_S
        assert "No error so far: one is under way" in str(leader.flusher.problem())


def test_a_follower_without_durable_records_names_why_it_cannot_read_the_marks() -> None:
    with group(False) as (cluster, (worker,)):
        worker.api.refuses = {"query", "flush"}
        worker.ack()
        run(cluster, [worker], 3.5, acking=[])
        assert "The last error: refused" in str(worker.flusher.problem())


@pytest.mark.parametrize("acking", [True, False])
def test_workers_without_trouble_have_no_problem_at_any_time(acking: bool) -> None:
    with group(True, False) as (cluster, workers):
        workers[1].ack()
        for _ in range(100):
            run(cluster, workers, 0.1, acking=workers if acking else [workers[0]])
            assert [worker.flusher.problem() for worker in workers] == [None, None]


def test_with_durability_ack_no_flush_is_a_problem() -> None:
    with group(True, durability="ack") as (cluster, (leader,)):
        leader.api.refuses = {"flush"}
        run(cluster, [leader], 10)
        assert leader.flusher.problem() is None


def test_what_was_dropped_waits_no_more() -> None:
    with group(True) as (cluster, (leader,)):
        leader.ack()
        cluster.now += INTERVAL_S
        leader.go()
        leader.lose_connection()
        leader.finish()
        cluster.now += 10 * INTERVAL_S
        assert leader.flusher.problem() is None
        leader.ack()
        assert leader.flusher.problem() is None
