"""Token buckets by a clock that the test moves."""

import pytest

from consumers.query.access.rates import Rates
from tests.support.rigs.search import Clock


def test_a_bucket_holds_one_second_and_fills_at_its_rate() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert [rates.take("a", 5) for _ in range(5)] == [0.0] * 5
    assert rates.take("a", 5) == pytest.approx(0.2)
    clock.now += 0.2
    assert rates.take("a", 5) == 0.0
    assert rates.take("a", 5) > 0
    clock.now += 3_600
    assert [rates.take("a", 5) for _ in range(6)][:5] == [0.0] * 5
    assert rates.take("a", 5) > 0, "an hour without requests is no credit for an hour"


@pytest.mark.parametrize("rate", [0.001, 0.1, 1 / 3, 0.7])
def test_a_slow_key_gets_its_token_after_the_wait_that_was_named(rate: float) -> None:
    clock = Clock()
    rates = Rates(clock)
    assert rates.take("a", rate) == 0.0
    for _ in range(20):
        wait_s = rates.take("a", rate)
        assert wait_s > 0
        clock.now += wait_s
        assert rates.take("a", rate) == 0.0


def test_keys_do_not_share_a_bucket_and_a_new_rate_counts_at_once() -> None:
    rates = Rates(Clock())
    assert rates.take("a", 1) == 0.0
    assert rates.take("b", 1) == 0.0
    assert rates.take("a", 1) > 0
    assert rates.take("a", 10) == 0.0


def test_buckets_of_keys_that_are_gone_are_forgotten() -> None:
    rates = Rates(Clock())
    for number in range(10):
        rates.take(str(number), 1)
    rates.keep({"1"})
    assert rates.take("1", 1) > 0
    assert rates.take("2", 1) == 0.0
