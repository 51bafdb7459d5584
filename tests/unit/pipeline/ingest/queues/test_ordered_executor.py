"""Tasks run concurrently up to a number, and complete in order."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.queues.ordered_executor import OrderedExecutor
from tests.support.examples import examples


def unguarded(run: Callable[[], None]) -> None:
    run()


@examples(0.4)
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

    with OrderedExecutor(width, "step", unguarded) as steps:
        for number in range(8):
            steps.submit(lambda number=number: step(number), follow)  # type: ignore[misc]
        steps.drain()
        assert followed == list(range(8))
    assert sorted(over) == list(range(8))
    assert most <= width


def test_several_run_at_a_time_and_no_more() -> None:
    """Two tasks wait for each other; submitting a third waits until one of them has ended."""
    go = [threading.Event() for _ in range(2)]
    both = threading.Barrier(2)
    submitted = threading.Event()

    def step(number: int) -> bool:
        both.wait(2)
        return go[number].wait(2)

    with OrderedExecutor(2, "step", unguarded) as steps:
        for number in range(2):
            steps.submit(lambda number=number: step(number), lambda _: None)  # type: ignore[misc]

        def third() -> None:
            steps.submit(lambda: None, lambda _: None)
            submitted.set()

        waiting = threading.Thread(target=third)
        waiting.start()
        go[1].set()
        assert not submitted.wait(0.1), "the first has not ended"
        go[0].set()
        waiting.join(2)
        assert submitted.is_set()


def test_leaving_the_block_waits_for_what_is_under_way() -> None:
    go, exited = threading.Event(), threading.Event()
    done: list[bool] = []

    def block() -> None:
        with OrderedExecutor(1, "step", unguarded) as steps:
            steps.submit(lambda: go.wait(2), done.append)
        exited.set()

    threading.Thread(target=block).start()
    assert not exited.wait(0.1)
    go.set()
    assert exited.wait(2)
    assert done == [True]


@pytest.mark.parametrize("fails", ["step", "then"])
def test_behind_an_error_nothing_follows_and_nothing_begins(fails: str) -> None:
    errors: list[str] = []
    both = threading.Barrier(2)

    def guard(run: Callable[[], None]) -> None:
        try:
            run()
        except ValueError as error:
            errors.append(str(error))

    def failing(*_: object) -> None:
        raise ValueError("no")

    def first() -> None:
        both.wait(2)
        if fails == "step":
            failing()

    followed: list[int] = []
    with OrderedExecutor(2, "step", guard) as steps:
        steps.submit(first, failing)
        steps.submit(lambda: both.wait(2), followed.append)
        steps.drain()
        steps.submit(lambda: followed.append(3), lambda _: None)
    assert errors == ["no"]
    assert followed == []
