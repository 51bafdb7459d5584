"""What follows the end of a worker, and the pause before its next start."""

import signal

import pytest

from consumers.supervisor.restarts import STEADY_S, TOO_MANY_REJECTED, Pauses, code_after_stop, exit_code, outcome
from pipeline.errors import MilvusStreamError, Mismatch, OffsetsLost, Unavailable, UsageError


@pytest.mark.parametrize("code", [MilvusStreamError.exit_code, Unavailable.exit_code, 130, -signal.SIGKILL, -11])
def test_what_may_pass_is_started_again(code: int) -> None:
    assert outcome(code, until_caught_up=False) == "restart"
    assert outcome(code, until_caught_up=True) == "restart"


@pytest.mark.parametrize("code", [UsageError.exit_code, Mismatch.exit_code, OffsetsLost.exit_code, TOO_MANY_REJECTED])
def test_what_a_restart_would_repeat_ends_all(code: int) -> None:
    assert outcome(code, until_caught_up=False) == "final"
    assert outcome(code, until_caught_up=True) == "final"


def test_a_good_end_is_the_end_only_of_a_run_that_has_one() -> None:
    assert outcome(0, until_caught_up=True) == "finished"
    assert outcome(0, until_caught_up=False) == "restart"


def test_codes_of_the_whole() -> None:
    assert [exit_code(code) for code in (2, 4, TOO_MANY_REJECTED, -signal.SIGKILL)] == [2, 4, 1, 137]
    assert [code_after_stop(code) for code in (0, -signal.SIGTERM, 1, -signal.SIGKILL)] == [0, 0, 1, 137]


def test_pauses_double_to_a_minute_and_begin_again_after_a_steady_run() -> None:
    pauses = Pauses()
    assert [pauses.after(1.0, 1.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pauses.after(STEADY_S - 0.1, 1.0) == 60
    assert pauses.after(STEADY_S, 1.0) == 1
    assert pauses.after(1.0, 1.0) == 2
