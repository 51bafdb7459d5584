"""The waits of a backoff double up to a cap, and jitter stays within their upper half."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backoff import Backoff


@pytest.mark.parametrize(("failures", "wait"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (10_000, 30.0)])
def test_the_wait_doubles_up_to_the_cap(failures: int, wait: float) -> None:
    assert Backoff(0.5, 30.0).delay_s(failures, 1.0) == wait


@given(
    first=st.floats(0.001, 10),
    cap=st.floats(0.001, 1000),
    failures=st.integers(1, 10_000),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_jitter_keeps_at_least_half_of_the_wait(first: float, cap: float, failures: int, jitter: float) -> None:
    backoff = Backoff(first, cap)
    whole = backoff.delay_s(failures, 1.0)
    assert whole / 2 <= backoff.delay_s(failures, jitter) <= whole <= cap
