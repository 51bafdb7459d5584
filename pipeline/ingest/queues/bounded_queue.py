"""A bounded, closable queue between two threads of a flow."""

import heapq
import threading
import time
from collections import deque
from itertools import count
from typing import Generic, TypeVar

from pipeline.errors import Stopped

T = TypeVar("T")
K = TypeVar("K")


class BoundedQueue(Generic[T]):
    """First in, first out. `put` blocks while full, `get` while empty. `abort` wakes every waiting thread with Stopped.

    `queue.Queue.shutdown` of Python 3.13 does the same.
    """

    def __init__(self, capacity: int | None = None) -> None:
        """`capacity` None: `put` never blocks."""
        self._items: deque[T] = deque()
        self._later: list[tuple[float, int, T]] = []
        """Heap of (monotonic time, number, item)."""
        self._numbers = count()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._closed = False
        self._aborted = False

    def put(self, item: T) -> None:
        """Append an item. Raises Stopped after `abort` or `close`."""
        with self._changed:
            while self._capacity is not None and len(self._items) >= self._capacity and not self._aborted:
                self._changed.wait()
            if self._aborted or self._closed:
                raise Stopped("the flow has ended")
            self._items.append(item)
            self._changed.notify_all()

    def put_later(self, item: T, delay_s: float) -> None:
        """Append the item after this time; at once if the queue is closed before. Raises as `put`; never blocks."""
        with self._changed:
            if self._aborted or self._closed:
                raise Stopped("the flow has ended")
            heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._numbers), item))
            self._changed.notify_all()

    def get(self) -> T | None:
        """Take the next item; None once the queue is closed and empty. Raises Stopped after `abort`."""
        with self._changed:
            while True:
                due_in = self._append_due()
                if self._items or self._closed or self._aborted:
                    break
                self._changed.wait(due_in)
            if self._aborted:
                raise Stopped("the flow has ended")
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def get_ready(self, kind: type[K]) -> K | None:
        """Take the next item if it is there already and of this type; never blocks."""
        with self._changed:
            item = self._items[0] if self._items and not self._aborted else None
            if not isinstance(item, kind):
                return None
            self._items.popleft()
            self._changed.notify_all()
            return item

    def put_back(self, item: T) -> None:
        """Insert an item as the next one, also where the queue is full or closed. Raises Stopped after `abort`."""
        with self._changed:
            if self._aborted:
                raise Stopped("the flow has ended")
            self._items.appendleft(item)

    @property
    def full(self) -> bool:
        """Whether `put` would block at the moment."""
        return self._capacity is not None and len(self._items) >= self._capacity

    def _append_due(self) -> float | None:
        """Append the delayed items whose time has come; returns the seconds until the next one, None without one."""
        now = time.monotonic()
        while self._later and (self._closed or self._later[0][0] <= now):
            self._items.append(heapq.heappop(self._later)[2])
        return self._later[0][0] - now if self._later else None

    def close(self) -> None:
        """Accept no more items; those inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Drop the items and wake every waiting thread with Stopped."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._later.clear()
            self._changed.notify_all()
