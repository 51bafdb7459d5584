"""Steps of a stage that run several at a time and end in order."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class OrderedExecutor:
    """Runs steps in threads of its own, `width` at a time; what follows a step is done in the order of submission.

    Once a step or what follows it has failed, nothing follows those behind it, and no other step begins. One thread
    submits. Leaving the block waits for the steps under way.
    """

    def __init__(self, width: int, name: str, guard: Callable[[Callable[[], None]], None]) -> None:
        """`guard` runs what it is given and takes care of what that raises."""
        self._width = width
        self._guard = guard
        self._pool = ThreadPoolExecutor(width, thread_name_prefix=name)
        self._under_way: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]) -> None:
        self._pool.shutdown()

    def wait_for_slot(self) -> None:
        """Wait until one more step can begin."""
        self._wait(self._width - 1)

    def finish(self) -> None:
        """Wait until no step is under way."""
        self._wait(0)

    def submit(self, step: Callable[[], T], then: Callable[[T], None]) -> None:
        """Begin the step as soon as there is room; `then` gets what it returns, after those of the steps before."""
        self.wait_for_slot()
        if self._failed:
            return
        before = self._under_way[-1] if self._under_way else None

        def run() -> None:
            try:
                result = step()
                if before is not None:
                    before.result()
                if not self._failed:
                    then(result)
            except BaseException:
                self._failed = True
                raise

        self._under_way.append(self._pool.submit(self._guard, run))

    def _wait(self, left: int) -> None:
        while len(self._under_way) > left:
            self._under_way.popleft().result()
