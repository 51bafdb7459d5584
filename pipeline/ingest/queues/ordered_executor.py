"""An executor that runs several tasks at a time and completes them in order."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class OrderedExecutor:
    """Runs up to `width` tasks concurrently and calls their completion handlers in the order of submission.

    After the first failure no further task starts and no later handler runs. One thread submits. Leaving the `with`
    block waits for the tasks that run.
    """

    def __init__(self, width: int, name: str, guard: Callable[[Callable[[], None]], None]) -> None:
        """`guard` runs a callable and handles what it raises; `name` is the prefix of the thread names."""
        self._width = width
        self._guard = guard
        self._pool = ThreadPoolExecutor(width, thread_name_prefix=name)
        self._running: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]) -> None:
        self._pool.shutdown()

    def wait_for_slot(self) -> None:
        """Wait until one more task can start."""
        self._wait_until_running(self._width - 1)

    def drain(self) -> None:
        """Wait until no task runs."""
        self._wait_until_running(0)

    def submit(self, task: Callable[[], T], then: Callable[[T], None]) -> None:
        """Start the task as soon as there is a slot; `then` takes its result, after the handlers of earlier tasks."""
        self.wait_for_slot()
        if self._failed:
            return
        before = self._running[-1] if self._running else None

        def run() -> None:
            try:
                result = task()
                if before is not None:
                    before.result()
                if not self._failed:
                    then(result)
            except BaseException:
                self._failed = True
                raise

        self._running.append(self._pool.submit(self._guard, run))

    def _wait_until_running(self, count: int) -> None:
        while len(self._running) > count:
            self._running.popleft().result()
