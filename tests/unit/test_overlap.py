"""Steps run beside each other, at most so many, and end in order."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.overlap import Overlap


def unguarded(run: Callable[[], None]) -> None:
    run()


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 4), order=st.permutations(range(8)))
def test_what_follows_is_in_order_whichever_step_ends_first(width: int, order: list[int]) -> None:
    """Once all have begun that can, the one of them that comes first in `order` ends."""
    changed = threading.Condition()
    begun: set[int] = set()
    over: list[int] = []
    followed: list[int] = []
    most = 0

    def step(number: int) -> int:
        nonlocal most
        with changed:
            begun.add(number)
            most = max(most, len(begun) - len(over))
            changed.notify_all()
            assert changed.wait_for(
                lambda: (
                    len(begun) == min(8, len(followed) + width) and number == min(begun - set(over), key=order.index)
                ),
                2,
            )
            over.append(number)
            changed.notify_all()
        return number

    def follow(number: int) -> None:
        with changed:
            followed.append(number)
            changed.notify_all()

    with Overlap(width, "step", unguarded) as steps:
        for number in range(8):
            steps.submit(lambda number=number: step(number), follow)  # type: ignore[misc]
        steps.finish()
        assert followed == list(range(8))
    assert sorted(over) == list(range(8))
    assert most <= width


def test_several_run_at_a_time_and_no_more() -> None:
    """Each waits for the other; a third finds no room."""
    both, third = threading.Barrier(3, timeout=10), threading.Event()
    with Overlap(2, "step", unguarded) as steps:
        for _ in range(2):
            steps.submit(both.wait, lambda _: None)
        waiting = threading.Thread(target=lambda: steps.submit(third.set, lambda _: None))
        waiting.start()
        assert not third.is_set()
        both.wait()
        waiting.join(10)
        steps.finish()
    assert third.is_set()


def test_leaving_the_block_waits_for_what_is_under_way() -> None:
    go = threading.Event()
    done: list[bool] = []
    with Overlap(1, "step", unguarded) as steps:
        steps.submit(lambda: go.wait(10), done.append)
        go.set()
    assert done == [True]


@pytest.mark.parametrize("fails", ["step", "then"])
def test_an_error_is_the_guards_and_holds_up_nobody(fails: str) -> None:
    errors: list[str] = []

    def guard(run: Callable[[], None]) -> None:
        try:
            run()
        except ValueError as error:
            errors.append(str(error))

    def failing(*_: object) -> None:
        raise ValueError("no")

    followed: list[int] = []
    with Overlap(2, "step", guard) as steps:
        steps.submit(failing if fails == "step" else lambda: None, failing)
        steps.submit(lambda: 7, followed.append)
        steps.finish()
    assert errors == ["no"]
    assert followed == [7]
