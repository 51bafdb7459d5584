"""Where a worker's processor time goes, thread by thread, and how fast it stores once it runs."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_EVERY_S = 0.1
_LOOKS_AT_THREADS = 3
"""Times between two of them: each costs over a millisecond, which the worker lacks."""
NATIVE = "native"
"""Threads that libraries start themselves, which keep the process's name: OpenVINO runs the model in such ones."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WARM_UP, _RUN_OUT = 0.1, 0.9
"""Shares of the records between which the rate is steady: all stages have work."""


class StageClock:
    """Watches this process from a thread of its own for as long as the block runs."""

    def __init__(self, done: Callable[[], int], records: int) -> None:
        self._done = done
        self._records = records
        self._before = _threads()
        self._seen: dict[tuple[int, str], float] = {}
        self._progress: list[tuple[float, int, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stage-clock", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]) -> None:
        self._ended.set()
        self._thread.join()
        self._seen.update(_threads())

    def _watch(self) -> None:
        for number in count():
            if number % _LOOKS_AT_THREADS == 0:
                # A thread that has ended keeps what it had used when it was seen last.
                self._seen.update(_threads())
            if self._ended.wait(_EVERY_S):
                break
            self._progress.append((time.perf_counter(), self._done(), time.process_time()))

    def figures(self) -> dict[str, Any]:
        """`steady_rate` in records/s, `steady_cores` used by the process, and `threads`: processor seconds by name;
        `progress`: how many were done when, by the clock that all processes of this machine share."""
        used: defaultdict[str, float] = defaultdict(float)
        for thread, total in self._seen.items():
            used[thread[1]] += max(0.0, total - self._before.get(thread, 0.0))
        low, high = _WARM_UP * self._records, _RUN_OUT * self._records
        steady = [sample for sample in self._progress if low <= sample[1] <= high]
        figures: dict[str, Any] = {"threads": {name: round(s, 2) for name, s in _largest_first(used) if s >= 0.05}}
        if len(steady) > 1 and steady[-1][1] > steady[0][1]:
            # From one step of the count to another: within a step it says nothing.
            last = next(sample for sample in steady if sample[1] == steady[-1][1])
            seconds = last[0] - steady[0][0]
            figures["steady_rate"] = (last[1] - steady[0][1]) / seconds
            figures["steady_cores"] = (last[2] - steady[0][2]) / seconds
        figures["progress"] = [(at, done) for at, done, _ in self._progress]
        return figures


def _largest_first(used: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(used.items(), key=lambda item: -item[1])


def _threads() -> dict[tuple[int, str], float]:
    """Processor seconds of every thread of this process, by number and name (numbers of ended threads are reused)."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    process = Path("/proc/self/comm").read_text().removesuffix("\n")
    found = {}
    for task in Path("/proc/self/task").iterdir():
        number = int(task.name)
        try:
            fields = (task / "stat").read_text()
        except OSError:  # it has ended
            continue
        own, _, rest = fields.partition("(")[2].rpartition(")")
        name = names.get(number, NATIVE if own == process else own)
        user, system = rest.split()[11:13]
        found[number, _grouped(name)] = (int(user) + int(system)) / _TICKS_PER_S
    return found


def _grouped(name: str) -> str:
    """The numbered threads of a pool, and threads without a name of their own, are one entry each."""
    if name == "MainThread":
        return "poll and commit"
    return name.rstrip("0123456789").rstrip("_- ") or name
