"""The plan is the fastest of a few short trials."""

from collections.abc import Callable

import pytest

from pipeline.embedding.engine.batch_runner import BatchPlan
from pipeline.embedding.loading.autotune import CPU_BUDGET, GPU_BUDGET, tune_cpu, tune_gpu

CORES = 4


class Machine:
    """Runs plans at given rates on a clock of its own."""

    def __init__(self, speed: Callable[[BatchPlan], float | None]) -> None:
        self._speed = speed
        self.now = 0.0
        self.tried: list[BatchPlan] = []

    def rate(self, plan: BatchPlan) -> float | None:
        self.tried.append(plan)
        speed = self._speed(plan)
        self.now += plan.token_budget * max(plan.workers, plan.threads) / (speed or 1e9)
        return speed

    def tune(self, budget: int | None = None, cores: int = CORES) -> BatchPlan:
        return tune_cpu(self.rate, cores, budget, clock=lambda: self.now)


def by_budget(rates: dict[int, float], together: float = 0.0) -> Callable[[BatchPlan], float]:
    def speed(plan: BatchPlan) -> float:
        return together if plan.threads > 1 else rates.get(plan.token_budget, 1.0)

    return speed


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({512: 50e3, 1024: 50e3, 2048: 50e3}, 1024),
        ({512: 50e3, 1024: 50e3, 2048: 52e3}, 1024),  # within what trials scatter
        ({512: 60e3, 1024: 50e3, 2048: 40e3}, 512),
        ({512: 40e3, 1024: 50e3, 2048: 60e3, 4096: 55e3}, 2048),
        ({512: 40e3, 1024: 50e3, 2048: 60e3, 4096: 70e3, 8192: 90e3}, 4096),
    ],
)
def test_a_budget_is_changed_for_one_that_is_clearly_faster(rates: dict[int, float], best: int) -> None:
    assert Machine(by_budget({64: 20e3} | rates)).tune(cores=1) == BatchPlan(best, 1, 1)


def test_budgets_stay_small_where_many_passes_run_at_a_time() -> None:
    machine = Machine(by_budget({64: 20e3, 512: 40e3, 1024: 50e3, 2048: 90e3}))
    assert machine.tune(cores=4) == BatchPlan(1024, 4, 1)
    assert machine.tune(cores=2) == BatchPlan(2048, 2, 1)


@pytest.mark.parametrize(("together", "threads"), [(45e3, 1), (55e3, 1), (70e3, 4)])
def test_one_pass_with_many_threads_has_to_be_clearly_faster(together: float, threads: int) -> None:
    plan = Machine(by_budget({64: 20e3, 512: 40e3, 1024: 50e3, 2048: 40e3}, together)).tune()
    assert plan == BatchPlan(1024, CORES // threads, threads)


def test_a_budget_set_by_hand_stays_and_threads_are_still_measured() -> None:
    machine = Machine(by_budget({64: 20e3, 300: 50e3}, together=90e3))
    assert machine.tune(300) == BatchPlan(300, 1, CORES)
    assert {plan.token_budget for plan in machine.tried} == {64, 300}


def test_a_trial_that_was_disturbed_is_made_again_before_another_plan_is_preferred() -> None:
    rates = {64: 20e3, 512: 52e3, 1024: 50e3, 2048: 40e3}
    machine = Machine(lambda plan: 30e3 if len(machine.tried) == 2 else rates[plan.token_budget])
    assert machine.tune(cores=1) == BatchPlan(1024, 1, 1)


def test_a_slow_model_is_not_tried_for_long() -> None:
    machine = Machine(by_budget({}, together=1e9))
    machine._speed = lambda _: 2000.0
    assert machine.tune() == BatchPlan(CPU_BUDGET, CORES, 1)
    assert len(machine.tried) == 2
    assert machine.now < 3


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ([1.0, 1.9, 3.0, 3.1], 65_536),
        ([1.0, 1.01], 16_384),
        ([1.0, 2.0, None], 32_768),
        ([None], 16_384),  # what it then holds is learned while running
        ([float(2**step) for step in range(12)], 1_048_576),
    ],
)
def test_on_a_gpu_batches_double_until_nothing_is_gained(rates: list[float | None], best: int) -> None:
    machine = Machine(lambda plan: rates[(plan.token_budget // GPU_BUDGET).bit_length() - 1])
    assert tune_gpu(machine.rate, None) == BatchPlan(best)


def test_on_a_gpu_a_budget_set_by_hand_is_not_tried() -> None:
    machine = Machine(lambda _: 1.0)
    assert tune_gpu(machine.rate, 5000) == BatchPlan(5000)
    assert machine.tried == []
