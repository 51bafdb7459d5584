import threading

import pytest

from pipeline.errors import Stopped
from pipeline.ingest.bounded_queue import BoundedQueue
from tests.support.waiting import eventually


def test_items_leave_in_order_and_none_says_the_end() -> None:
    lane: BoundedQueue[int] = BoundedQueue()
    for item in range(3):
        lane.put(item)
    lane.close()
    assert [lane.get() for _ in range(4)] == [0, 1, 2, None]


def test_put_waits_while_the_lane_is_full() -> None:
    lane: BoundedQueue[int] = BoundedQueue(1)
    lane.put(1)
    thread = threading.Thread(target=lane.put, args=(2,))
    thread.start()
    assert lane.get_ready(int) == 1
    assert lane.get() == 2
    thread.join(5)
    assert not thread.is_alive()


def test_get_ready_takes_only_the_kind_asked_for() -> None:
    lane: BoundedQueue[int | str] = BoundedQueue()
    assert lane.get_ready(int) is None
    lane.put("barrier")
    lane.put(1)
    assert lane.get_ready(int) is None
    assert lane.get() == "barrier"
    assert lane.get_ready(int) == 1


@pytest.mark.parametrize("side", ["put", "get"])
def test_abort_wakes_a_waiting_thread_with_stopped(side: str) -> None:
    lane: BoundedQueue[int] = BoundedQueue(1)
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            if side == "put":
                lane.put(1)
                lane.put(2)
            else:
                lane.get()
        except Stopped as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(thread.is_alive)
    lane.abort()
    thread.join(5)
    assert len(outcome) == 1
