"""Several workers over one Milvus: never durable too early, however their calls interleave, and durable in the end."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.rigs.flushing import INTERVAL_S, Cluster, Worker, group

STEPS = 300
USUAL = ["go"] * 12 + ["ack"] * 3 + ["pass"] * 5
TROUBLE = ["finish", "request", "elect", "depose", "refused", "late", "lost answer", "arrive", "arrive", "lose", "long"]


def apply(random: Random, cluster: Cluster, workers: list[Worker], step: str) -> None:
    worker = random.choice(workers)
    match step:
        case "go":
            worker.go()
        case "finish":
            worker.finish()
        case "ack":
            worker.ack()
        case "pass":
            cluster.now += random.uniform(0, 5)
        case "long":
            cluster.now += random.uniform(0, 5) * INTERVAL_S
        case "request":
            worker.flusher.request()
        case "elect" | "depose":
            worker.leads = step == "elect"
        case "arrive":
            if cluster.late:
                cluster.late.pop(random.randrange(len(cluster.late)))()
        case "lose":
            cluster.lose(random.randrange(5))
        case _:
            worker.api.trouble = step


@examples(3)
@given(
    st.randoms(use_true_random=True),
    st.sampled_from((0.0, 0.02, 0.1)),
    st.sampled_from((None, 0, 1, 2)),
    st.booleans(),
)
def test_never_too_early_and_in_the_end_all_of_it(
    random: Random, trouble: float, leader: int | None, leader_has_work: bool
) -> None:
    with group(True, False, False) as (cluster, workers):
        for _ in range(STEPS):
            apply(random, cluster, workers, random.choice(TROUBLE if random.random() < trouble else USUAL))
        for number, worker in enumerate(workers):
            worker.leads, worker.api.trouble = number == leader, ""
            worker.ack()
        last = [len(worker.acked) for worker in workers]
        until = cluster.now + 10 * INTERVAL_S
        while cluster.now < until:
            cluster.now += 1
            for number, worker in enumerate(workers):
                if leader_has_work or number != leader:
                    worker.ack()
                worker.finish()
        for worker, acked in zip(workers, last, strict=True):
            assert worker.durable >= set(range(acked)), (worker.rounds, worker.flusher.pending())


@examples(0.3)
@given(st.randoms(use_true_random=True), st.integers(0, 2))
def test_only_the_leader_flushes(random: Random, leader: int) -> None:
    with group(*(number == leader for number in range(3))) as (cluster, workers):
        began = cluster.now
        while cluster.now < began + 30 * INTERVAL_S:
            cluster.now += random.uniform(0, 5)
            for worker in random.sample(workers, 3):
                worker.ack()
                worker.finish()
        assert 15 <= len(workers[leader].rounds) <= 31
        for number, worker in enumerate(workers):
            assert number == leader or worker.api.flushes == 0
            assert worker.flusher.pending() < 5 * INTERVAL_S


@examples(2)
@given(st.randoms(use_true_random=True), st.sampled_from((0.0, 0.02, 0.1)))
def test_positions_and_losses_of_power(random: Random, trouble: float) -> None:
    """A position is durable when its row was flushed; what was lost is durable only after it was written again."""
    with group(True, False, False, positions=True) as (cluster, workers):
        for _ in range(STEPS):
            step = random.choice(TROUBLE if random.random() < trouble else USUAL)
            apply(random, cluster, workers, step)
            if step == "lose":
                for worker in workers:
                    worker.lose_connection()
        for number, worker in enumerate(workers):
            worker.leads, worker.api.trouble = number == 0, ""
            worker.ack()
        last = [len(worker.acked) for worker in workers]
        until = cluster.now + 10 * INTERVAL_S
        while cluster.now < until:
            cluster.now += 1
            for worker in workers:
                worker.ack()
                worker.finish()
        for worker, acked in zip(workers, last, strict=True):
            assert worker.durable >= set(range(acked)), (worker.rounds, worker.flusher.pending())
            assert worker.positions[-1] >= acked


def test_a_position_that_only_dead_letters_moved_is_written_and_flushed() -> None:
    with group(True, positions=True) as (cluster, (worker,)):
        worker.acked[0] = cluster.event()  # confirmed by the dead-letter topic: no receipt of Milvus comes
        worker.hand_over()
        cluster.now += 2 * INTERVAL_S
        worker.finish()
        assert worker.positions == [1]
        flushes = worker.api.flushes
        cluster.now += 2 * INTERVAL_S
        worker.finish()
        assert worker.api.flushes == flushes, "nothing is new"


def test_with_ack_a_position_is_written_once_a_second_and_not_flushed_for() -> None:
    with group(True, durability="ack", positions=True) as (cluster, (worker,)):
        for _ in range(5):
            worker.ack()
            worker.finish()
            cluster.now += 0.25
        cluster.now += 1
        worker.finish()
        assert worker.api.flushes == 0
        assert 1 <= len(worker.written) <= 3
