import threading

import pytest

from pipeline.errors import Stopped
from pipeline.ingest.queues.bounded_queue import BoundedQueue
from tests.support.waiting import eventually


def test_items_leave_in_order_and_none_says_the_end() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    for item in range(3):
        queue.put(item)
    queue.close()
    assert [queue.get() for _ in range(4)] == [0, 1, 2, None]


def test_put_waits_while_the_lane_is_full() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(1)
    thread = threading.Thread(target=queue.put, args=(2,))
    thread.start()
    assert queue.get_ready(int) == 1
    assert queue.get() == 2
    thread.join(5)
    assert not thread.is_alive()


def test_get_ready_takes_only_the_kind_wanted() -> None:
    queue: BoundedQueue[int | str] = BoundedQueue()
    assert queue.get_ready(int) is None
    queue.put("barrier")
    queue.put(1)
    assert queue.get_ready(int) is None
    assert queue.get() == "barrier"
    assert queue.get_ready(int) == 1


def test_an_item_put_back_is_the_next_one_also_where_the_queue_is_full_or_closed() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    full = []
    for item in (1, 2):
        queue.put(item)
        full.append(queue.full)
    assert full == [False, True]
    queue.put_back(0)
    queue.close()
    assert [queue.get() for _ in range(4)] == [0, 1, 2, None]


def test_nothing_is_put_back_after_the_end() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.abort()
    with pytest.raises(Stopped):
        queue.put_back(0)


@pytest.mark.parametrize("side", ["put", "get"])
def test_abort_wakes_a_waiting_thread_with_stopped(side: str) -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            if side == "put":
                queue.put(1)
                queue.put(2)
            else:
                queue.get()
        except Stopped as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(thread.is_alive)
    queue.abort()
    thread.join(5)
    assert len(outcome) == 1
